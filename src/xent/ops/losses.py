"""Plan -> loss: the terms of each row, the options' algebra, the reduction."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import _algebra
from .._plan import LinearPlan, Plan, Shaping, Sums
from ..backends.contract import NO_CLASS
from . import moments
from .autograd import row_terms
from .rules import times, total

_op = torch.ops.xent


def cross_entropy(plan: Plan) -> Tensor:
    """The loss that `plan` asks for."""
    mixed, asked = plan.smoothing > 0, (plan.target, plan.class_weight, plan.ignore_index)
    if plan.shaping is not None and plan.shaping.z_loss:
        rows = row_stats(shaped(plan.rows, plan), *asked, mixed)
        return reduced(rows.hard, rows.smooth, rows.mass, plan, rows.lse)
    hard, smooth, mass, *_ = row_terms(shaped(plan.rows, plan), *asked, mixed)
    return reduced(hard, smooth, mass, plan)


def shaped(logits: Tensor, plan: Plan | LinearPlan) -> Tensor:
    """The logits that the loss is of."""
    return shaped_by(logits, plan.shaping)


def shaped_by(logits: Tensor, shaping: Shaping | None) -> Tensor:
    """As they are where nothing moves them."""
    return _algebra.shaped(logits, shaping.softcap, shaping.scale) if shaping and shaping.moves else logits


def reduced(hard: Tensor, smooth: Tensor, mass: Tensor, plan: Plan | LinearPlan, lse: Tensor | None = None) -> Tensor:
    """From the terms of the rows to the result."""
    losses = _algebra.loss(hard, smooth if plan.smoothing > 0 else None, plan.smoothing, plan.classes)
    if plan.shaping is not None and plan.shaping.z_loss and lse is not None:
        losses = losses + _algebra.z(plan.shaping.z_loss, lse)
    return _reduce(losses, mass, plan)


class LossStats(NamedTuple):
    """A loss and what its rows tell on the way; all but `loss` in the shape of the labels.

    Numbers are in nats and have the dtype of the loss; `loss`, `nll`, `log_prob`, `lse` and `entropy` are
    differentiable. A row that is ignored is not looked at: it has zeros, False, and -1 for `argmax` and `rank`.
    """

    loss: Tensor
    """What the function without `_with_stats` gives."""
    nll: Tensor
    """``-log p_y`` of the label, without class weights, smoothing and reduction."""
    log_prob: Tensor
    """``log p_y``."""
    lse: Tensor
    """``log sum_j exp x_j``."""
    entropy: Tensor
    """``-sum_j p_j log p_j``."""
    correct: Tensor
    """Is `argmax` the label? bool."""
    argmax: Tensor
    """The class with the largest logit, the first of equals; int64."""
    rank: Tensor
    """How many classes have a larger logit than the label; 0 is the top, also for a label that ties; int64."""


class RowStats(NamedTuple):
    """Of each row, float64 or int64, before the options."""

    hard: Tensor
    smooth: Tensor
    mass: Tensor
    nll: Tensor
    lse: Tensor
    entropy: Tensor
    label: Tensor
    argmax: Tensor
    above: Tensor


def cross_entropy_with_stats(plan: Plan) -> LossStats:
    """The loss and by-products of labels."""
    rows, target, ignored = shaped(plan.rows, plan), plan.target, plan.ignore_index
    return told(row_stats(rows, target, plan.class_weight, ignored, plan.smoothing > 0), plan)


def row_stats(rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, mixed: bool) -> RowStats:
    """Differentiable to every order; class weights cost a second look at the logits. Where a distribution is asked for,
    `hard`, `smooth`, `mass` and `lse` have a meaning."""
    hard, smooth, mass, peak, rest = row_terms(rows, target, class_weight, ignore_index, mixed)
    soft = target.is_floating_point()
    nll = hard if class_weight is None or soft else row_terms(rows, target, None, ignore_index, False)[0]
    label = torch.zeros_like(rest, dtype=torch.int64) if soft else _op.labels(target, rows.shape[1], ignore_index)
    label = label.reshape(rest.shape)
    if rows.shape[1] == 0:  # every label is ignored, or it would have been refused
        return RowStats(hard, smooth, mass, nll, hard, hard, label, label, mass)
    kept, seen = label >= 0, rows.detach()
    own = seen.gather(1, label.clamp_min(0).unsqueeze(1)).squeeze(1)
    lse, entropy, above, first = moments.of(rows, own, peak, rest, kept)
    return RowStats(hard, smooth, mass, nll, lse, entropy, label, first, above)


def told(rows: RowStats, plan: Plan | LinearPlan) -> LossStats:
    """From the rows to the result."""
    loss = reduced(rows.hard, rows.smooth, rows.mass, plan, rows.lse)
    kept = rows.label >= 0
    rank = rows.above.to(torch.int64).where(kept, -1)
    numbers = (t.to(plan.dtype) for t in (rows.nll, 0.0 - rows.nll, rows.lse, rows.entropy))
    places = (kept & (rows.argmax == rows.label), rows.argmax, rank)
    return LossStats(loss, *(t.reshape(plan.shape) for t in (*numbers, *places)))


def nll(plan: Plan) -> Tensor:
    """The same from log-probabilities; nothing but the target's entry is read."""
    index = _op.labels(plan.target, plan.classes, plan.ignore_index).reshape(plan.rows.shape[0], plan.rows.shape[2])
    kept, at = index >= 0, index.clamp_min(0)
    mass = kept.to(torch.float64)
    if plan.classes == 0:  # every label is ignored, or it would have been refused
        return _reduce(mass, mass, plan)
    if plan.class_weight is not None:
        mass = plan.class_weight.to(torch.float64)[at].where(kept, 0.0)
    log_p = plan.rows.gather(1, at.unsqueeze(1)).squeeze(1).to(torch.float64)
    losses = (-times(mass, log_p)).where(index != NO_CLASS, torch.nan)
    return _reduce(losses, mass, plan)


