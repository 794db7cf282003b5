"""Arguments -> Plan: one call after every question has been answered."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _check


@dataclass(frozen=True, slots=True)
class Sums:
    """How the losses of the rows become the result."""

    reduction: str
    token_weight: Tensor | None = None
    """A factor of each row, in the shape of the labels."""
    num_items: float | Tensor | None = None
    """What a mean divides by in place of the weight of its rows; a tensor is float64."""
    all_ignored: float = math.nan
    """A mean over nothing."""
    dtype: torch.dtype | None = None
    """Of the result, where it is not the one that torch gives it."""


def sums(input: Tensor, shape, reduction: str, token_weight, num_items, all_ignored, dtype, shift: int = 0) -> Sums:
    """Ask and settle; `shape` is that of the labels."""
    _check.token_weight(token_weight, shape, input)
    items, nothing = _check.num_items(num_items, reduction), _check.all_ignored(all_ignored)
    if shift and token_weight is not None:
        token_weight = moved(token_weight, shift, 0)
    return Sums(reduction, token_weight, items, nothing, _check.result_dtype(dtype))


@dataclass(frozen=True, slots=True)
class Shaping:
    """What is done to the logits, and asked of their size."""

    softcap: float | None = None
    scale: float | Tensor = 1.0
    z_loss: float = 0.0

    @property
    def moves(self) -> bool:
        """Are the logits other ones?"""
        return self.softcap is not None or isinstance(self.scale, Tensor) or self.scale != 1.0


def shaping(input: Tensor, softcap, logit_scale, z_loss) -> Shaping | None:
    """Ask and settle; None where nothing is asked."""
    if softcap is None and type(logit_scale) is float and logit_scale == 1.0 and z_loss == 0.0:
        return None
    return Shaping(_check.softcap(softcap), _check.logit_scale(logit_scale, input), _check.z_loss(z_loss))


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
    sums: Sums
    shape: torch.Size
    """Of the loss before reduction."""
    dtype: torch.dtype
    """Of the result; the arithmetic in between is wider."""
    shaping: Shaping | None = None

    @property
    def reduction(self) -> str:
        return self.sums.reduction

    @property
    def classes(self) -> int:
        return self.rows.shape[1]

    @property
    def soft(self) -> bool:
        """Is the target a distribution over the classes?"""
        return self.target.is_floating_point()


def moved(values: Tensor, shift: int, fill: int | float) -> Tensor:
    """Values that stand `shift` places further to the front of the last dimension, and `fill` behind them."""
    if not values.is_floating_point():
        values = values.to(torch.int64)  # `fill` may be negative
    shift = min(shift, values.shape[-1])
    return torch.cat([values[..., shift:], values.new_full((*values.shape[:-1], shift), fill)], -1)


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
    sums: Sums,
    label_smoothing: float = 0.0,
    shaping: Shaping | None = None,
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
        sums=sums,
        shape=shape,
        dtype=sums.dtype or result_dtype(input, target if soft else None, weight),
        shaping=shaping,
    )


def result_dtype(input: Tensor, *others: Tensor | None) -> torch.dtype:
    """As torch promotes; float32 under autocast, whose rounding to 16 bits would come before the loss."""
    dtype = input.dtype
    for other in others:
        if other is not None:
            dtype = torch.promote_types(dtype, other.dtype)
    if dtype in (torch.bfloat16, torch.float16) and _check.autocast(input):
        return torch.float32
    return dtype


def softmax_dtype(input: Tensor) -> torch.dtype:
    """Of a softmax without `dtype`: torch's autocast widens it on every device but the CPU."""
    return input.dtype if input.device.type == "cpu" else result_dtype(input)


def widens(have: torch.dtype, want: torch.dtype) -> bool:
    """Does `want` hold every value of `have`, so that no rounding comes before the arithmetic?"""
    return have in _check.LOGITS and want in _check.LOGITS and torch.promote_types(have, want) == want


# -- a linear head --------------------------------------------------------------------------------

CLASSES = 8192
"""Of the block in which logits are made, whatever the tile."""


def block_rows(dtype: torch.dtype) -> int:
    """Of the block, which is 16 MB. With half of them a product takes a sixth longer, with a quarter a third."""
    return 2048 // dtype.itemsize


BUDGET = 512 << 20
"""Bytes of a tile where the caller names none."""


