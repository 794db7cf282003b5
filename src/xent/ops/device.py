"""The short way on a GPU: the loss of plain eager tensors in two or three kernels, its gradient in one.

The long way is some thirty kernels of torch's around the two of the backend, 5 us each whatever the size. Nothing here
waits for the GPU: what a mean divides by stays there. Whoever traces, transforms, batches or wants second derivatives
is led the long way.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import Function

from .. import _algebra, _plan
from .._plan import Sums
from ..backends import choose, triton
from . import direct, losses
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
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float, sums: Sums
) -> Tensor:
    """The loss; everything has passed the door and `serves`, and rows have no weights."""
    soft = target if target.is_floating_point() else None
    dtype = sums.dtype or _plan.result_dtype(input, soft, weight)
    factors = _algebra.factors(label_smoothing, input.shape[_dim(input)])
    call = target, weight, ignore_index, factors, sums, dtype
    if input.requires_grad and torch.is_grad_enabled():
        return _apply(input, call)
    return _loss(input, call)[0]


def _dim(input: Tensor) -> int:
    return 0 if input.ndim == 1 else 1


def _loss(input: Tensor, call: tuple, early: bool = False) -> tuple[Any, ...]:
    """The result, what its gradient is divided by, two facts a row, and the gradient where it is asked for `early`."""
    target, *others, sums, dtype = call
    dim = _dim(input)
    rows = _plan.rows_of(input, dim)
    if target.is_floating_point():
        target = _plan.rows_of(target, dim)
    by = losses.num_items(sums, input.device)
    if by is not None:
        whole, _, peak, rest = triton.loss(rows, target, *others, "sum", dtype, torch.float64)
        return losses.divided(whole, by, sums).to(dtype), by, peak, rest, None
    found = triton.loss_and_gradient(rows, target, *others, sums.reduction, dtype) if early else None
    loss, divisor, peak, rest, gradient = found or (*triton.loss(rows, target, *others, sums.reduction, dtype), None)
    if sums.reduction == "none":
        loss = loss.reshape(input.shape[:dim] + input.shape[dim + 1 :])
    elif sums.all_ignored == 0:  # the divisor of a sum is 1
        loss = loss.where(divisor != 0, 0.0)
    return loss, divisor, peak, rest, gradient


class _Loss(Function):
    """Saved are the logits (a reference), the target, the class weights, two facts a row, and the divisor."""

    @staticmethod
    def forward(ctx: Any, input, call):  # pyright: ignore[reportIncompatibleMethodOverride]
        target, weight, *ctx.options = call
        ctx.save_for_backward(input, target, weight)
        loss, *ctx.found, ctx.gradient = _loss(input, call, input.nbytes <= direct.limit_elsewhere)
        return loss

    @staticmethod
    def backward(ctx: Any, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        input, target, weight = ctx.saved_tensors
        (ignore_index, factors, sums, _), (divisor, peak, rest) = ctx.options, ctx.found
        dim = _dim(input)
        rows = _plan.rows_of(input, dim)
        if target.is_floating_point():
            target = _plan.rows_of(target, dim)
        call = rows, target, weight, ignore_index, peak, rest
        share = grad.reshape(peak.shape) if sums.reduction == "none" else grad
        made, ctx.gradient = ctx.gradient, None  # never handed out twice
        if torch.is_grad_enabled() or not (unwatched() and ordinary(grad)) or is_legacy_batchedtensor(grad):
            ours, theirs = factors
            share = (share.to(torch.float64) / divisor).where(divisor != 0, 0.0).expand(peak.shape)
            gradient = row_grad(*call, ours * share, theirs * share if theirs else None)
        else:
            gradient = triton.step(*call, share, None, made, divisor, factors, made=made is not None)
        return gradient.reshape(input.shape), None


# Function.apply would look for transforms once more, 2 us.
_apply: Callable[..., Tensor] = super(Function, _Loss).apply  # pyright: ignore[reportAttributeAccessIssue]
