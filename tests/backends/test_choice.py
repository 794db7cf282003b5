"""Which backend serves, and what is said where none does."""

import pytest
import torch

from xent import DeviceError, backends


def test_the_cpu_is_served_and_so_is_what_has_float64():
    assert backends.choose(torch.device("cpu")).serves(torch.device("cpu")) is None
    assert backends.refusals(torch.device("cuda"))["reference"] is None


def test_a_device_without_float64_is_refused_with_the_reasons_and_a_cure():
    with pytest.raises(DeviceError, match=r"(?s)no backend serves mps.*reference +float64.*logits\.cpu"):
        backends.choose(torch.device("mps"))
