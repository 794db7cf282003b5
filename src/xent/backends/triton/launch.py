"""Which program gets which part of the rows, and the calls of the kernels.

What a row's bits could depend on (tile, folds) follows from V and the dtypes; how many rows share a program, and how
many threads, does not touch them.
"""

import math
import struct
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _check
from ...summary import RowSummary
from . import facts, flags, sums, writes
from .arithmetic import HALF, SINGLE, WIDE

KINDS = {torch.float64: WIDE.value, torch.float32: SINGLE.value, torch.bfloat16: HALF.value, torch.float16: HALF.value}


class Like(NamedTuple):
    """All of a tensor but its address."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def like(tensor: Tensor) -> Like:
    """Of `tensor`."""
    return Like(tensor.shape, tensor.stride(), tensor.dtype)


class Shape(NamedTuple):
    """How a kernel is cut."""

    tile: int
    """Classes a program reads at most."""
    elements: int
    """Of a program with several rows, at most."""
    share: int
    """Elements a thread."""


READ = {WIDE.value: Shape(1024, 1024, 16), SINGLE.value: Shape(4096, 1024, 32), HALF.value: Shape(2048, 1024, 32)}
"""For facts. `docs/design/gpu.md` has the measurement behind each line."""
WRITE = {WIDE.value: Shape(1024, 1024, 16), SINGLE.value: Shape(4096, 1024, 32), HALF.value: Shape(2048, 1024, 32)}
"""For gradients and softmax."""
PROGRAMS = 528
"""Four for each of 132 multiprocessors: rather than fewer, a program takes fewer rows."""
FOLDS = 3
"""Pairs that lie in one thread where it reads 16 bytes at once; further ones would travel between threads."""


FEW = 64
"""Up to so many classes float32 logits are computed in float64: no class then hides the error of another one's exp."""


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

    def strides(self, tensor: "Like | None") -> tuple[int, int, int]:
        """Outer, class, inner; of labels, none."""
        if tensor is None:
            return 0, 0, 0
        outer, classes, inner = tensor.stride
        return (0, classes, outer) if self.swap else (outer, classes, inner)

    def pair(self, stride: tuple[int, ...]) -> tuple[int, int]:
        """Outer and inner stride of a number a row; 0 for one number."""
        if len(stride) < 2:
            return 0, (stride[0] if stride else 0)
        outer, inner = stride
        return (0, outer) if self.swap else (outer, inner)

    def units(self, *tensors: "Like") -> tuple[int, int]:
        """How many neighbouring elements may be read at once: along the classes, or else along the inner rows."""
        strides = [self.strides(tensor) for tensor in tensors]
        outer, classes, inner = (math.gcd(*of) for of in zip(*strides, strict=True))
        if all(of[1] == 1 for of in strides):
            return math.gcd(16, outer, inner, tensors[0].shape[1]), 1
        if all(of[2] == 1 for of in strides):
            return 1, math.gcd(16, outer, classes, self.inner)
        return 1, 1

    def layout(self, *tensors: "Like") -> dict[str, Any]:
        """What the kernels know of strides beforehand: FAR, offsets within a tile need 64 bits; the units CU and IU."""
        far = any(tensor.stride[1] * self.tile >= 2**31 for tensor in tensors)
        wide = any(tensor.dtype is torch.float64 for tensor in tensors)  # 8 bytes at once do: more cost registers
        along_classes, along_inner = (1, 1) if wide else self.units(*tensors)
        return {"FAR": far, "CU": along_classes, "IU": along_inner}


def _power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


FEW = 64
"""Up to so many classes float32 logits are computed in float64: no class then hides the error of another one's exp."""


def kind_of(classes: int, *dtypes: torch.dtype | None) -> int:
    """The arithmetic that the widest float among `dtypes` asks for."""
    floats = [dtype for dtype in dtypes if dtype is not None and dtype.is_floating_point]
    dtype = reduce(torch.promote_types, floats)
    return WIDE.value if dtype is torch.float32 and classes <= FEW else KINDS[dtype]