@dataclass(frozen=True, slots=True)
class LinearPlan:
    """One cross-entropy of ``hidden @ weight.T + bias``; what has the name of a field of `Plan` is the same."""

    hidden: Tensor
    """``(N, D)``."""
    weight: Tensor
    """``(V, K, D)``, with ``K`` rows of classes for each of `hidden`."""
    bias: Tensor | None
    """``(V, K)``."""
    target: Tensor
    """Labels ``(N, K)``, or probabilities ``(N, V, K)``."""
    class_weight: Tensor | None
    ignore_index: int
    smoothing: float
    sums: Sums
    shape: torch.Size
    dtype: torch.dtype
    budget: int | None
    shaping: Shaping | None = None

    @property
    def classes(self) -> int:
        return self.weight.shape[0]

    @property
    def soft(self) -> bool:
        return self.target.is_floating_point()


def linear(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    sums: Sums,
    label_smoothing: float,
    budget: int | None,
    shaping: Shaping | None = None,
) -> LinearPlan:
    """Settle one call that has passed the door."""
    lead, places = input.shape[:-1], linear_weight.shape[1:-1]
    rows, count = math.prod(lead), math.prod(places)
    classes, width = linear_weight.shape[0], input.shape[-1]
    soft = target.is_floating_point()
    if _check.autocast(input) and input.dtype is not torch.float64:  # as F.linear
        narrow = torch.get_autocast_dtype(input.device.type)
        input, linear_weight = input.to(narrow), linear_weight.to(narrow)
        linear_bias = None if linear_bias is None else linear_bias.to(narrow)
    return LinearPlan(
        hidden=input.reshape(rows, width),
        weight=linear_weight.reshape(classes, count, width),
        bias=None if linear_bias is None else linear_bias.reshape(classes, count),
        target=target.reshape((rows, classes, count) if soft else (rows, count)),
        class_weight=weight,
        ignore_index=ignore_index,
        smoothing=label_smoothing,
        sums=sums,
        shape=lead + places,
        dtype=sums.dtype or result_dtype(input, target if soft else None, weight),
        budget=budget,
        shaping=shaping,
    )


def piece(device: torch.device) -> int:
    """Bytes of products that become other logits at a time, or tell by-products. On a CPU they stay in its cache."""
    return 1 << 18 if device.type in ("cpu", "meta") else 8 << 20


def scratch(device: torch.device) -> int:
    """What operations on a piece take: some ten arrays of up to twice its size, and what the allocator keeps."""
    return 32 * piece(device)


@dataclass(frozen=True, slots=True)
class Tiles:
    """How many rows and classes of the logits there are at a time, and the bytes beside inputs and results."""

    rows: int
    classes: int
    bytes: int


def beside_scratch(budget: int | None, device: torch.device) -> int | None:
    """What a budget leaves for tiles where logits are shaped or looked at in pieces."""
    return None if budget is None else max(budget - scratch(device), 1)


def tiles(
    rows: int, classes: int, width: int, dtype: torch.dtype, budget: int | None, soft: bool, weight_gradient: bool
) -> Tiles:
    """Whole rows where the budget has room for a block of them, otherwise blocks of classes; never less than one.

    Sixteen-bit gradients of the weight add up in float32. Their room counts, unless the budget is the default.
    A distribution is as large as the logits already, so it comes in whole rows.
    """
    size = dtype.itemsize
    sums = width * 4 * (size == 2 and weight_gradient)
    block = block_rows(dtype)
    high = min(rows, block)
    row = classes * size * (1 if classes > 4096 else 2)  # few classes are not written in place
    room = BUDGET if budget is None else budget
    if rows * row <= room:
        return Tiles(rows, classes, rows * row)
    own = classes * sums + min(classes, CLASSES) * width * size * (sums > 0)
    left = room if budget is None else room - own
    if left >= high * row or soft or classes <= CLASSES:
        count = -(-rows // max(left // row // block * block, high))  # tiles of about one size
        at_once = _up(-(-rows // count), block)
        return Tiles(at_once, classes, at_once * row + own)
    own = rows * width * 4 * (size == 2) + 2 * CLASSES * width * size * (size == 2)
    high = max(high, min(_up(rows, block), (room - own - CLASSES * sums) // ((CLASSES + 64) * size) // block * block))
    wide = (room - own) // (high * size + sums) // CLASSES * CLASSES
    wide = max(CLASSES, wide)
    return Tiles(min(high, rows), wide, own + wide * sums + min(high, rows) * (wide + 64) * size)


def least(rows: int, classes: int, dtype: torch.dtype) -> Tiles:
    """One block. Enough where no gradient is made: logits that are not needed again stay near the cache."""
    high, wide = min(rows, block_rows(dtype)), min(classes, CLASSES)
    return Tiles(high, wide, high * (wide + 64) * dtype.itemsize)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
