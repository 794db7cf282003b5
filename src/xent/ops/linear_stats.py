"""The by-products of a linear head: one walk over the tiles gives the facts of its rows and what they tell beyond."""

import torch
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

_SPREAD = "Tensor own, Tensor moment, Tensor argmax, Tensor above"
_BY_PRODUCTS = "Tensor? nll, Tensor lse, Tensor entropy, Tensor mean"


@_op(f"linear_stats({_HEAD}) -> ({_FACTS}, {_SPREAD})")
def _linear_stats(*head):
    hidden, weight, *_, mixed, budget = head
    asked, kept = _asked(head)
    if asked.hidden.shape[0] == 0 or weight.shape[0] == 0:
        facts = _of_nothing(asked, [False] * 3)[0]
        nothing = torch.zeros_like(facts.peak)
        spread = tiles.Spread(nothing, nothing.clone(), nothing.to(torch.int64), nothing.clone())
    else:
        facts, spread = tiles.stats(asked, mixed, budget)
    return _all((*facts, *spread), kept, hidden.shape[0])


@_op(
    f"linear_stats_grad({_HEAD}, {_FACTS}, Tensor hard, Tensor? smooth, {_BY_PRODUCTS}, bool[3] wanted)"
    f" -> ({_GRADIENTS})"
)
def _linear_stats_grad(*args):
    return _run(args[:8], args[8:13], args[13:19], args[19])[1]


@_fake("linear_stats")
def _(hidden, *rest):
    own, moment, argmax, above, _ = _fake_facts(hidden)
    return *_fake_facts(hidden), own, moment, argmax.to(torch.int64), above


@_fake("linear_stats_grad")
def _(hidden, weight, *rest):
    return _fake_grads(hidden, weight, rest[-1])


def cross_entropy_with_stats(plan: LinearPlan) -> LossStats:
    """The loss and by-products; the gradient is always made in the backward pass, whose factors nobody foresees."""
    places = [_stats_of_place(plan, k) for k in range(plan.weight.shape[1])]
    return losses.told(RowStats(*(torch.stack(of_place, 1) for of_place in zip(*places, strict=True))), plan)


def _stats_of_place(plan: LinearPlan, k: int) -> RowStats:
    hidden, weight, bias, target = _of_place(plan, k)
    rest = plan.class_weight, plan.ignore_index, plan.smoothing > 0
    if _derived_otherwise(plan) or plan.classes == 0:
        return _stats_written_out(hidden, weight, bias, target, *rest)
    found = _Stats.apply(hidden, weight, bias, target, *rest, plan.budget)
    label = _ops.labels(target, plan.classes, plan.ignore_index)
    hard, smooth, mass, nll, lse, entropy, argmax, above, *_ = found
    return RowStats(hard, smooth, mass, nll, lse, entropy, label, argmax.where(label >= 0, -1), above)


def _stats_written_out(hidden, weight, bias, target, class_weight, ignore_index, mixed) -> RowStats:
    rows = F.linear(hidden, weight, bias).unsqueeze(2)
    found = losses.row_stats(rows, target.unsqueeze(1), class_weight, ignore_index, mixed)
    return RowStats(*(t.squeeze(1) for t in found))


class _Stats(Rule):
    """A head -> what `RowStats` has of each row, the facts and the mean of the entropy."""

    @staticmethod
    def forward(hidden, weight, bias, target, class_weight, ignore_index, mixed, budget):
        rest = target, class_weight, ignore_index, mixed, budget
        *facts, own, moment, argmax, above = _ops.linear_stats(hidden, weight, bias, *rest)
        peak, tail = facts[:2]
        mean = moment / (1.0 + tail)
        nll = _algebra.hard(torch.ones_like(tail), tail, own - peak)
        by_products = nll, _algebra.lse(peak, tail), _algebra.entropy(tail, mean)
        return *_terms_of(facts, weight, rest), *by_products, argmax, above, *facts, mean

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.ignore_index, ctx.mixed, ctx.budget = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[2], *output[6:])
        ctx.save_for_backward(*tensors, *output[8:])

    @staticmethod
    def backward(ctx, *upstream):  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, target, class_weight, *facts, mean = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return *_stats_again(ctx, (hidden, weight, bias), target, class_weight, upstream[:6]), *(None,) * 5
        hard, smooth, _, *by_products = upstream[:6]
        rest = target, class_weight, ctx.ignore_index, ctx.mixed, ctx.budget
        hard, smooth = _filled(hard, smooth, mean, rest)
        nll, lse, entropy = (torch.zeros_like(mean) if g is None else g for g in by_products)
        if class_weight is None:  # both ask the same of the logits
            hard, nll = hard + nll, None
        wanted = list(ctx.needs_input_grad[:3])
        factors = hard, smooth, nll, lse, entropy, mean
        grads = _ops.linear_stats_grad(hidden, weight, bias, *rest, *facts, *factors, wanted)
        return *(g if want else None for g, want in zip(grads, wanted, strict=True)), *(None,) * 5


def _stats_again(ctx, head, target, class_weight, upstream):
    """The gradients as functions that can be differentiated once more, on all logits at once."""

    def terms(hidden, weight, bias):
        return _stats_written_out(hidden, weight, bias, target, class_weight, ctx.ignore_index, ctx.mixed)[:6]

    return moments.again(terms, head, upstream)