def cut(rows: Like, kind: int, shapes: dict[int, Shape]) -> Cut:
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
    return 0 if kind == WIDE.value else min(FOLDS, _levels(tile))


def bits(x: float) -> int:
    """A float64 as an integer argument."""
    return struct.unpack("<q", struct.pack("<d", x))[0]


OPTIONS = {"enable_fp_fusion": False}
"""Of two products in a sum the assembler would fuse either one, as the layout suits it: a bit would depend on it."""


class Launch:
    """A kernel with all of its arguments but the tensors.

    Triton looks at every argument of every call to find the machine code for it, 100 us for forty of them. They follow
    from the shapes and the alignment of the addresses, so the code is found once for each of these.
    """

    def __init__(self, kernel: Any, grid: tuple[int, int], numbers: tuple[int, ...], warps: int, **constants: Any):
        self.kernel, self.grid, self.numbers, self.warps, self.constants = kernel, grid, numbers, warps, constants
        order = [name for name in kernel.arg_names if name in constants]
        self.rest = (*numbers, *(constants[name] for name in order))
        self.found: dict[tuple[int | None, int], Any] = {}

    def __call__(self, device: torch.device, *tensors: Tensor | None) -> None:
        odd = 0
        for tensor in tensors:
            odd = 2 * odd + (tensor is not None and tensor.data_ptr() & 15 != 0)
        code = self.found.get((device.index, odd))
        if code is None:
            code = self.kernel[self.grid](*tensors, *self.numbers, **self.constants, num_warps=self.warps, **OPTIONS)
            if code is not None:  # the interpreter has none
                self.found[device.index, odd] = code
        else:
            code[(*self.grid, 1)](*tensors, *self.rest)


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


# -- facts -------------------------------------------------------------------------------------------


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


def _asked(target: Tensor | None, weight: Tensor | None, ignored: int, mixed: bool, factors=None) -> Asked:
    soft = like(target) if target is not None and target.is_floating_point() else None
    weight_dtype = None if weight is None else weight.dtype
    return Asked(None if target is None else target.dtype, soft, weight_dtype, ignored, mixed, factors)


