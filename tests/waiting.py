"""What makes the host wait for a GPU, forbidden on CPU tensors: values of a tensor asked for by the host."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

VALUES = ("item", "tolist", "nonzero", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "masked_select")
"""Of a tensor; each of them waits for what computes it."""


@contextmanager
def forbidden() -> Iterator[None]:
    """Nothing but a kernel may look at the values of tensors in here."""
    from xent.backends.triton.launch import Launch

    def refuse(name):
        def method(*arguments, **options):
            raise AssertionError(f"the host waits for Tensor.{name}")

        return method

    with pytest.MonkeyPatch.context() as patch:

        def launch(self, *arguments):
            with patch.context() as allowed:
                for name, method in had.items():
                    allowed.setattr(torch.Tensor, name, method)
                run(self, *arguments)

        had, run = {name: getattr(torch.Tensor, name) for name in VALUES}, Launch.__call__
        patch.setattr(Launch, "__call__", launch)
        for name in VALUES:
            patch.setattr(torch.Tensor, name, refuse(name))
        yield
