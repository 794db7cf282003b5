"""The short way: the loss of plain eager CPU tensors, and softmax anywhere, around the dispatcher and the algebra.

A call of 64 rows of 10 classes is 1 us of arithmetic and 30 of torch's autograd; each tensor operation would add 2 to
10. So the kernels are given the two factors of the algebra as numbers, and give back a number. Whoever traces,
transforms, batches or wants second derivatives is led the long way.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active, _get_tracing_state, _len_torch_dispatch_stack
from torch._C._functorch import is_legacy_batchedtensor
from torch._ops import _len_torch_dispatch_stack_pre_dispatch
from torch.autograd import Function, forward_ad
from torch.nn import Parameter

from .. import _algebra, _check, _plan
from ..backends import choose, native, pages, reference
from .autograd import row_grad, softmax_grad

_op = torch.ops.xent

IN_FORWARD = 32 << 20
"""Bytes of logits up to which the gradient is written in the forward pass, where nobody says otherwise."""

_limit: float = IN_FORWARD
limit_elsewhere: float = -1
"""The same on a GPU, where nothing is said to be none."""
_KINDS = frozenset((Tensor, Parameter))
_CPU = torch.device("cpu")


def set_grad_in_forward(limit: bool | int | None) -> None:
    """Up to how many bytes of logits :func:`cross_entropy` makes their gradient in the forward pass.

    There a row is in the cache, and is read from memory once instead of twice: a step of 2,048 x 32,000 in float32
    took 21 ms instead of 31 on a CPU. On a GPU it is done for labels of up to 2,048 classes (1,024 in float64), whose
    rows a program holds; longer ones would be read twice all the same. The price is the memory of the gradient from
    the forward pass on, whether or not a backward pass comes; and it is made a second time if that pass begins with
    anything but 1, as in
    ``(loss / 4).backward()`` or under a `GradScaler`. A loss of ``reduction='none'`` never does it.

    Args:
        limit: bytes; ``True`` for any size, ``False`` for none, ``None`` for the default, 32 MiB on a CPU and none on
            a GPU.

    Raises:
        ArgumentError: neither an int nor None.
        OptionError: below 0.

    Example:
        >>> xent.set_grad_in_forward(True)
        >>> logits = torch.zeros(1, 2, requires_grad=True)
        >>> xent.cross_entropy(logits, torch.tensor([0])).backward()
        >>> logits.grad
        tensor([[-0.5000,  0.5000]])
        >>> xent.set_grad_in_forward(None)

    Loss and gradient have the same bits wherever they are made. Torch has no twin: its forward pass writes the
    log-probabilities of all classes, which take as much memory.
    """
    global _limit, limit_elsewhere
    _limit, limit_elsewhere = _check.forward_limit(limit, IN_FORWARD), _check.forward_limit(limit, -1)


def serves(input: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    """Strided tensors on the CPU as they are, nobody watching, and no derivative but that of the logits."""
    return (
        not torch.compiler.is_compiling()
        and input.is_cpu
        and unwatched()
        and _plain(input)
        and _plain(target)
        and not (target.requires_grad and torch.is_grad_enabled())
        and (weight is None or (_plain(weight) and not (weight.requires_grad and torch.is_grad_enabled())))
        and (target.dtype is input.dtype or not target.is_floating_point())
        and choose(_CPU) is native
        and input.numel() > 0
    )


def unwatched() -> bool:
    """No transform, mode, tracer or forward derivative that would have to see the operations."""
    return (
        not _are_functorch_transforms_active()
        and not _len_torch_dispatch_stack()
        and not _len_torch_dispatch_stack_pre_dispatch()
        and _get_tracing_state() is None
        and forward_ad._current_level < 0
        and not (torch.is_inference_mode_enabled() and torch.is_grad_enabled())
    )


def _plain(tensor: Tensor) -> bool:
    """An ordinary tensor on the CPU."""
    return tensor.is_cpu and ordinary(tensor)


def ordinary(tensor: Tensor) -> bool:
    """No subclass, no wrapper, not sparse, nested, negated or made for inference only."""
    return (
        type(tensor) in _KINDS
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
        and not tensor.is_inference()
    )


def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor:
    """The loss; everything has passed the door and `serves`."""
    dtype = input.dtype
    if weight is not None or dtype.itemsize == 2:
        dtype = _plan.result_dtype(input, weight)
    factors = _algebra.factors(label_smoothing, input.shape[0 if input.ndim == 1 else 1])
    call = target, weight, ignore_index, reduction, factors, dtype
    if input.requires_grad and torch.is_grad_enabled():
        return _apply(input, call)
    return _loss(_rows(input), input, call)[0]


def _rows(input: Tensor) -> Tensor:
    """``(N, V)`` as it is, everything else as ``(outer, V, inner)``."""
    if input.ndim == 2:
        return input
    return _plan.rows_of(input, 0 if input.ndim == 1 else 1)


def _loss(rows: Tensor, input: Tensor, call: tuple, **room) -> tuple[Tensor, float]:
    """The result, and what its gradient is divided by."""
    target, weight, ignore_index, reduction, factors, dtype = call
    if target.is_floating_point():
        target = _rows(target)
    if reduction != "none":
        value, divisor = native.loss(rows, target, weight, ignore_index, factors, reduction == "mean", **room)
        # by way of float64: a number that is no float32 becomes inf, as it does elsewhere
        loss = torch.scalar_tensor(value, dtype=torch.float64, device=_CPU).to(dtype)
        return loss, divisor if reduction == "mean" else 1.0
    losses = torch.empty(input.shape[:1] * (input.ndim > 1) + input.shape[2:], dtype=torch.float64, device=_CPU)
    native.loss(rows, target, weight, ignore_index, factors, False, losses=losses, **room)
    return losses.to(dtype), 1.0


class _Loss(Function):
    """The gradient is made in the forward pass where the logits are in the cache and one factor serves all rows."""

    @staticmethod
    def forward(ctx: Any, input, call):  # pyright: ignore[reportIncompatibleMethodOverride]
        target, weight, _, reduction, *_ = ctx.call = call
        ctx.save_for_backward(input, target, weight)
        rows = _rows(input)
        if reduction != "none" and input.nbytes <= _limit:
            ctx.facts, ctx.gradient = None, pages.empty_like(rows)
            loss, ctx.divisor = _loss(rows, input, call, gradient=ctx.gradient)
        else:
            facts = tuple(rows.new_empty(_outer_inner(rows), dtype=torch.float64) for _ in range(2))
            ctx.facts, ctx.gradient = facts, None
            loss, ctx.divisor = _loss(rows, input, call, facts=facts)
        return loss

    @staticmethod
    def backward(ctx: Any, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        input, target, weight = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None  # never handed out twice
        watched = torch.is_grad_enabled() or not (unwatched() and _plain(grad)) or is_legacy_batchedtensor(grad)
        if gradient is None or watched or grad.item() != 1:
            gradient = _gradient(ctx, grad, input, target, weight, row_grad if watched else native.row_grad)
        return gradient if gradient.shape == input.shape else gradient.reshape(input.shape), None


# Function.apply would look for transforms once more, 2 us.
_apply: Callable[..., Tensor] = super(Function, _Loss).apply  # pyright: ignore[reportAttributeAccessIssue]


def _outer_inner(rows: Tensor) -> tuple[int, int]:
    return rows.shape[0], rows.shape[2] if rows.ndim == 3 else 1


def _gradient(ctx: Any, grad: Tensor, input, target, weight, row_grad: Callable[..., Tensor]) -> Tensor:
    """From the logits, with whatever factor comes in; differentiable if `row_grad` is."""
    *_, ignore_index, reduction, (ours, theirs), _ = ctx.call
    dim = 0 if input.ndim == 1 else 1
    rows = _plan.rows_of(input, dim)
    if target.is_floating_point():
        target = _plan.rows_of(target, dim)
    peak, rest = ctx.facts or _op.row_summary(rows.detach(), target, weight, ignore_index, False)[:2]
    share = grad.to(torch.float64) / ctx.divisor if ctx.divisor else torch.zeros_like(grad, dtype=torch.float64)
    shape = _outer_inner(rows)
    share = share.reshape(shape) if reduction == "none" else share.expand(shape)
    smooth = theirs * share if theirs else None
    return row_grad(rows, target, weight, ignore_index, peak, rest, ours * share, smooth)


def serves_softmax(input: Tensor, dtype: torch.dtype) -> bool:
    """As `serves`, for a softmax that keeps the dtype; on a GPU too."""
    return (
        not torch.compiler.is_compiling()
        and unwatched()
        and ordinary(input)
        and input.dtype is dtype
        and choose(input.device) is not reference
        and input.numel() > 0
    )


def softmax(input: Tensor, dim: int, log: bool) -> Tensor:
    """``p`` or ``log p`` over `dim`; everything has passed the door and `serves_softmax`."""
    if input.requires_grad and torch.is_grad_enabled():
        return _apply_softmax(input, dim, log)
    backend = choose(input.device)
    return backend.softmax(_plan.rows_of(input, dim), log, input.dtype)[0].reshape(input.shape)


class _Softmax(Function):
    @staticmethod
    def forward(ctx: Any, input, dim, log):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(input)
        ctx.dim, ctx.log, ctx.backend = dim, log, choose(input.device)
        out, *ctx.facts = ctx.backend.softmax(_plan.rows_of(input, dim), log, input.dtype)
        return out.reshape(input.shape)

    @staticmethod
    def backward(ctx: Any, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        (input,) = ctx.saved_tensors
        rows, slope, (peak, rest) = _plan.rows_of(input, ctx.dim), _plan.rows_of(grad, ctx.dim), ctx.facts
        watched = torch.is_grad_enabled() or not (unwatched() and ordinary(grad)) or is_legacy_batchedtensor(grad)
        if ctx.log:  # g - p sum(g) is the gradient of a loss whose attraction is g, negated
            once = torch.full((), -1.0, dtype=torch.float64, device=input.device).expand(rest.shape)
            pull = row_grad if watched else ctx.backend.row_grad
            gradient = pull(rows, slope, None, -100, peak, rest, once, None)
        else:
            gradient = (softmax_grad if watched else ctx.backend.softmax_grad)(rows, peak, rest, slope)
        return gradient.reshape(input.shape), None, None


_apply_softmax: Callable[..., Tensor] = super(Function, _Softmax).apply  # pyright: ignore[reportAttributeAccessIssue]
