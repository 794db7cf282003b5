"""Rows in float64, a block at a time: what `reference` computes with.

The sum over the classes is a tree whose shape depends on V alone, built from elementwise additions
only: that is why threads, strides and neighbouring rows cannot change a bit. A long row goes in tiles.
The scratch is some ten float64 arrays of a block, whatever the size of the call.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

TILE = 1 << 17
"""Classes of a tile. Fixed: it shapes the tree of the sum, so it may depend on nothing."""
BLOCK = 1 << 17
"""Elements of a block on a CPU: 1 MB a float64 array, so those alive at once stay near the cache."""
BLOCK_ELSEWHERE = 1 << 19
"""On a GPU a launch costs more than a cache miss: 4 MB an array, a dozen of them, under the 64 MB promised."""
FEW = 64
"""Up to this many classes neighbouring rows lie adjacent in the scratch: a step of a short tree is then one
long addition instead of many of V / 2 elements."""


def facts(rows: Tensor) -> Tensor:
    """Room for a number a row, ``(outer, inner)``."""
    return rows.new_zeros((rows.shape[0], rows.shape[2]), dtype=torch.float64)


def peak_of(rows: Tensor) -> Tensor:
    """The largest logit of each row, exact in any order; nan if one is nan, -inf if there is none."""
    if rows.shape[1] == 0:
        return facts(rows) - float("inf")
    return rows.amax(1).to(torch.float64)


def blocks(rows: Tensor, peak: Tensor) -> Iterator["Block"]:
    """All rows, block by block. The size of a block touches speed and memory, no result."""
    outer, classes, inner = rows.shape
    count = max(1, (BLOCK if rows.device.type == "cpu" else BLOCK_ELSEWHERE) // max(classes, 1))
    wide = max(1, min(inner, count))
    high = max(1, count // wide)
    for o in range(0, outer, high):
        for i in range(0, inner, wide):
            yield Block(rows, (slice(o, o + high), slice(i, i + wide)), peak)


class Block:
    """Some rows, a tile ``(outer, tile, inner)`` at a time; what is summed over the classes is ``(outer, inner)``."""

    def __init__(self, rows: Tensor, at: tuple[slice, slice], peak: Tensor) -> None:
        self.rows, self.at, self.peak = rows, at, peak[at]
        self.careful = rows.dtype is torch.float64
        self.adjacent = rows.shape[2] == 1 and rows.shape[1] <= FEW
        self.tiles = [slice(j, min(j + TILE, rows.shape[1])) for j in range(0, rows.shape[1], TILE)]

    def load(self, tensor: Tensor, tile: slice) -> Tensor:
        """A float64 copy of this block of `tensor`."""
        part = tensor[self.at[0], tile, self.at[1]]
        o, t, i = part.shape
        if self.adjacent:
            return part.new_empty((t, o, i), dtype=torch.float64).movedim(0, 1).copy_(part)
        return part.new_empty((o, t, i), dtype=torch.float64).copy_(part)

    def write(self, tensor: Tensor, tile: slice, values: Tensor) -> None:
        """Round once, into place."""
        tensor[self.at[0], tile, self.at[1]].copy_(values)

    def shifted(self, tile: slice) -> tuple[Tensor, Tensor | None]:
        """``x - peak``, and for float64 logits what its rounding dropped."""
        x, peak = self.load(self.rows, tile), self.peak.unsqueeze(1)
        high = x - peak
        if not self.careful:
            return high, None
        back = high - x
        low = (x - (high - back)) - (peak + back)
        return high, low.where(low.isfinite(), 0.0)

    def exp(self, tile: slice) -> tuple[Tensor, Tensor]:
        """``x - peak`` and its exp."""
        high, low = self.shifted(tile)
        exp = high.exp()
        return high, exp if low is None else exp + exp * low

    def probability(self, tile: slice, rest: Tensor) -> Tensor:
        """``exp(x - peak) / (1 + rest)``."""
        return self.exp(tile)[1] / (1.0 + rest).unsqueeze(1)

    def log_probability(self, tile: slice, rest: Tensor) -> Tensor:
        """``(x - peak) - log1p(rest)``: two terms of one sign."""
        high, low = self.shifted(tile)
        out = high - rest.log1p().unsqueeze(1)
        return out if low is None else out + low

    def rest(self) -> Tensor:
        """``sum exp(x - peak)`` without one occurrence of the peak; nan where the peak is not finite."""

        def others(tile: slice) -> tuple[Tensor, Tensor]:
            shifted, exp = self.exp(tile)
            top = shifted == 0
            return exp.masked_fill_(top, 0.0), top.to(torch.float64)

        below, peaks = self.sums(others)
        # a second class at the peak adds exp(0) = 1
        return (below + (peaks - 1.0)).where(self.peak.isfinite(), float("nan"))

    def split(self, values: Callable[[slice], Tensor]) -> tuple[Tensor, Tensor]:
        """`values` summed over the classes at the peak, and over the others."""

        def parted(tile: slice) -> tuple[Tensor, Tensor]:
            value, top = values(tile), self.load(self.rows, tile) == self.peak.unsqueeze(1)
            return value.where(top, 0.0), value.where(~top, 0.0)

        return self.sums(parted)

    def sums(self, values: Callable[[slice], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Two sums over the classes, tile by tile; consumes what `values` gives."""
        o, i = self.peak.shape
        # Rooms made beforehand: small tensors made on the way pin the heap above them (120 MB for 76 tiles).
        first, second = self.peak.new_zeros((2, o, max(len(self.tiles), 1), i))
        for k, tile in enumerate(self.tiles):
            first[:, k], second[:, k] = (tree_sum(value, self.careful) for value in values(tile))
        return tree_sum(first, self.careful), tree_sum(second, self.careful)


def tree_sum(values: Tensor, careful: bool) -> Tensor:
    """Sum of ``(outer, n, inner)`` over n, pairwise in a fixed order; consumes `values`.

    A `careful` sum also carries the rounding of each addition (Ogita, Rump and Oishi, Accurate sum and dot
    product, SIAM J. Sci. Comput. 26, 2005).
    """
    n = values.shape[1]
    low = torch.zeros_like(values) if careful else None
    while n > 1:
        half = 1 << ((n - 1).bit_length() - 1)  # the largest power of two below n
        left, right = values.narrow(1, 0, n - half), values.narrow(1, half, n - half)
        if low is None:
            left.add_(right)
        else:
            total = left + right
            back = total - left
            dropped = (left - (total - back)) + (right - back)
            low.narrow(1, 0, n - half).add_(low.narrow(1, half, n - half)).add_(dropped)
            left.copy_(total)
        n = half
    total = values.select(1, 0).clone()
    return total if low is None else (total + low.select(1, 0)).where(total.isfinite(), total)
