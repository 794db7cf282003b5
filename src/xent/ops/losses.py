"""Plan -> loss: the terms of each row, the options' algebra, the reduction."""

from dataclasses import replace

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor, is_gradtrackingtensor
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
    if plan.classes == 0:  # every label is ignored, or it would have been refused
        return _reduce(mass, mass, plan)
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
    total = autograd.total(losses.reshape(losses.numel()))
    if plan.reduction == "mean":
        divisor = _divisor(mass, plan)
        # A mean over nothing is nan, and moves nothing: its gradient is 0.
        total = (total / divisor.where(divisor != 0, 1.0)).where(divisor != 0, float("nan"))
    return total.to(plan.dtype)


def _divisor(mass: Tensor, plan: Plan) -> Tensor:
    if plan.soft:
        return mass.new_tensor(mass.numel() if plan.classes else 0)
    if plan.class_weight is None:
        return mass.sum()  # of ones and zeros: exact in any order up to 2**53 rows
    return autograd.total(mass.reshape(mass.numel()))


def _differentiable(tensor: Tensor) -> bool:
    """Does anything differentiate in `tensor`: autograd, forward mode, or a transform at any level?"""
    if tensor.requires_grad and torch.is_grad_enabled():
        return True
    if torch.compiler.is_compiling():
        return False
    while is_functorch_wrapped_tensor(tensor):
        if is_gradtrackingtensor(tensor):  # of grad or of jvp
            return True
        tensor = get_unwrapped(tensor)
    return (tensor.requires_grad and torch.is_grad_enabled()) or unpack_dual(tensor).tangent is not None