def _reduce(losses: Tensor, mass: Tensor, plan: Plan | LinearPlan) -> Tensor:
    """torch's three reductions. The mean divides labels' losses by their total weight, and
    probabilities' losses by the number of rows, whatever their weights."""
    token = token_weight(plan, mass.shape)
    losses = losses if token is None else times(token, losses)
    if plan.sums.reduction == "none":
        return losses.reshape(plan.shape).to(plan.dtype)
    whole = total(losses.reshape(losses.numel()))
    if plan.sums.reduction == "mean":
        by = divisor(mass, token, plan)
        whole = divided(whole, by, plan.sums)
    return whole.to(plan.dtype)


def divided(whole: Tensor, by: Tensor, sums: Sums) -> Tensor:
    """A mean; one over nothing moves nothing: its gradient is 0."""
    return (whole / by.where(by != 0, 1.0)).where(by != 0, sums.all_ignored)


def token_weight(plan: Plan | LinearPlan, shape: torch.Size) -> Tensor | None:
    """In float64 and in the shape of the rows' facts."""
    token = plan.sums.token_weight
    return None if token is None else token.to(torch.float64).reshape(shape)


def num_items(sums: Sums, device: torch.device) -> Tensor | None:
    """What a mean divides by, if it is given; float64."""
    items = sums.num_items
    if items is None or isinstance(items, Tensor):
        return items if items is None else items.to(device)
    return torch.full((), items, dtype=torch.float64, device=device)


def divisor(mass: Tensor, token: Tensor | None, plan: Plan | LinearPlan) -> Tensor:
    """What a mean divides by."""
    items = num_items(plan.sums, mass.device)
    if items is not None:
        return items
    if token is not None:
        mass = token if plan.soft else times(mass, token)
        return total(mass.reshape(mass.numel()))
    if plan.soft:
        return mass.new_full((), mass.numel() if plan.classes else 0)
    if plan.class_weight is None:
        return mass.sum()  # of ones and zeros: exact in any order up to 2**53 rows
    return total(mass.reshape(mass.numel()))