@lru_cache(4096)
def _summary(rows: Like, asked: Asked, out: torch.dtype | None) -> tuple[int, Launch, Launch | None]:
    """How many tiles a row has, and the launches; `out` is the dtype of the losses."""
    kind = kind_of(rows.shape[1], rows.dtype, asked.target, asked.weight)
    c, choice = cut(rows, kind, READ), asked.choice() | {"UNSIGNED": asked.target is torch.uint64}
    count = c.outer * c.inner * c.tiles
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows))
    tensors = (rows,) if asked.soft is None else (rows, asked.soft)
    first = Launch(
        facts.summary,
        c.grid,
        (*asked.options, *place, *c.strides(asked.soft), count),
        c.warps,
        KIND=kind,
        WHOLE=c.tiles == 1,
        R=c.rows,
        B=c.tile,
        FOLDS=_folds(kind, c.tile),
        **c.layout(*tensors),
        **choice,
    )
    if c.tiles == 1:
        return 1, first, None
    T = _power(c.tiles)
    R = min(max(MERGED // T, 1), _power(c.inner))
    blocks = -(-c.inner // R)
    place = (rows.shape[1], c.inner, blocks, *c.strides(rows), c.tiles, count)
    numbers = (*asked.options, *place)
    return c.tiles, first, Launch(facts.merge, (c.outer * blocks, 1), numbers, 1, R=R, T=T, **choice)


MERGED = 64
"""Tiles that a program of `facts.merge` joins, those of several rows where a row has few."""


def summarise(
    rows: Tensor,
    target: Tensor | None,
    class_weight: Tensor | None,
    ignore_index: int,
    mixed: bool,
    out: tuple[Tensor | None, ...],
    factors: tuple[float, float] | None = None,
) -> None:
    """The facts into `out`: peak, rest, picked, mass, mix. With `factors` the losses go where `picked` would."""
    device = rows.device
    if target is not None and not target.is_floating_point():
        if flags.eager(device):
            _check.labels(target, rows.shape[1], ignore_index)
        else:
            flags.look(device)
        target = target.contiguous()
    weight, weight_sum = _weights(class_weight, mixed)
    losses = None if out[2] is None else out[2].dtype
    asked = _asked(target, weight, ignore_index, mixed, factors)
    tiles, first, merge = _summary(like(rows), asked, losses)
    partial = None if merge is None else _numbers(rows, 6 * tiles)
    tensors = (rows, rows if target is None else target, weight, weight_sum, flags.board(device), partial, *out)
    with on(device):
        first(device, *tensors)
        if merge is not None:
            merge(device, *tensors)


def row_summary(
    rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, mixed: bool
) -> RowSummary:
    """See `xent.backends.contract`."""
    out = [_numbers(rows)[0] for _ in range(5)]  # not parts of one: what an op returns may not overlap
    summarise(rows, target, class_weight, ignore_index, mixed, tuple(out))
    return RowSummary(*out)


# -- gradients ---------------------------------------------------------------------------------------


@lru_cache(4096)
def _split(rows: Like, other: Like, weight: torch.dtype | None, moment: bool) -> tuple[int, Launch]:
    """How many tiles a row has, and the launch of `writes.split`."""
    kind = kind_of(rows.shape[1], rows.dtype, other.dtype, weight)
    c = cut(rows, kind, WRITE)
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows), *c.strides(other), c.outer * c.inner * c.tiles)
    constants = {"KIND": kind, "MOMENT": moment, "WEIGHTED": weight is not None, "FOLDS": _folds(kind, c.tile)}
    return c.tiles, Launch(
        writes.split, c.grid, place, c.warps, R=c.rows, B=c.tile, **constants, **c.layout(rows, other)
    )


def _halves(rows: Tensor, other: Tensor, weight: Tensor | None, peak: Tensor, rest: Tensor, moment: bool) -> Tensor:
    """What `writes.split` finds, a tile each."""
    tiles, launch = _split(like(rows), like(other), None if weight is None else weight.dtype, moment)
    sums = _numbers(rows, 2 * tiles)
    launch(rows.device, rows, other, weight, peak, rest, sums)
    return sums


@lru_cache(4096)
def _gradient(rows: Like, out: Like, asked: Asked, hard: tuple[int, ...], upstream: torch.dtype) -> Launch:
    kind = kind_of(rows.shape[1], rows.dtype, asked.target, asked.weight)
    c = cut(rows, kind, WRITE)
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows), *c.strides(asked.soft), *c.strides(out))
    tensors = (rows, out) if asked.soft is None else (rows, out, asked.soft)
    T = _power(c.tiles)
    return Launch(
        writes.gradient,
        c.grid,
        (*asked.options, *place, *c.pair(hard), c.tiles, c.outer * c.inner * c.tiles),
        c.warps,
        KIND=kind,
        R=c.rows,
        B=c.tile,
        FOLDS=_folds(kind, c.tile),
        T=T,
        **c.layout(*tensors),
        **asked.choice(),
    )


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
    mixed = smooth is not None if factors is None else factors[1] != 0
    weight, weight_sum = _weights(class_weight, mixed)
    target = target if target.is_floating_point() else target.contiguous()
    peak, rest = peak.contiguous(), rest.contiguous()
    if smooth is not None and smooth.stride() != hard.stride():
        hard, smooth = hard.contiguous(), smooth.contiguous()
    asked = _asked(target, weight, ignore_index, mixed, factors)
    launch = _gradient(like(rows), like(out), asked, hard.stride(), hard.dtype)
    with on(rows.device):
        halves = _halves(rows, target, weight, peak, rest, False) if asked.soft is not None else None
        launch(rows.device, rows, target, weight, weight_sum, peak, rest, halves, hard, smooth, divisor, out)
    return out


# -- softmax -----------------------------------------------------------------------------------------


