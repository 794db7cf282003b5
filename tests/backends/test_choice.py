"""Which backend serves, and what is said where none does."""

import inspect

import pytest
import torch

from xent import DeviceError, backends
from xent.backends import contract


def test_the_cpu_is_served_and_so_is_what_has_float64():
    assert backends.choose(torch.device("cpu")).serves(torch.device("cpu")) is None
    assert backends.refusals(torch.device("cuda"))["reference"] is None


def test_a_device_without_float64_is_refused_with_the_reasons_and_a_cure():
    with pytest.raises(DeviceError, match=r"(?s)no backend serves mps.*reference +float64.*logits\.cpu"):
        backends.choose(torch.device("mps"))


OWED = sorted(name for name in vars(contract.Backend) if not name.startswith("_") and name != "name")


@pytest.mark.parametrize("backend", backends.TABLE, ids=lambda backend: backend.name)
@pytest.mark.parametrize("function", OWED)
def test_every_backend_has_what_the_contract_owes(backend, function):
    """With the names of its arguments, in their order."""
    owed, given = (list(inspect.signature(getattr(home, function)).parameters) for home in (contract.Backend, backend))
    assert [name for name in given if name != "self"][: len(owed) - 1] == owed[1:]
