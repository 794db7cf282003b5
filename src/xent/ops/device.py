"""The short way on a GPU: the loss of plain eager tensors in two or three kernels, its gradient in one.

The long way is some thirty kernels of torch's around the two of the backend, 5 us each whatever the size. Nothing here
waits for the GPU: what a mean divides by stays there. Whoever traces, transforms, batches or wants second derivatives
is led the long way.
"""

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import Function

from .. import _algebra, _plan
from ..backends import choose, triton
from .autograd import row_grad
from .direct import ordinary, unwatched


def serves(input: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    """Strided tensors as they are, nobody watching, and no derivative but that of the logits."""
    return (
        not torch.compiler.is_compiling()
        and choose(input.device) is triton
        and unwatched()
        and ordinary(input)
        and ordinary(target)
        and not (target.requires_grad and torch.is_grad_enabled())
        and (weight is None or (ordinary(weight) and not (weight.requires_grad and torch.is_grad_enabled())))
        and input.numel() > 0
    )


def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor:
    """The loss; everything has passed the door and `serves`."""
    plan = _plan.loss(input.detach(), target, weight, ignore_index, reduction, label_smoothing)
    if input.requires_grad and torch.is_grad_enabled():
        return _Loss.apply(input, plan)
    return _loss(plan)[0]


def _loss(plan: _plan.Plan) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    factors = _algebra.factors(plan.smoothing, plan.classes)
    loss, divisor, peak, rest = triton.loss(
        plan.rows, plan.target, plan.class_weight, plan.ignore_index, factors, plan.reduction, plan.dtype
    )
    return (loss.reshape(plan.shape) if plan.reduction == "none" else loss), divisor, peak, rest


class _Loss(Function):
    """Saved are the logits (a reference), the target, the class weights, two facts a row, and the divisor."""

    @staticmethod
    def forward(ctx: Any, input, plan):  # pyright: ignore[reportIncompatibleMethodOverride]
        loss, ctx.divisor, ctx.peak, ctx.rest = _loss(plan)
        ctx.save_for_backward(input, plan.target, plan.class_weight)
        ctx.ignore_index, ctx.factors = plan.ignore_index, _algebra.factors(plan.smoothing, plan.classes)
        ctx.each = plan.reduction == "none"
        return loss

    @staticmethod
    def backward(ctx: Any, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        input, target, weight = ctx.saved_tensors
        rows = _plan.rows_of(input, 0 if input.ndim == 1 else 1)
        outer, _, inner = rows.shape
        call = (target, weight, ctx.ignore_index, ctx.peak, ctx.rest)
        share = grad.reshape(outer, inner) if ctx.each else grad
        if torch.is_grad_enabled() or not (unwatched() and ordinary(grad)) or is_legacy_batchedtensor(grad):
            ours, theirs = ctx.factors
            share = (share.to(torch.float64) / ctx.divisor).where(ctx.divisor != 0, 0.0).expand(outer, inner)
            gradient = row_grad(rows, *call, ours * share, theirs * share if theirs else None)
        else:
            gradient = triton.step(rows.detach(), *call, share, None, ctx.divisor, ctx.factors)
        return gradient.reshape(input.shape), None
