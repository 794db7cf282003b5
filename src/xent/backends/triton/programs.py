"""Shapes and dtypes of a call -> the launches it takes, worked out once."""

import struct
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import early, facts, moments, sums, targets, writes
from .arithmetic import WIDE
from .cut import Like, folds, kind_of, like, power, reading, writing
from .launch import Launch

MERGED = 64
"""Tiles that a program of `facts.merge` joins, those of several rows where a row has few."""


def bits(x: float) -> int:
    """A float64 as an integer argument."""
    return struct.unpack("<q", struct.pack("<d", x))[0]


class Asked(NamedTuple):
    """What of a call chooses the kernels, beside the rows."""

    target: torch.dtype | None
    soft: Like | None
    """A distribution."""
    weight: torch.dtype | None
    ignore_index: int
    mixed: bool
    factors: tuple[float, float] | None

    @property
    def labels(self) -> int:
        """What the kernels call LABELS."""
        return 0 if self.target is None else 1 if self.soft is None else 2

    @property
    def options(self) -> tuple[int, int, int]:
        """The first of their numbers."""
        ours, theirs = self.factors or (1.0, 0.0)
        return self.ignore_index, bits(ours), bits(theirs)

    def choice(self) -> dict[str, Any]:
        """What several kernels know beforehand."""
        return {
            "LABELS": self.labels,
            "WEIGHTED": self.weight is not None,
            "MIXED": self.mixed,
            "LOSS": self.factors is not None,
        }


def asked(target: Tensor | None, weight: Tensor | None, ignored: int, mixed: bool, factors=None) -> Asked:
    """Of these arguments."""
    if target is None:
        return Asked(None, None, None, ignored, mixed, factors)
    soft = like(target) if target.is_floating_point() else None
    return Asked(target.dtype, soft, None if weight is None else weight.dtype, ignored, mixed, factors)


class Facts(NamedTuple):
    """The launches that find the facts of rows."""

    tiles: int
    """Of a row."""
    summary: Launch
    merge: Launch | None
    """Where a row has several tiles."""


@lru_cache(4096)
def summary(rows: Like, asked: Asked, good: torch.dtype, out: torch.dtype | None = None) -> Facts:
    """Of `facts.summary` and `facts.merge`, the numbers as exact as a loss in `good` needs them; `out` is the dtype
    that losses are written in, which Triton's code depends on."""
    kind = kind_of(rows.shape[1], rows.dtype, good, asked.target, asked.weight)
    c, choice = reading(rows, kind), asked.choice() | {"UNSIGNED": asked.target is torch.uint64}
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows))
    tensors = (rows,) if asked.soft is None else (rows, asked.soft)
    first = Launch(
        facts.summary,
        c.grid,
        (*asked.options, *place, *c.strides(asked.soft), c.parts),
        c.warps,
        KIND=kind,
        WHOLE=c.tiles == 1,
        R=c.rows,
        B=c.tile,
        FOLDS=folds(kind, c.tile),
        **c.layout(*tensors),
        **choice,
    )
    if c.tiles == 1:
        return Facts(1, first, None)
    T = power(c.tiles)
    R = min(max(MERGED // T, 1), power(c.inner))
    blocks = -(-c.inner // R)
    numbers = (*asked.options, rows.shape[1], c.inner, blocks, *c.strides(rows), c.tiles, c.parts)
    return Facts(c.tiles, first, Launch(facts.merge, (c.outer * blocks, 1), numbers, 1, R=R, T=T, **choice))


@lru_cache(4096)
def split(rows: Like, other: Like, weight: torch.dtype | None, moment: bool) -> tuple[int, Launch]:
    """How many tiles a row has, and the launch of `writes.split`."""
    kind = kind_of(rows.shape[1], rows.dtype, other.dtype, weight)
    c = writing(rows, kind)
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows), *c.strides(other), c.parts)
    constants = {"KIND": kind, "MOMENT": moment, "WEIGHTED": weight is not None, "FOLDS": folds(kind, c.tile)}
    layout = c.layout(rows, other)
    return c.tiles, Launch(writes.split, c.grid, place, c.warps, R=c.rows, B=c.tile, **constants, **layout)


@lru_cache(4096)
def gradient(
    rows: Like,
    out: Like,
    asked: Asked,
    hard: tuple[int, ...],
    upstream: torch.dtype,
    own: torch.dtype | None = None,
    made: bool = False,
) -> Launch:
    """Of `writes.gradient`, for an upstream number a row of these strides and this dtype, or one number; `own`: the
    logits of the labels are given; `made`: so is the gradient for a 1."""
    kind = kind_of(rows.shape[1], rows.dtype, asked.target, asked.weight)
    c = writing(rows, kind)
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows), *c.strides(asked.soft), *c.strides(out))
    tensors = (rows, out) if asked.soft is None else (rows, out, asked.soft)
    return Launch(
        writes.gradient,
        c.grid,
        (*asked.options, *place, *c.pair(hard), c.tiles, c.parts),
        c.warps,
        KIND=kind,
        R=c.rows,
        B=c.tile,
        FOLDS=folds(kind, c.tile),
        T=power(c.tiles),
        OWN=own is not None,
        MADE=made,
        **c.layout(*tensors),
        **asked.choice(),
    )


