"""How rows are cut: classes into tiles, rows into blocks, a tile into threads.

What a row's bits could depend on (tile, folds) follows from V and the dtypes; how many rows share a program, and how
many threads, does not touch them.
"""

import math
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arithmetic import HALF, SINGLE, WIDE

KINDS = {torch.float64: WIDE.value, torch.float32: SINGLE.value, torch.bfloat16: HALF.value, torch.float16: HALF.value}
FEW = 64
"""Up to so many classes float32 logits are computed in float64: no class then hides the error of another one's exp."""


def kind_of(classes: int, *dtypes: torch.dtype | None) -> int:
    """The arithmetic that the widest float among `dtypes` asks for."""
    floats = [dtype for dtype in dtypes if dtype is not None and dtype.is_floating_point]
    dtype = reduce(torch.promote_types, floats)
    return WIDE.value if dtype is torch.float32 and classes <= FEW else KINDS[dtype]


class Like(NamedTuple):
    """All of a tensor but its address."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def like(tensor: Tensor) -> Like:
    """Of `tensor`."""
    return Like(tensor.shape, tensor.stride(), tensor.dtype)


class Shape(NamedTuple):
    """How large a program is."""

    tile: int
    """Classes a program reads at most."""
    elements: int
    """Of a program with several rows, at most."""
    share: int
    """Elements a thread."""


READ = {WIDE.value: Shape(1024, 1024, 16), SINGLE.value: Shape(2048, 1024, 64), HALF.value: Shape(2048, 1024, 64)}
"""For facts. `docs/design/gpu.md` has the measurement behind each line."""
WRITE = {WIDE.value: Shape(1024, 1024, 16), SINGLE.value: Shape(4096, 1024, 32), HALF.value: Shape(2048, 1024, 32)}
"""For gradients and softmax."""
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

    @property
    def parts(self) -> int:
        """Tiles of all rows."""
        return self.outer * self.inner * self.tiles

    def strides(self, tensor: Like | None) -> tuple[int, int, int]:
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

    def units(self, *tensors: Like) -> tuple[int, int]:
        """How many neighbouring elements may be read at once: along the classes, or else along the inner rows."""
        strides = [self.strides(tensor) for tensor in tensors]
        outer, classes, inner = (math.gcd(*of) for of in zip(*strides, strict=True))
        if all(of[1] == 1 for of in strides):
            return math.gcd(16, outer, inner, tensors[0].shape[1]), 1
        if all(of[2] == 1 for of in strides):
            return 1, math.gcd(16, outer, classes, self.inner)
        return 1, 1

    def layout(self, *tensors: Like) -> dict[str, Any]:
        """What the kernels know of strides beforehand: FAR, offsets within a tile need 64 bits; the units CU and IU."""
        far = any(tensor.stride[1] * self.tile >= 2**31 for tensor in tensors)
        wide = any(tensor.dtype is torch.float64 for tensor in tensors)  # 8 bytes at once do: more cost registers
        along_classes, along_inner = (1, 1) if wide else self.units(*tensors)
        return {"FAR": far, "CU": along_classes, "IU": along_inner}


def power(n: int) -> int:
    """The smallest power of two that holds `n`."""
    return 1 << max(n - 1, 0).bit_length()


def reading(rows: Like, kind: int) -> Cut:
    """How `rows` are handed out for facts."""
    return _cut(rows, READ[kind])


def writing(rows: Like, kind: int) -> Cut:
    """How `rows` are handed out for what has a number a class."""
    return _cut(rows, WRITE[kind])


def _cut(rows: Like, shape: Shape) -> Cut:
    outer, classes, inner = rows.shape
    swap = inner == 1
    if swap:
        outer, inner = 1, outer
    tile = min(power(classes), shape.tile)
    tiles = -(-classes // tile)
    count = min(max(shape.elements // tile, 1), power(inner), power(max(outer * inner * tiles // PROGRAMS, 1)))
    warps = min(max(power(count * tile // (32 * shape.share)), 1), 16)
    return Cut(outer, inner, swap, count, tile, tiles, warps)


def folds(kind: int, tile: int) -> int:
    """How often neighbours in a tile are added in pairs before the rest of it is added at once."""
    return 0 if kind == WIDE.value else min(FOLDS, tile.bit_length() - 1)
