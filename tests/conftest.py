"""What every test starts from, and the backends that many of them take in turn."""

import os
from importlib.util import find_spec

import pytest
import torch

if not torch.cuda.is_available() and find_spec("triton"):  # its kernels then run on the CPU, in numpy
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
    from .interpreter import mend, watch_launches

    mend()
    watch_launches()

from xent import backends

CPU = torch.device("cpu")
SERVING = {backend.name: backend for backend in backends.TABLE if backend.serves(CPU) is None}
"""The backends that serve CPU tensors here; native is among them where it was compiled."""


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.long] * (name == "triton")) for name in SERVING])
def backend(request, monkeypatch):
    """Each backend in turn, as the one that is chosen. Triton's interpreter is slow; `test_triton` has short cases."""
    take_in_turn(request.param, monkeypatch)
    return SERVING[request.param]


def take_in_turn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one backend that is chosen until the test ends."""
    monkeypatch.setattr(backends, "TABLE", (SERVING[name],))
    if name == "triton":  # a program takes the interpreter as long with one row as with many
        from xent.backends.triton import cut, programs

        monkeypatch.setattr(cut, "PROGRAMS", 1)
        programs.forget()


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers for a test, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture
def assert_within_ulps():
    """Every element lies within so many ulp, of its own dtype and place, of what float64 gave."""
    return _assert_within_ulps


def _assert_within_ulps(
    got: torch.Tensor, want: torch.Tensor, allowed: float, noise: float = 1e-15, size: torch.Tensor | None = None
) -> None:
    """nan and inf must agree; `noise` is what float64 itself may be off by, for a largest element of 1.

    Where `want` is a difference of numbers as large as `size`, the ulp is that of `size`; in 16 bits it is its own,
    and three float32 ulp of `size` are allowed besides.
    """
    assert got.shape == want.shape
    assert want.dtype is torch.float64
    limit = torch.finfo(got.dtype)
    rounded, have = want.to(got.dtype).double(), got.double()
    special = ~rounded.isfinite() | (want.abs() > limit.max)
    torch.testing.assert_close(have[special], rounded[special], rtol=0, atol=0, equal_nan=True)
    have, want = have[~special], want[~special]
    size = want.abs() if size is None else torch.fmax(size.abs()[~special], want.abs())
    wide = got.dtype.itemsize > 2
    _, exponent = torch.frexp(size if wide else want)
    ulp = (limit.eps * 2.0 ** (exponent.double() - 1)).clamp_min(limit.tiny * limit.eps)
    noise *= max(1.0, want.abs().max().item()) if want.numel() else 1.0
    slack = noise if wide else noise + 3 * torch.finfo(torch.float32).eps * size
    error = ((have - want).abs() - slack).clamp_min(0.0) / ulp
    assert error.isfinite().all(), "not finite where the truth is"
    worst = error.max().item() if error.numel() else 0.0
    assert worst <= allowed, f"{worst:.3f} ulp of {got.dtype}, {allowed} allowed"