@lru_cache(4096)
def softmax(rows: Like, out: Like, log: bool) -> Launch:
    """Of `writes.softmax`."""
    kind = kind_of(rows.shape[1], rows.dtype)
    c = writing(rows, kind)
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows), *c.strides(out))
    return Launch(writes.softmax, c.grid, place, c.warps, KIND=kind, LOG=log, R=c.rows, B=c.tile, **c.layout(rows, out))


@lru_cache(4096)
def slope(rows: Like, grad: Like, out: Like) -> Launch:
    """Of `writes.softmax_slope`."""
    kind = kind_of(rows.shape[1], rows.dtype, grad.dtype)
    c = writing(rows, kind)
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows), *c.strides(grad), *c.strides(out))
    return Launch(
        writes.softmax_slope,
        c.grid,
        (*place, c.tiles, c.parts),
        c.warps,
        KIND=kind,
        R=c.rows,
        B=c.tile,
        FOLDS=folds(kind, c.tile),
        T=power(c.tiles),
        **c.layout(rows, grad, out),
    )


@lru_cache(4096)
def spread(rows: Like) -> tuple[int, Launch]:
    """How many tiles a row has, and the launch of `moments.spread`."""
    c = reading(rows, WIDE.value)
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows), c.parts)
    return c.tiles, Launch(moments.spread, c.grid, place, c.warps, R=c.rows, B=c.tile, **c.layout(rows))


@lru_cache(4096)
def spread_slope(rows: Like, out: Like) -> Launch:
    """Of `moments.spread_slope`."""
    c = writing(rows, WIDE.value)
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows), *c.strides(out))
    return Launch(moments.spread_slope, c.grid, place, c.warps, R=c.rows, B=c.tile, **c.layout(rows, out))


