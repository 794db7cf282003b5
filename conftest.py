"""What the doctests of the source have at hand, and how many threads everything runs on."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

import xent

# Small tensors gain nothing from threads, and on a busy machine every one of torch's parallel regions waits for its
# slowest thread: 20 times as long with two other programs on two cores. What threads may change has its own tests.
torch.set_num_threads(1)


if find_spec("triton") is None:  # the doctests of the source import every module
    collect_ignore_glob = ["src/xent/backends/triton/*"]


@pytest.fixture(autouse=True)
def names_for_doctests(doctest_namespace):
    doctest_namespace.update(torch=torch, F=F, xent=xent)
