"""Which program gets which part of the rows, and the calls of the kernels.

What a row's bits could depend on (tile, folds) follows from V and the dtypes; how many rows share a program, and how
many threads, does not touch them.
"""

import math
import struct
from contextlib import AbstractContextManager, nullcontext
from functools import cache, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _check
from ...summary import RowSummary
from . import facts, flags, sums, writes
from .arithmetic import HALF, SINGLE, WIDE

KINDS = {torch.float64: WIDE.value, torch.float32: SINGLE.value, torch.bfloat16: HALF.value, torch.float16: HALF.value}


class Shape(NamedTuple):
    """How a kernel is cut."""

    tile: int
    """Classes a program reads at most."""
    elements: int
    """Of a program with several rows, at most."""
    share: int
    """Elements a thread."""


READ = {WIDE.value: Shape(1024, 1024, 8), SINGLE.value: Shape(4096, 4096, 16), HALF.value: Shape(8192, 4096, 32)}
WRITE = {WIDE.value: Shape(1024, 1024, 8), SINGLE.value: Shape(4096, 4096, 16), HALF.value: Shape(8192, 4096, 32)}
PROGRAMS = 528
"""Four for each of 132 multiprocessors: rather than fewer, a program takes fewer rows."""
FOLDS = 3
"""Pairs that lie in one thread where it reads 16 bytes at once; further ones would travel between threads."""


