"""Plan -> loss: the terms of each row, the options' algebra, the reduction."""

import torch
from torch import Tensor

from .. import _algebra
from .._plan import LinearPlan, Plan
from .autograd import row_terms
from .rules import times, total

_op = torch.ops.xent


def cross_entropy(plan: Plan) -> Tensor:
    """The loss that `plan` asks for."""
    mixed = plan.smoothing > 0
    hard, smooth, mass = row_terms(plan.rows, plan.target, plan.class_weight, plan.ignore_index, mixed)
    return reduced(hard, smooth if mixed else None, mass, plan)


def reduced(hard: Tensor, smooth: Tensor | None, mass: Tensor, plan: Plan | LinearPlan) -> Tensor:
    """From the terms of the rows to the result."""
    return _reduce(_algebra.loss(hard, smooth, plan.smoothing, plan.classes), mass, plan)


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
    return _reduce(-times(mass, log_p), mass, plan)


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
        # A mean over nothing moves nothing: its gradient is 0.
        whole = (whole / by.where(by != 0, 1.0)).where(by != 0, plan.sums.all_ignored)
    return whole.to(plan.dtype)


def token_weight(plan: Plan | LinearPlan, shape: torch.Size) -> Tensor | None:
    """In float64 and in the shape of the rows' facts."""
    token = plan.sums.token_weight
    return None if token is None else token.to(torch.float64).reshape(shape)


def divisor(mass: Tensor, token: Tensor | None, plan: Plan | LinearPlan) -> Tensor:
    """What a mean divides by."""
    if plan.sums.num_items is not None:
        return plan.sums.num_items.to(mass.device)
    if token is not None:
        mass = token if plan.soft else times(mass, token)
        return total(mass.reshape(mass.numel()))
    if plan.soft:
        return mass.new_tensor(mass.numel() if plan.classes else 0)
    if plan.class_weight is None:
        return mass.sum()  # of ones and zeros: exact in any order up to 2**53 rows
    return total(mass.reshape(mass.numel()))