@lru_cache(4096)
def _softmax(rows: Like, out: Like, log: bool) -> Launch:
    kind = kind_of(rows.shape[1], rows.dtype)
    c = cut(rows, kind, WRITE)
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows), *c.strides(out))
    return Launch(writes.softmax, c.grid, place, c.warps, KIND=kind, LOG=log, R=c.rows, B=c.tile, **c.layout(rows, out))


def softmax(rows: Tensor, log: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """See `xent.backends.contract`."""
    if torch.promote_types(rows.dtype, dtype) is dtype:
        rows = rows.to(dtype)  # exact
    out = torch.empty_like(rows, dtype=dtype)
    peak, rest = _numbers(rows)[0], _numbers(rows)[0]
    summarise(rows, None, None, -100, False, (peak, rest, None, None, None))
    with on(rows.device):
        _softmax(like(rows), like(out), log)(rows.device, rows, peak, rest, out)
    return out, peak, rest


@lru_cache(4096)
def _slope(rows: Like, grad: Like, out: Like) -> Launch:
    kind = kind_of(rows.shape[1], rows.dtype, grad.dtype)
    c = cut(rows, kind, WRITE)
    T = _power(c.tiles)
    place = (rows.shape[1], c.inner, c.blocks, *c.strides(rows), *c.strides(grad), *c.strides(out))
    return Launch(
        writes.softmax_slope,
        c.grid,
        (*place, c.tiles, c.outer * c.inner * c.tiles),
        c.warps,
        KIND=kind,
        R=c.rows,
        B=c.tile,
        FOLDS=_folds(kind, c.tile),
        T=T,
        **c.layout(rows, grad, out),
    )


def softmax_grad(rows: Tensor, peak: Tensor, rest: Tensor, grad: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    out, peak, rest = torch.empty_like(rows), peak.contiguous(), rest.contiguous()
    with on(rows.device):
        moments = _halves(rows, grad, None, peak, rest, True)
        _slope(like(rows), like(grad), like(out))(rows.device, rows, grad, peak, rest, moments, out)
    return out


# -- sums --------------------------------------------------------------------------------------------


@lru_cache(4096)
def _sum(kernel: Any, count: int, rows: int, stride: int, dtype: torch.dtype, **constants: Any) -> Launch:
    if kernel is sums.shrink:
        return Launch(kernel, (-(-count // sums.BLOCK), rows), (count, stride), 4, B=sums.BLOCK)
    numbers = (count, stride, constants.pop("rows_in_all")) if kernel is sums.reduce else (count, stride)
    return Launch(kernel, (1, rows), numbers, 4, B=_power(count), **constants)


def _one_block(values: Tensor) -> Tensor:
    """Rows of numbers with the same sums, short enough for one block."""
    while values.shape[1] > sums.BLOCK:
        rows, count = values.shape
        fewer = values.new_empty((rows, -(-count // sums.BLOCK) * sums.PARTS))
        _sum(sums.shrink, count, rows, values.stride(0), values.dtype)(values.device, values, fewer)
        values = fewer
    return values


def exact_sum(values: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    shape = values.shape[:-1]
    out = values.new_empty(shape)
    values = values.reshape(shape.numel(), values.shape[-1]).contiguous()
    with on(values.device):
        few = _one_block(values)
        _sum(sums.total, few.shape[1], few.shape[0], few.stride(0), few.dtype)(values.device, few, out)
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
    """The loss in `dtype` (of each row for ``"none"``), what a gradient is divided by, `peak` and `rest`."""
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
        count, mean = peak.numel(), reduction == "mean"
        soft = target.is_floating_point()
        reduce = _sum(sums.reduce, few.shape[1], 1, few.stride(0), dtype, rows_in_all=count, MEAN=mean, COUNTED=soft)
        reduce(rows.device, few, out, divisor)
    return out, divisor, peak, rest


@cache
def _one(device: torch.device) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=device)


def forget() -> None:
    """Launches as they are cut now, for whoever has changed the shapes of programs."""
    for remembered in (_summary, _split, _gradient, _softmax, _slope, _sum):
        remembered.cache_clear()