class Cut(NamedTuple):
    """One launch over ``(outer, V, inner)``."""

    outer: int
    inner: int
    swap: bool
    """The outer rows stand where the inner ones do, for there is one inner row."""
    rows: int
    tile: int
    tiles: int
    warps: int

    @property
    def blocks(self) -> int:
        return -(-self.inner // self.rows)

    @property
    def grid(self) -> tuple[int, int]:
        return self.outer * self.blocks, self.tiles

    def strides(self, tensor: Tensor) -> tuple[int, int, int]:
        """Outer, class, inner."""
        outer, classes, inner = tensor.stride()
        return (0, classes, outer) if self.swap else (outer, classes, inner)

    def pair(self, tensor: Tensor) -> tuple[int, int]:
        """Outer and inner stride of a number a row; 0 for one number."""
        if tensor.ndim < 2:
            return 0, (tensor.stride(0) if tensor.ndim else 0)
        outer, inner = tensor.stride()
        return (0, outer) if self.swap else (outer, inner)

    def units(self, *tensors: Tensor) -> tuple[int, int]:
        """How many neighbouring elements may be read at once: along the classes, or else along the inner rows."""
        strides = [self.strides(tensor) for tensor in tensors]
        outer, classes, inner = (math.gcd(*of) for of in zip(*strides, strict=True))
        if all(of[1] == 1 for of in strides):
            return math.gcd(16, outer, inner, tensors[0].shape[1]), 1
        if all(of[2] == 1 for of in strides):
            return 1, math.gcd(16, outer, classes, self.inner)
        return 1, 1

    def layout(self, *tensors: Tensor) -> dict[str, Any]:
        """What the kernels know of strides beforehand: FAR, offsets within a tile need 64 bits; the units CU and IU."""
        far = any(tensor.stride(1) * self.tile >= 2**31 for tensor in tensors)
        wide = any(tensor.dtype is torch.float64 for tensor in tensors)  # 8 bytes at once do: more cost registers
        along_classes, along_inner = (1, 1) if wide else self.units(*tensors)
        return {"FAR": far, "CU": along_classes, "IU": along_inner}


def _power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


FEW = 64
"""Up to so many classes float32 logits are computed in float64: no class then hides the error of another one's exp."""


def kind_of(*tensors: Tensor | None) -> int:
    """The arithmetic that the widest float among them asks for; the first is the rows."""
    dtypes = [t.dtype for t in tensors if t is not None and t.is_floating_point()]
    dtype, rows = reduce(torch.promote_types, dtypes), tensors[0]
    assert rows is not None
    return WIDE.value if dtype is torch.float32 and rows.shape[1] <= FEW else KINDS[dtype]


def cut(rows: Tensor, kind: int, shapes: dict[int, Shape]) -> Cut:
    """How `rows` are handed out."""
    outer, classes, inner = rows.shape
    swap = inner == 1
    if swap:
        outer, inner = 1, outer
    shape = shapes[kind]
    tile = min(_power(classes), shape.tile)
    tiles = -(-classes // tile)
    count = min(max(shape.elements // tile, 1), _power(inner), _power(max(outer * inner * tiles // PROGRAMS, 1)))
    warps = min(max(_power(count * tile // (32 * shape.share)), 1), 16)
    return Cut(outer, inner, swap, count, tile, tiles, warps)


def _levels(n: int) -> int:
    return n.bit_length() - 1


def _folds(kind: int, tile: int) -> int:
    return _levels(tile) if kind == WIDE.value else min(FOLDS, _levels(tile))


def bits(x: float) -> int:
    """A float64 as an integer argument."""
    return struct.unpack("<q", struct.pack("<d", x))[0]


def on(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current device."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def _numbers(rows: Tensor, count: int = 1) -> Tensor:
    """Room for some numbers a row."""
    return rows.new_empty((count, rows.shape[0], rows.shape[2]), dtype=torch.float64)


def _weights(class_weight: Tensor | None, mixed: bool) -> tuple[Tensor | None, Tensor | None]:
    """Class weights as the kernels read them, and their sum where it is asked for."""
    if class_weight is None:
        return None, None
    weight = class_weight.contiguous()
    if not weight.is_floating_point():
        weight = weight.to(torch.float64)
    return weight, exact_sum(weight.to(torch.float64)) if mixed else None


def _label_kind(target: Tensor | None) -> int:
    return 0 if target is None else 2 if target.is_floating_point() else 1


def summarise(
    rows: Tensor,
    target: Tensor | None,
    class_weight: Tensor | None,
    ignore_index: int,
    mixed: bool,
    out: tuple[Tensor | None, ...],
    factors: tuple[float, float] | None = None,
) -> None:
    """`facts.summary`, and `facts.merge` where a row has several tiles. With `factors` the losses go where `picked` would."""
    labels, kind = _label_kind(target), kind_of(rows, target, class_weight)
    if labels == 1:
        assert target is not None
        if flags.eager(rows.device):
            _check.labels(target, rows.shape[1], ignore_index)
        else:
            flags.look(rows.device)
        target = target.contiguous()
    weight, weight_sum = _weights(class_weight, mixed)
    c = cut(rows, kind, READ)
    partial = None if c.tiles == 1 else _numbers(rows, 6 * c.tiles)
    given = (rows, rows if target is None else target, weight, weight_sum, flags.board(rows.device), partial)
    options = (ignore_index, *map(bits, factors or (1.0, 0.0)))
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows))
    other = c.strides(target) if target is not None and labels == 2 else (0, 0, 0)
    choice: dict[str, Any] = {
        "LABELS": labels,
        "UNSIGNED": target is not None and target.dtype is torch.uint64,
        "WEIGHTED": weight is not None,
        "MIXED": mixed,
        "LOSS": factors is not None,
    }
    count = rows.shape[0] * rows.shape[2] * c.tiles
    tensors = (rows, target) if target is not None and labels == 2 else (rows,)
    with on(rows.device):
        facts.summary[c.grid](
            *(*given, *options, *place, *other, count, *out),
            KIND=kind,
            WHOLE=c.tiles == 1,
            **c.layout(*tensors),
            R=c.rows,
            B=c.tile,
            FOLDS=_folds(kind, c.tile),
            num_warps=c.warps,
            **choice,
        )
        if c.tiles > 1:
            T = _power(c.tiles)
            R = min(max(MERGED // T, 1), _power(c.inner))
            blocks = -(-c.inner // R)
            place = (rows.shape[1], c.inner, blocks, *c.strides(rows))
            facts.merge[(c.outer * blocks,)](
                *(*given, *options, *place, c.tiles, count, *out),
                R=R,
                T=T,
                FOLDS=_levels(T),
                num_warps=1,
                **choice,
            )


MERGED = 64
"""Tiles that a program of `facts.merge` joins, those of several rows where a row has few."""


def row_summary(
    rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, mixed: bool
) -> RowSummary:
    """See `xent.backends.contract`."""
    out = _numbers(rows, 5)
    summarise(rows, target, class_weight, ignore_index, mixed, tuple(out))
    return RowSummary(*out)


def _asked(
    rows: Tensor, other: Tensor, weight: Tensor | None, peak: Tensor, rest: Tensor, kind: int, c: Cut, moment: bool
) -> Tensor:
    """The sums of `writes.split`, a tile each."""
    sums = _numbers(rows, 2 * c.tiles)
    writes.split[c.grid](
        *(rows, other, weight, peak, rest, sums, rows.shape[1], c.inner, c.blocks),
        *(*c.strides(rows), *c.strides(other), sums.numel() // 2),
        KIND=kind,
        MOMENT=moment,
        WEIGHTED=weight is not None,
        **c.layout(rows, other),
        R=c.rows,
        B=c.tile,
        FOLDS=_folds(kind, c.tile),
        num_warps=c.warps,
    )
    return sums


def row_grad(
    rows: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    peak: Tensor,
    rest: Tensor,
    hard: Tensor,
    smooth: Tensor | None,
    divisor: Tensor | None = None,
    factors: tuple[float, float] | None = None,
) -> Tensor:
    """See `xent.backends.contract`. With `factors`, `hard` is what comes from upstream, of any float dtype."""
    out = torch.empty_like(rows)
    labels, kind = _label_kind(target), kind_of(rows, target, class_weight)
    mixed = smooth is not None if factors is None else factors[1] != 0
    weight, weight_sum = _weights(class_weight, mixed)
    c = cut(rows, kind, WRITE)
    peak, rest = peak.contiguous(), rest.contiguous()
    if smooth is not None and smooth.stride() != hard.stride():
        hard, smooth = hard.contiguous(), smooth.contiguous()
    with on(rows.device):
        if labels == 1:
            target, asked, other = target.contiguous(), None, (0, 0, 0)
        else:
            asked, other = _asked(rows, target, weight, peak, rest, kind, c, False), c.strides(target)
        writes.gradient[c.grid](
            *(rows, target, weight, weight_sum, peak, rest, asked, hard, smooth, divisor, out),
            *(ignore_index, *map(bits, factors or (1.0, 0.0)), rows.shape[1], c.inner, c.blocks),
            *(*c.strides(rows), *other, *c.strides(out), *c.pair(hard), c.tiles, peak.numel() * c.tiles),
            KIND=kind,
            LABELS=labels,
            WEIGHTED=weight is not None,
            MIXED=mixed,
            LOSS=factors is not None,
            **c.layout(rows, out, *((target,) if labels == 2 else ())),
            R=c.rows,
            B=c.tile,
            FOLDS=_folds(kind, c.tile),
            T=_power(c.tiles),
            LEVELS=_levels(_power(c.tiles)),
            num_warps=c.warps,
        )
    return out


def softmax(rows: Tensor, log: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """See `xent.backends.contract`."""
    if torch.promote_types(rows.dtype, dtype) is dtype:
        rows = rows.to(dtype)  # exact
    out = torch.empty_like(rows, dtype=dtype)
    peak, rest = _numbers(rows, 2)
    summarise(rows, None, None, -100, False, (peak, rest, None, None, None))
    c = cut(rows, kind_of(rows), WRITE)
    with on(rows.device):
        writes.softmax[c.grid](
            *(rows, peak, rest, out, rows.shape[1], c.inner, c.blocks, *c.strides(rows), *c.strides(out)),
            KIND=kind_of(rows),
            LOG=log,
            **c.layout(rows, out),
            R=c.rows,
            B=c.tile,
            num_warps=c.warps,
        )
    return out, peak, rest


def softmax_grad(rows: Tensor, peak: Tensor, rest: Tensor, grad: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    out, kind = torch.empty_like(rows), kind_of(rows, grad)
    c = cut(rows, kind, WRITE)
    peak, rest = peak.contiguous(), rest.contiguous()
    with on(rows.device):
        moments = _asked(rows, grad, None, peak, rest, kind, c, True)
        writes.softmax_slope[c.grid](
            *(rows, grad, peak, rest, moments, out, rows.shape[1], c.inner, c.blocks),
            *(*c.strides(rows), *c.strides(grad), *c.strides(out), c.tiles, moments.numel() // 2),
            KIND=kind,
            **c.layout(rows, grad, out),
            R=c.rows,
            B=c.tile,
            FOLDS=_folds(kind, c.tile),
            T=_power(c.tiles),
            LEVELS=_levels(_power(c.tiles)),
            num_warps=c.warps,
        )
    return out


def _one_block(values: Tensor) -> Tensor:
    """Rows of numbers with the same sums, short enough for one block."""
    while values.shape[1] > sums.BLOCK:
        blocks = -(-values.shape[1] // sums.BLOCK)
        fewer = values.new_empty((values.shape[0], blocks * sums.PARTS))
        sums.shrink[(blocks, values.shape[0])](values, fewer, values.shape[1], values.stride(0), B=sums.BLOCK)
        values = fewer
    return values


def exact_sum(values: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    shape = values.shape[:-1]
    out = values.new_empty(shape)
    values = values.reshape(shape.numel(), values.shape[-1]).contiguous()
    with on(values.device):
        few = _one_block(values)
        block = _power(few.shape[1])
        sums.total[(1, shape.numel())](few, out, few.shape[1], few.stride(0), B=block)
    return out


def loss(
    rows: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    factors: tuple[float, float],
    reduction: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss in `dtype` (of each row for ``"none"``), what a gradient is divided by, and the facts `peak` and `rest`."""
    numbers = _numbers(rows, 4)
    losses, mass, peak, rest = numbers
    if reduction == "none":
        losses = torch.empty_like(losses, dtype=dtype)
    mixed = factors[1] != 0
    summarise(rows, target, class_weight, ignore_index, mixed, (peak, rest, losses, mass, None), factors)
    if reduction == "none":
        return losses, _one(rows.device), peak, rest
    out, divisor = rows.new_empty((), dtype=dtype), rows.new_empty((), dtype=torch.float64)
    with on(rows.device):
        few = _one_block(numbers[:2].view(2, -1))
        sums.reduce[(1,)](
            *(few, out, divisor, few.shape[1], few.stride(0), peak.numel()),
            B=_power(few.shape[1]),
            MEAN=reduction == "mean",
            COUNTED=target.is_floating_point(),
        )
    return out, divisor, peak, rest


@cache
def _one(device: torch.device) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=device)
