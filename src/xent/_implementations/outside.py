"""A loss of another framework as a function of torch tensors, with its gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .implementation import Loss, only

Evaluated = tuple[Any, Callable[[Tensor], Any]]
"""The value, and the gradient of it for a gradient that comes from above; arrays."""


def evaluated(evaluate: Callable[[Tensor, Tensor, str], Evaluated]) -> Loss:
    """torch's signature around ``evaluate(input, target, reduction)``."""

    def loss(input: Tensor, target: Tensor, **options: Any) -> Tensor:
        (reduction,) = only(options, reduction="mean")
        return _Outside.apply(input, target.detach(), reduction, evaluate)  # type: ignore[return-value]

    return loss


class _Outside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, reduction: str, evaluate: Any) -> Tensor:
        value, ctx.pull = evaluate(input.detach(), target, reduction)
        ctx.dtype = input.dtype
        return _tensor(value, input.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return _tensor(ctx.pull(upstream), ctx.dtype), None, None, None


def _tensor(array: Any, dtype: torch.dtype) -> Tensor:
    """By way of numpy, whose array every framework makes, and float64, which holds every narrower number."""
    return torch.from_numpy(array.__array__().astype("float64")).to(dtype)
