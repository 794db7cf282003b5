"""A gradient written over its logits is the gradient written elsewhere, to the last bit."""

import pytest
import torch

from tests import cases


@pytest.mark.parametrize("classes", [1, 7, 100, 4096, 4097, 40_000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("asked", ["labels", "smoothed", "weighted", "probabilities"])
def test_in_place(classes, dtype, asked, backend):
    family = cases.FAMILIES["near_ties" if classes > 1 else "ordinary"]
    logits, labels = family(5, classes, torch.Generator().manual_seed(0))
    rows = logits.to(dtype).unsqueeze(2)
    if classes > 4:
        rows[0, 3] = torch.inf  # a row that the kernels take on its own
    labels[1] = -100
    target = torch.rand(rows.shape).to(dtype) if asked == "probabilities" else labels
    weight = torch.rand(classes) if asked == "weighted" else None
    hard = torch.rand(5, 1, dtype=torch.float64)
    smooth = hard / 3 if asked in ("smoothed", "weighted") else None
    peak, rest, *_ = backend.row_summary(rows, target, weight, -100, False)
    call = target, weight, -100, peak, rest, hard, smooth
    elsewhere, over = torch.empty_like(rows), rows.clone()
    want = backend.row_grad(rows, *call)
    backend.row_grad(rows, *call, elsewhere)
    backend.row_grad(over, *call, over)
    assert torch.equal(elsewhere.nan_to_num(7.0), want.nan_to_num(7.0))
    assert torch.equal(over.nan_to_num(7.0), want.nan_to_num(7.0))


def test_in_place_where_threads_would_share_a_row(backend):
    rows = torch.randn(2, 200_000, 1)
    target, factor = torch.tensor([5, 199_999]), torch.ones(2, 1, dtype=torch.float64)
    peak, rest, *_ = backend.row_summary(rows, target, None, -100, False)
    want = backend.row_grad(rows, target, None, -100, peak, rest, factor, None)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        backend.row_grad(rows, target, None, -100, peak, rest, factor, None, rows)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(rows, want)