@lru_cache(4096)
def labels(dtype: torch.dtype, count: int, classes: int, ignore_index: int) -> Launch:
    """Of `targets.labels`, for so many of them."""
    numbers, unsigned = (ignore_index, classes, count), dtype is torch.uint64
    return Launch(targets.labels, (-(-count // 1024), 1), numbers, 4, UNSIGNED=unsigned, B=1024)


@lru_cache(4096)
def rescale(count: int, values: torch.dtype, factor: torch.dtype) -> Launch:
    """Of `writes.rescale`; Triton's code depends on the dtypes."""
    return Launch(writes.rescale, (-(-count // 4096), 1), (count,), 4, B=4096)


class Sums(NamedTuple):
    """How rows of numbers are added up."""

    shrinks: tuple[tuple[Launch, int], ...]
    """Launches of `sums.shrink`, and how many numbers each leaves of a row."""
    left: int
    """Numbers in the end, in one block."""
    stride: int


@lru_cache(4096)
def shrinks(rows: int, count: int, stride: int) -> Sums:
    """Until a row of numbers, `stride` from the next, is one block."""
    found = []
    while count > sums.BLOCK:
        blocks = -(-count // sums.BLOCK)
        found.append((Launch(sums.shrink, (blocks, rows), (count, stride), 4, B=sums.BLOCK), blocks * sums.PARTS))
        count = stride = blocks * sums.PARTS
    return Sums(tuple(found), count, stride)


@lru_cache(4096)
def total(rows: int, count: int, stride: int) -> Launch:
    """Of `sums.total`."""
    return Launch(sums.total, (1, rows), (count, stride), 4, B=power(count))


class Reduction(NamedTuple):
    """The launches of a mean or a sum."""

    sums: Sums
    reduce: Launch


@lru_cache(4096)
def reduction(count: int, mean: bool, counted: bool, dtype: torch.dtype) -> Reduction:
    """Of two numbers a row, loss and mass, into a result of this dtype; `counted`: a mean divides by the number of
    rows."""
    plan = shrinks(2, count, count)
    numbers = (plan.left, plan.stride, count)
    return Reduction(plan, Launch(sums.reduce, (1, 1), numbers, 4, B=power(plan.left), MEAN=mean, COUNTED=counted))


class Loss(NamedTuple):
    """The launches of a loss."""

    facts: Facts
    reduction: Reduction


@lru_cache(4096)
def loss(rows: Like, asked: Asked, mean: bool, dtype: torch.dtype, out: torch.dtype) -> Loss:
    """Of a mean or a sum as exact as `dtype` needs it, in the dtype `out`."""
    count = rows.shape[0] * rows.shape[2]
    return Loss(summary(rows, asked, dtype, torch.float64), reduction(count, mean, asked.soft is not None, out))


class Divisor(NamedTuple):
    """The launches that find what a mean of labels is divided by, before its losses are known."""

    masses: Launch
    sums: Sums
    total: Launch


@lru_cache(4096)
def divisor(target: torch.dtype, weight: torch.dtype | None, count: int, classes: int, ignore_index: int) -> Divisor:
    """Of so many labels."""
    constants = {"UNSIGNED": target is torch.uint64, "WEIGHTED": weight is not None, "B": 1024}
    masses = Launch(early.masses, (-(-count // 1024), 1), (ignore_index, classes, count), 4, **constants)
    plan = shrinks(1, count, count)
    return Divisor(masses, plan, total(1, plan.left, plan.stride))


@lru_cache(4096)
def step(rows: Like, out: Like, asked: Asked, dtype: torch.dtype) -> Launch | None:
    """Of `early.step`, for a loss in `dtype`; None for rows of several tiles, which would be read twice all the same,
    and for probabilities."""
    kind, back = (kind_of(rows.shape[1], rows.dtype, d, asked.target, asked.weight) for d in (dtype, None))
    c = writing(rows, kind)
    if asked.soft is not None or reading(rows, kind).tiles > 1 or writing(rows, back).tiles > 1:
        return None
    return Launch(
        early.step,
        c.grid,
        (*asked.options, rows.shape[1], c.inner, c.blocks, *c.strides(rows), *c.strides(out)),
        c.warps,
        KIND=kind,
        BACK=back,
        UNSIGNED=asked.target is torch.uint64,
        WEIGHTED=asked.weight is not None,
        MIXED=asked.mixed,
        R=c.rows,
        B=c.tile,
        FOLDS=folds(kind, c.tile),
        **c.layout(rows, out),
    )


REMEMBERED = (
    summary, split, gradient, softmax, slope, spread, spread_slope, labels, rescale, shrinks, total, reduction, loss,
    divisor, step,
)  # fmt: skip


def forget() -> None:
    """Launches as they are cut now, for whoever has changed the shapes of programs."""
    for remembered in REMEMBERED:
        remembered.cache_clear()
