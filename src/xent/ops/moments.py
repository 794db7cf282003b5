"""`lse` and `entropy` of rows, differentiable, and the rank of a label among the classes."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch.autograd import forward_ad

from .. import _algebra
from ..backends import choose
from .autograd import softmax
from .rules import Rule, dot
from .schemas import _facts, _fake, _op

_ops = torch.ops.xent


@_op("row_spread(Tensor rows, Tensor peak, Tensor own) -> (Tensor moment, Tensor above, Tensor first)")
def _row_spread(rows, peak, own):
    return choose(rows.device).row_spread(rows, peak, own)


@_fake("row_spread")
def _(rows, peak, own):
    return _facts(rows), _facts(rows), _facts(rows).to(torch.int64)


@_op("spread_grad(Tensor rows, Tensor peak, Tensor rest, Tensor mean, Tensor lse, Tensor entropy) -> Tensor")
def _spread_grad(rows, peak, rest, mean, lse, entropy):
    return choose(rows.device).row_spread_grad(rows, peak, rest, mean, lse, entropy)


@_fake("spread_grad")
def _(rows, peak, rest, mean, lse, entropy):
    return torch.empty_like(rows)


class Moments(NamedTuple):
    """Float64, ``(outer, inner)``; zero for a row that is not kept."""

    lse: Tensor
    entropy: Tensor
    above: Tensor
    """How many classes have a larger logit than `own`."""
    first: Tensor
    """The first class at the peak; int64, -1 for a row that is not kept."""


def of(rows: Tensor, own: Tensor, peak: Tensor, rest: Tensor, kept: Tensor) -> Moments:
    """`lse` and `entropy` are differentiable in the rows, to every order."""
    if derived_otherwise():
        return _written_out(rows, own, kept)
    lse, entropy, _, above, first = _Moments.apply(rows, own, peak, rest, kept)
    return Moments(lse, entropy, above, first)


def derived_otherwise() -> bool:
    """Does someone transform the call, or differentiate it forwards?"""
    return _are_functorch_transforms_active() or forward_ad._current_level >= 0


class _Moments(Rule):
    @staticmethod
    def forward(rows, own, peak, rest, kept):
        moment, above, first = _ops.row_spread(rows, peak, own)
        mean = (moment / (1.0 + rest)).where(kept, 0.0)
        above, first = above.where(kept, 0.0), first.where(kept, -1)
        return _algebra.lse(peak, rest), _algebra.entropy(rest, mean), mean, above, first

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output[2])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[2:])

    @staticmethod
    def backward(ctx: Any, lse, entropy, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, own, peak, rest, kept, mean = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return again(lambda rows: _written_out(rows, own, kept)[:2], (rows,), (lse, entropy)) + (None,) * 4
        lse, entropy = (torch.zeros_like(rest) if g is None else g.where(kept, 0.0) for g in (lse, entropy))
        return _ops.spread_grad(rows, peak, rest, mean, lse, entropy), None, None, None, None


def again(function, inputs: tuple[Tensor | None, ...], upstream) -> tuple[Tensor | None, ...]:
    """The gradient of ``function(*inputs)`` once more, as one that can be differentiated itself."""
    with torch.enable_grad():
        pairs = [(t, g) for t, g in zip(function(*inputs), upstream, strict=True) if g is not None]
        wanted = [t for t in inputs if t is not None and t.requires_grad]
        terms, factors = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(terms, wanted, factors, create_graph=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in inputs)


def _written_out(rows: Tensor, own: Tensor, kept: Tensor) -> Moments:
    """In functions that have derivatives of every order and direction; all probabilities at once."""
    wide = rows.to(torch.float64)
    log_p = softmax(wide, log=True, dtype=torch.float64)
    top = wide.detach().argmax(1, keepdim=True)
    lse = (wide.gather(1, top) - log_p.gather(1, top)).squeeze(1)
    entropy = -dot(softmax(wide, log=False, dtype=torch.float64), log_p).squeeze(1)
    above = (rows.detach() > own.unsqueeze(1)).sum(1).to(torch.float64)
    lse, entropy, above = (t.where(kept, 0.0) for t in (lse, entropy, above))
    return Moments(lse, entropy, above, top.squeeze(1).where(kept, -1))
