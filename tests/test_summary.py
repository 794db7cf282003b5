"""Summaries of the parts of a row, merged, are the summary of the row."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from tests import cases
from xent.backends import reference
from xent.summary import merge


@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("cuts", [(1,), (13,), (40, 41), (7, 50, 99)])
@pytest.mark.parametrize("weighted", [False, True])
def test_merged_parts_are_the_whole(family, cuts, weighted):
    logits, _ = cases.FAMILIES[family](8, 100, torch.Generator().manual_seed(1))
    logits[0, :60] = -torch.inf  # whole parts masked
    q = torch.rand(8, 100, dtype=torch.float64).masked_fill(torch.rand(8, 100) < 0.5, 0.0)
    q = q.where(logits.isfinite(), 0.0)
    w = torch.rand(100, dtype=torch.float64) if weighted else None
    mixed = family != "masked"
    if mixed:
        logits[0, :60] = -200.0
    edges = [0, *cuts, 100]

    def summary(part):
        return reference.row_summary(
            logits[:, part].unsqueeze(2), q[:, part].unsqueeze(2), None if w is None else w[part], -100, mixed
        )

    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    spans = [float(p.stop - p.start) if w is None else w[p].sum() for p in parts]
    whole, got = summary(slice(0, 100)), merge([summary(p) for p in parts], spans if mixed else None)
    assert torch.equal(got.peak, whole.peak)
    for name in ("rest", "picked", "mass", "mix"):
        assert_close(getattr(got, name), getattr(whole, name), rtol=1e-14, atol=0, msg=name)


def test_what_is_not_finite_stays_so():
    rows = torch.tensor([[-torch.inf, -torch.inf, -torch.inf], [0.0, torch.nan, 1.0], [torch.inf, 0.0, 1.0]])
    labels = torch.zeros(3, dtype=torch.int64)

    def summary(part):
        return reference.row_summary(rows[:, part].unsqueeze(2), labels, None, -100, False)

    got = merge([summary(slice(0, 1)), summary(slice(1, 3))], None)
    assert_close(got.peak.squeeze(1), rows.double().amax(1), equal_nan=True)
    assert got.rest.isnan().all()
