"""What rows tell beyond their loss: every backend beside the reference, on numbers of every kind."""

import math

import pytest
import torch

from xent.backends import reference

from ..conftest import SERVING, take_in_turn

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
SPECIAL = (math.nan, math.inf, -math.inf)


def rows_of(outer, classes, inner, dtype):
    """Ordinary rows, rows with ties, masks, an infinity or a nan, and one with nothing but masks."""
    g = torch.Generator().manual_seed(classes)
    rows = torch.randn(outer, classes, inner, generator=g, dtype=torch.float64) * 8
    flat = rows.movedim(1, 2).reshape(-1, classes)  # a copy
    for n in range(len(flat)):
        at = torch.randint(0, classes, (2,), generator=g)
        if n % 6 == 1:
            flat[n, at] = flat[n].max()
        elif n % 6 > 2:
            flat[n, at] = SPECIAL[n % 3]
    flat[-1] = -math.inf
    return flat.reshape(outer, inner, classes).movedim(2, 1).to(dtype)


def facts_of(rows):
    peak = rows.amax(1).to(torch.float64)
    labels = torch.zeros(peak.shape, dtype=torch.int64)
    rest = reference.row_summary(rows, labels, None, -100, False).rest
    g = torch.Generator().manual_seed(1)
    lse, entropy = torch.randn(2, *peak.shape, generator=g, dtype=torch.float64)
    lse.view(-1)[::4], entropy.view(-1)[::2] = 0.0, 0.0
    return peak, rows[:, rows.shape[1] // 2], rest, lse, entropy


def close(got, want, dtype):
    limit = torch.finfo(dtype)
    small = limit.tiny * (8 if dtype is torch.float16 else 1)
    ulp = 16 if dtype is torch.float64 else 4  # what both may be off by
    torch.testing.assert_close(got.double(), want.double(), rtol=ulp * limit.eps, atol=small, equal_nan=True)


def beside(rows, backend):
    peak, own, rest, lse, entropy = facts_of(rows)
    got, want = (home.row_spread(rows, peak, own) for home in (backend, reference))
    torch.testing.assert_close(got[0], want[0], rtol=1e-13, atol=0, equal_nan=True)
    assert torch.equal(got[1], want[1])
    assert torch.equal(got[2], want[2])
    assert [number.dtype for number in got] == [torch.float64, torch.float64, torch.int64]
    mean = want[0] / (1.0 + rest)
    got, want = (home.row_spread_grad(rows, peak, rest, mean, lse, entropy) for home in (backend, reference))
    assert got.dtype is rows.dtype
    close(got, want, rows.dtype)


@DTYPES
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (40, 2, 1), (33, 24, 1), (7, 1000, 1), (6, 5003, 1), (3, 21, 13)], ids=str
)
def test_as_the_reference_has_it(shape, dtype, backend):
    beside(rows_of(*shape, dtype), backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_kernels_of_a_gpu_in_the_interpreter(dtype, monkeypatch):
    if "triton" not in SERVING:
        pytest.skip("no Triton here, or a GPU")
    take_in_turn("triton", monkeypatch)
    for shape in ((9, 10, 1), (7, 1300, 1), (2, 21, 9)):
        beside(rows_of(*shape, dtype), SERVING["triton"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", [2, 100, 5003])
def test_threads_strides_and_neighbours_change_no_bit(classes, dtype, backend):
    rows = torch.randn(300, classes, 1, generator=torch.Generator().manual_seed(0)).to(dtype)
    peak, own, rest, lse, entropy = facts_of(rows)

    def run(rows, at=slice(None)):
        moment, above, first = backend.row_spread(rows, peak[at], own[at])
        mean = moment / (1.0 + rest[at])
        return moment, above, first, backend.row_spread_grad(rows, peak[at], rest[at], mean, lse[at], entropy[at])

    want, threads = run(rows), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alike = [run(rows), run(rows.transpose(0, 1).contiguous().transpose(0, 1))]
    finally:
        torch.set_num_threads(threads)
    for got in alike:
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert all(torch.equal(a, b[5:6]) for a, b in zip(run(rows[5:6], slice(5, 6)), want, strict=True))


def test_no_classes_and_no_rows(backend):
    for shape in ((3, 0, 2), (0, 4, 1)):
        rows = torch.zeros(shape)
        fact = torch.zeros(shape[0], shape[2], dtype=torch.float64)
        moment, above, first = backend.row_spread(rows, fact - math.inf, fact)
        assert (moment == 0).all()
        assert (above == 0).all()
        assert (first == -1).all()
        assert backend.row_spread_grad(rows, *[fact] * 5).shape == shape
