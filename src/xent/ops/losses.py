"""Plan -> loss: the terms of each row, the options' algebra, the reduction."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from .. import _algebra
from .._plan import Plan
from . import autograd

_op = torch.ops.xent


def cross_entropy(plan: Plan) -> Tensor:
    """The loss that `plan` asks for."""
    if plan.class_weight is not None and _differentiable(plan.class_weight):
        return _by_attraction(plan)
    mixed = plan.smoothing > 0
    hard, smooth, mass = autograd.row_terms(plan.rows, plan.target, plan.class_weight, plan.ignore_index, mixed)
    losses = _algebra.loss(hard, smooth if mixed else None, plan.smoothing, plan.classes)
    return _reduce(losses, mass, plan)


def nll(plan: Plan) -> Tensor:
    """The same from log-probabilities; nothing but the target's entry is read."""
    index = _op.labels(plan.target, plan.classes, plan.ignore_index).reshape(plan.rows.shape[0], plan.rows.shape[2])
    kept, at = index >= 0, index.clamp_min(0)
    mass = kept.to(torch.float64)
    if plan.class_weight is not None:
        mass = plan.class_weight.to(torch.float64)[at].where(kept, 0.0)
    log_p = plan.rows.gather(1, at.unsqueeze(1)).squeeze(1).to(torch.float64).where(mass != 0, 0.0)
    return _reduce(-mass * log_p, mass, plan)


def _by_attraction(plan: Plan) -> Tensor:
    """A class weight to be differentiated: weights and smoothing are folded into a target of floats,
    written out, whose gradient then reaches the weight. torch refuses this for labels."""
    assert plan.class_weight is not None
    shape = plan.rows.shape
    weight = plan.class_weight.to(torch.float64)
    a = autograd.attraction(plan.target, weight, plan.ignore_index, shape, torch.float64)
    mass = a.sum(1)
    if plan.smoothing > 0:
        kept = (
            torch.ones_like(mass)
            if plan.soft
            else autograd.attraction(plan.target, None, plan.ignore_index, shape, torch.float64).sum(1)
        )
        spread = kept.unsqueeze(1) * weight.reshape(1, -1, 1) / plan.classes
        a = (1.0 - plan.smoothing) * a + plan.smoothing * spread
    losses, _, _ = autograd.row_terms(plan.rows, a, None, -100, False)
    return _reduce(losses, mass, replace(plan, target=a) if plan.soft else plan)


def _reduce(losses: Tensor, mass: Tensor, plan: Plan) -> Tensor:
    """torch's three reductions. The mean divides labels' losses by their total weight, and
    probabilities' losses by the number of rows, whatever their weights."""
    if plan.reduction == "none":
        return losses.reshape(plan.shape).to(plan.dtype)
    total = autograd.total(losses.reshape(-1))
    if plan.reduction == "mean":
        total = total / _divisor(mass, plan)
    return total.to(plan.dtype)


def _divisor(mass: Tensor, plan: Plan) -> Tensor | int:
    if plan.soft:
        return mass.numel() if plan.classes else 0
    if plan.class_weight is None:
        return mass.sum()  # of ones and zeros: exact in any order up to 2**53 rows
    return autograd.total(mass.reshape(-1))


def _differentiable(tensor: Tensor) -> bool:
    if tensor.requires_grad and torch.is_grad_enabled():
        return True
    return not torch.compiler.is_compiling() and unpack_dual(tensor).tangent is not None
