"""The by-products of a linear head: one walk over the tiles gives the facts of its rows and what they tell beyond."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _algebra
from .._plan import LinearPlan
from . import losses, moments, tiles
from .linear import (
    _FACTS,
    _GRADIENTS,
    _HEAD,
    _all,
    _asked,
    _derived_otherwise,
    _fake_facts,
    _fake_grads,
    _filled,
    _of_nothing,
    _of_place,
    _run,
    _terms_of,
)
from .losses import LossStats, RowStats
from .rules import Rule
from .schemas import _fake, _op

_ops = torch.ops.xent

_SHAPED = _HEAD + ", float? softcap, float scale"

_SPREAD = "Tensor own, Tensor moment, Tensor argmax, Tensor above"
_BY_PRODUCTS = "Tensor? nll, Tensor lse, Tensor entropy, Tensor mean"


@_op(f"linear_stats({_SHAPED}) -> ({_FACTS}, {_SPREAD})")
def _linear_stats(*head):
    hidden, weight, *_, mixed, budget, softcap, scale = head
    asked, kept = _asked(head[:8], softcap, scale)
    if asked.hidden.shape[0] == 0 or weight.shape[0] == 0:
        facts = _of_nothing(asked, [False] * 3)[0]
        nothing = torch.zeros_like(facts.peak)
        spread = tiles.Spread(nothing, nothing.clone(), nothing.to(torch.int64), nothing.clone())
    else:
        facts, spread = tiles.stats(asked, mixed, budget)
    return _all((*facts, *spread), kept, hidden.shape[0])


@_op(
    f"linear_stats_grad({_SHAPED}, {_FACTS}, Tensor hard, Tensor? smooth, {_BY_PRODUCTS}, bool[3] wanted)"
    f" -> ({_GRADIENTS})"
)
def _linear_stats_grad(*args):
    return _run(args[:8], args[10:15], args[15:21], args[21], args[8:10])[1]


@_fake("linear_stats")
def _(hidden, *rest):
    own, moment, argmax, above, _ = _fake_facts(hidden)
    return *_fake_facts(hidden), own, moment, argmax.to(torch.int64), above


@_fake("linear_stats_grad")
def _(hidden, weight, *rest):
    return _fake_grads(hidden, weight, rest[-1])


def cross_entropy_with_stats(plan: LinearPlan) -> LossStats:
    """The loss and by-products; the gradient is always made in the backward pass, whose factors nobody foresees."""
    return losses.told(_rows_of(plan), plan)


def cross_entropy(plan: LinearPlan) -> Tensor:
    """The loss alone, of logits that are shaped or whose size is asked for."""
    rows = _rows_of(plan)
    return losses.reduced(rows.hard, rows.smooth, rows.mass, plan, rows.lse)


def _rows_of(plan: LinearPlan) -> RowStats:
    places = [_stats_of_place(plan, k) for k in range(plan.weight.shape[1])]
    return RowStats(*(torch.stack(of_place, 1) for of_place in zip(*places, strict=True)))


def _stats_of_place(plan: LinearPlan, k: int) -> RowStats:
    *head, target = _of_place(plan, k)
    asked = target, plan.class_weight, plan.ignore_index, plan.smoothing > 0
    softcap, scale = (None, 1.0) if plan.shaping is None else (plan.shaping.softcap, plan.shaping.scale)
    if _derived_otherwise(plan) or plan.classes == 0:
        return _written_out(head, asked, softcap, scale)
    found = _Stats.apply(*head, *asked, plan.budget, softcap, float(scale))
    hard, smooth, mass, nll, lse, entropy, argmax, above, *_ = found
    label = torch.zeros_like(argmax) if plan.soft else _ops.labels(target, plan.classes, plan.ignore_index)
    return RowStats(hard, smooth, mass, nll, lse, entropy, label, argmax.where(label >= 0, -1), above)


def _written_out(head, asked: tuple, softcap: float | None, scale: float | Tensor) -> RowStats:
    """All logits at once, for derivatives that tiles have not."""
    rows, (target, *others) = F.linear(*head), asked
    if softcap is not None or isinstance(scale, Tensor) or scale != 1.0:
        rows = _algebra.shaped(rows, softcap, scale)
    target = target.unsqueeze(2 if target.is_floating_point() else 1)
    found = losses.row_stats(rows.unsqueeze(2), target, *others)
    return RowStats(*(t.squeeze(1) for t in found))


class _Stats(Rule):
    """A head -> what `RowStats` has of each row, the facts and the mean of the entropy."""

    @staticmethod
    def forward(hidden, weight, bias, target, class_weight, ignore_index, mixed, budget, softcap, scale):
        rest = target, class_weight, ignore_index, mixed, budget
        *facts, own, moment, argmax, above = _ops.linear_stats(hidden, weight, bias, *rest, softcap, scale)
        peak, tail = facts[:2]
        mean = moment / (1.0 + tail)
        nll = _algebra.hard(torch.ones_like(tail), tail, own - peak)
        by_products = nll, _algebra.lse(peak, tail), _algebra.entropy(tail, mean)
        return *_terms_of(facts, weight, rest), *by_products, argmax, above, *facts, mean

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.ignore_index, ctx.mixed, ctx.budget, ctx.softcap, ctx.scale = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2], *output[6:])
        ctx.save_for_backward(*tensors, *output[8:])

    @staticmethod
    def backward(ctx, *upstream):  # pyright: ignore[reportIncompatibleMethodOverride]
        *head, target, class_weight, peak, rest, picked, mass, mix, mean = ctx.saved_tensors
        asked, shaping = (target, class_weight, ctx.ignore_index, ctx.mixed), (ctx.softcap, ctx.scale)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            again = moments.again(lambda *head: _written_out(head, asked, *shaping)[:6], tuple(head), upstream[:6])
            return *again, *(None,) * 7
        hard, smooth, _, *by_products = upstream[:6]
        hard, smooth = _filled(hard, smooth, mean, (*asked, ctx.budget))
        nll, lse, entropy = (torch.zeros_like(mean) if g is None else g for g in by_products)
        if class_weight is None or target.is_floating_point():  # both ask the same of the logits
            hard, nll = hard + nll, None
        facts, factors = (peak, rest, picked, mass, mix), (hard, smooth, nll, lse, entropy, mean)
        wanted = list(ctx.needs_input_grad[:3])
        grads = _ops.linear_stats_grad(*head, *asked, ctx.budget, *shaping, *facts, *factors, wanted)
        return *(g if want else None for g, want in zip(grads, wanted, strict=True)), *(None,) * 7
