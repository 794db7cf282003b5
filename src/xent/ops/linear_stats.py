"""The by-products of a linear head: one walk over the tiles gives the facts of its rows and what they tell beyond."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _algebra
from .._plan import LinearPlan, Shaping
from . import losses, moments, tiles
from .head import rows_of
from .linear import (
    _FACTS,
    _GRADIENTS,
    _HEAD,
    _derived_otherwise,
    _fake_facts,
    _fake_grads,
    _filled,
    _of_nothing,
    _of_place,
    _run,
    _shaping,
    _terms_of,
)
from .losses import LossStats, RowStats
from .rules import Rule
from .schemas import _fake, _op

_ops = torch.ops.xent

_SPREAD = "Tensor own, Tensor moment, Tensor argmax, Tensor above"
_BY_PRODUCTS = "Tensor? nll, Tensor lse, Tensor entropy, Tensor mean"


@_op(f"linear_stats({_HEAD}) -> ({_FACTS}, {_SPREAD})")
def _linear_stats(*head):
    _, weight, *_, mixed, budget, _, _ = head
    asked, rows = rows_of(head)
    if asked.hidden.shape[0] == 0 or weight.shape[0] == 0:
        facts = _of_nothing(asked, [False] * 3)[0]
        nothing = torch.zeros_like(facts.peak)
        spread = tiles.Spread(nothing, nothing.clone(), nothing.to(torch.int64), nothing.clone())
    else:
        facts, spread = tiles.stats(asked, mixed, budget)
    return *rows.facts(facts), *rows.all(spread)


@_op(
    f"linear_stats_grad({_HEAD}, {_FACTS}, Tensor hard, Tensor? smooth, {_BY_PRODUCTS}, bool[3] wanted)"
    f" -> ({_GRADIENTS})"
)
def _linear_stats_grad(*args):
    return _run(args[:10], args[10:15], args[15:21], args[21])[1]


@_fake("linear_stats")
def _(hidden, *rest):
    own, moment, argmax, above, _ = _fake_facts(hidden)
    return *_fake_facts(hidden), own, moment, argmax.to(torch.int64), above


@_fake("linear_stats_grad")
def _(hidden, weight, *rest):
    return _fake_grads(hidden, weight, rest[-1])


def cross_entropy_with_stats(plan: LinearPlan) -> LossStats:
    """The loss and by-products; the gradient is always made in the backward pass, whose factors nobody foresees."""
    return losses.told(_rows_of(plan, told=True), plan)


def cross_entropy(plan: LinearPlan) -> Tensor:
    """The loss alone, of rows whose log-sum-exp it asks for."""
    rows = _rows_of(plan, told=False)
    return losses.reduced(rows.hard, rows.smooth, rows.mass, plan, rows.lse)


def _rows_of(plan: LinearPlan, told: bool) -> RowStats:
    places = [_stats_of_place(plan, k, told) for k in range(plan.weight.shape[1])]
    return RowStats(*(torch.stack(of_place, 1) for of_place in zip(*places, strict=True)))


def _stats_of_place(plan: LinearPlan, k: int, told: bool) -> RowStats:
    *head, target = _of_place(plan, k)
    asked = target, plan.class_weight, plan.ignore_index, plan.smoothing > 0
    if _derived_otherwise(plan) or plan.classes == 0:
        return _written_out(head, asked, plan.shaping)
    found = _Stats.apply(*head, *asked, plan.budget, *_shaping(plan), told)
    hard, smooth, mass, nll, lse, entropy, argmax, above, *_ = found
    label = torch.zeros_like(argmax) if plan.soft else _ops.labels(target, plan.classes, plan.ignore_index)
    return RowStats(hard, smooth, mass, nll, lse, entropy, label, argmax.where(label >= 0, -1), above)


def _written_out(head, asked: tuple, shaping: Shaping | None) -> RowStats:
    """All logits at once, for derivatives that tiles have not."""
    rows, (target, *others) = losses.shaped_by(F.linear(*head), shaping), asked
    target = target.unsqueeze(2 if target.is_floating_point() else 1)
    found = losses.row_stats(rows.unsqueeze(2), target, *others)
    return RowStats(*(t.squeeze(1) for t in found))


class _Stats(Rule):
    """A head -> what `RowStats` has of each row, the facts and the mean of the entropy; unless `told`, only the terms
    of the loss and `lse`."""

    @staticmethod
    def forward(hidden, weight, bias, target, class_weight, ignore_index, mixed, budget, softcap, scale, told):
        rest = target, class_weight, ignore_index, mixed, budget, softcap, scale
        if told:
            *facts, own, moment, argmax, above = _ops.linear_stats(hidden, weight, bias, *rest)
        else:
            facts = _ops.linear_facts(hidden, weight, bias, *rest)
            own, moment, above = (torch.zeros_like(facts[0]) for _ in range(3))
            argmax = torch.zeros_like(own, dtype=torch.int64)
        peak, tail = facts[:2]
        mean = moment / (1.0 + tail)
        nll = _algebra.hard(torch.ones_like(tail), tail, own - peak)
        by_products = nll, _algebra.lse(peak, tail), _algebra.entropy(tail, mean)
        return *_terms_of(facts, weight, rest), *by_products, argmax, above, *facts, mean

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.ignore_index, ctx.mixed, ctx.budget, ctx.softcap, ctx.scale, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2], *output[6:])
        ctx.save_for_backward(*tensors, *output[8:])

    @staticmethod
    def backward(ctx, *upstream):  # pyright: ignore[reportIncompatibleMethodOverride]
        *head, target, class_weight, peak, rest, picked, mass, mix, mean = ctx.saved_tensors
        asked, shaping = (target, class_weight, ctx.ignore_index, ctx.mixed), (ctx.softcap, ctx.scale)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            shaped = Shaping(*shaping)
            again = moments.again(lambda *head: _written_out(head, asked, shaped)[:6], tuple(head), upstream[:6])
            return *again, *(None,) * 8
        hard, smooth, _, *by_products = upstream[:6]
        hard, smooth = _filled(hard, smooth, mean, (*asked, ctx.budget))
        nll, lse, entropy = (torch.zeros_like(mean) if g is None else g for g in by_products)
        if class_weight is None or target.is_floating_point():  # both ask the same of the logits
            hard, nll = hard + nll, None
        facts, factors = (peak, rest, picked, mass, mix), (hard, smooth, nll, lse, entropy, mean)
        wanted = list(ctx.needs_input_grad[:3])
        grads = _ops.linear_stats_grad(*head, *asked, ctx.budget, *shaping, *facts, *factors, wanted)
        return *(g if want else None for g, want in zip(grads, wanted, strict=True)), *(None,) * 8
