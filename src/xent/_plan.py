"""Arguments -> Plan: one call after every question has been answered."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _check


@dataclass(frozen=True, slots=True)
class Plan:
    """One cross-entropy call: rows laid out, options settled."""

    rows: Tensor
    """Logits (or log-probabilities) as ``(outer, V, inner)``: a view wherever the strides allow one."""
    target: Tensor
    """Labels, any integer dtype, in the caller's shape; or probabilities, ``(outer, V, inner)``."""
    class_weight: Tensor | None
    """``(V,)``, any real dtype."""
    ignore_index: int
    smoothing: float
    reduction: str
    shape: torch.Size
    """Of the loss before reduction."""
    dtype: torch.dtype
    """Of the result; the arithmetic in between is wider."""

    @property
    def classes(self) -> int:
        return self.rows.shape[1]

    @property
    def soft(self) -> bool:
        """Is the target a distribution over the classes?"""
        return self.target.is_floating_point()


def rows_of(input: Tensor, dim: int) -> Tensor:
    """`input` as ``(outer, V, inner)`` with the classes in the middle."""
    if input.ndim == 0:
        return input.reshape(1, 1, 1)
    if input.ndim == 2 and dim == 1:  # the common case, in a third of the time
        return input.unsqueeze(2)
    # not Size.numel, which pins the sizes that torch.compile keeps symbolic
    outer, inner = math.prod(input.shape[:dim]), math.prod(input.shape[dim + 1 :])
    return input.reshape(outer, input.shape[dim], inner)


def loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float = 0.0,
) -> Plan:
    """Settle one call; `input` and `target` have passed the door."""
    at = 0 if input.ndim == 1 else 1
    shape = input.shape[:at] + input.shape[at + 1 :]
    soft = target.is_floating_point()
    if soft and target.layout is not torch.strided:
        target = target.to_dense()
    return Plan(
        rows=rows_of(input, at),
        target=rows_of(target, at) if soft else target.reshape(shape),
        class_weight=weight,
        ignore_index=ignore_index,
        smoothing=label_smoothing,
        reduction=reduction,
        shape=shape,
        dtype=result_dtype(input, target if soft else None, weight),
    )


def result_dtype(input: Tensor, *others: Tensor | None) -> torch.dtype:
    """As torch promotes; float32 under autocast, whose rounding to 16 bits would come before the loss."""
    dtype = input.dtype
    for other in others:
        if other is not None:
            dtype = torch.promote_types(dtype, other.dtype)
    if dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled(input.device.type):
        return torch.float32
    return dtype


def softmax_dtype(input: Tensor) -> torch.dtype:
    """Of a softmax without `dtype`: torch's autocast widens it on every device but the CPU."""
    return input.dtype if input.device.type == "cpu" else result_dtype(input)


def widens(have: torch.dtype, want: torch.dtype) -> bool:
    """Does `want` hold every value of `have`, so that no rounding comes before the arithmetic?"""
    return have in _check.LOGITS and want in _check.LOGITS and torch.promote_types(have, want) == want
