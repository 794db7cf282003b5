"""The reference's own tree: neither blocks nor tiles of it show."""

import pytest
import torch

import xent
from xent import backends
from xent.backends import blocks, reference

from .test_promises import run, same


@pytest.fixture(autouse=True)
def chosen(monkeypatch):
    monkeypatch.setattr(backends, "TABLE", (reference,))


@pytest.mark.parametrize("block", [1, 7, 1 << 10])
@pytest.mark.parametrize("shape", [(5, 200), (3, 6, 11), (2, 70, 3)])
def test_blocks_change_no_bit(block, shape, monkeypatch):
    """Whatever fits a block, on this device or another."""
    logits = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    q = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    want = run(logits, q, label_smoothing=0.1)
    p = xent.softmax(logits, 1)
    monkeypatch.setattr(blocks, "BLOCK", block)
    got = run(logits, q, label_smoothing=0.1)
    same(got[0], want[0])
    same(got[1], want[1])
    same(xent.softmax(logits, 1), p)


def test_tiles_give_the_sums_of_whole_rows(monkeypatch):
    """A long row goes in tiles: every op over several tiles, against one."""
    g = torch.Generator().manual_seed(4)
    logits = torch.randn(3, 1000, generator=g) * 10
    q, weight, slope = (
        torch.rand(3, 1000, generator=g),
        torch.rand(1000, generator=g),
        torch.randn(3, 1000, generator=g),
    )
    labels = torch.tensor([0, 999, -100])

    def everything():
        out = []
        for target in (q, labels):
            out += run(logits, target, weight=weight, label_smoothing=0.1)
        for function in (xent.softmax, xent.log_softmax):
            x = logits.clone().requires_grad_()
            y = function(x, 1)
            out += [y.detach(), *torch.autograd.grad((y * slope).sum(), x)]
        return out

    want = everything()
    monkeypatch.setattr(blocks, "TILE", 96)
    for a, b in zip(everything(), want, strict=True):
        torch.testing.assert_close(a, b, rtol=2**-23, atol=0)
