"""The gradients of a linear head, added up over the tiles of its logits."""

import torch
from torch import Tensor

from .. import _algebra
from .._plan import CLASSES, Tiles
from ..backends import pages
from ..summary import RowSummary
from .head import Factors, Head, steps

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Sums:
    """Of hidden states, weight and bias: in float32 where the dtype is narrower and there are several tiles."""

    def __init__(self, head: Head, tiles: Tiles, wanted: list[bool]) -> None:
        self.head = head
        rows, classes = head.hidden.shape[0], head.weight.shape[0]
        dtype = torch.promote_types(head.hidden.dtype, torch.float32)
        several_rows, several_classes = rows > tiles.rows, classes > tiles.classes
        self.hidden = self.weight = self.bias = None
        if wanted[0]:
            self.hidden = torch.empty_like(head.hidden, dtype=dtype if several_classes else None)
        if wanted[1]:
            self.weight = pages.empty_like(head.weight.new_empty(1).expand(head.weight.shape))
        if wanted[2]:
            self.bias = torch.zeros(classes, dtype=dtype, device=head.hidden.device)
        # All classes at once need room for all sums; class by class, for those of a tile.
        self.wide = None
        if wanted[1] and several_rows and dtype is not head.weight.dtype:
            self.wide = head.weight.new_empty((min(tiles.classes, classes), head.weight.shape[1]), dtype=dtype)
        self.largest = None
        if head.hidden.dtype is torch.float16:
            self.largest = _largest(head.hidden), _largest(head.weight)

    def unit(self, rows: slice, facts: RowSummary, factors: Factors) -> Tensor | None:
        """A power of two that is a factor of the slopes of a tile: float16 has no digits for what a mean leaves of
        small probabilities, and no room for sums of large ones. Other dtypes have the range."""
        if self.largest is None:
            return None
        hidden, weight = self.largest
        reach = torch.maximum(2.0 * weight, (rows.stop - rows.start) * hidden).clamp_min(1.0)
        most = factors.bound(self.head, facts).max() * reach
        _, exponent = torch.frexp(2.0**15 / most)
        unit = _algebra.power_of_two(exponent.to(torch.int64).clamp(-100, 100) - 1)  # and its inverse, in float32
        return unit.where((most > 0) & most.isfinite(), 1.0)

    def add(self, rows: slice, columns: slice, slope: Tensor, unit: Tensor | None) -> None:
        """The part of a tile whose slopes are `slope`, that many times its unit."""
        head, scale = self.head, None if unit is None else (1.0 / unit).to(torch.float32)
        if self.hidden is not None:
            _product(slope, head.weight[columns], self.hidden[rows], columns.start == 0, scale)
        if self.weight is not None:
            into = self.weight[columns] if self.wide is None else self.wide[: slope.shape[1]]
            _product(slope.T, head.hidden[rows], into, rows.start == 0, scale)
            if self.wide is not None and rows.stop == head.hidden.shape[0]:
                self.weight[columns] = into
        if self.bias is not None:
            total = slope.sum(0, dtype=self.bias.dtype)
            self.bias[columns] += total if scale is None else total.mul_(scale)

    def finished(self) -> Gradients:
        """In the dtype of the head."""
        dtype = self.head.hidden.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return None if self.hidden is None else self.hidden.to(dtype), self.weight, bias


def _largest(tensor: Tensor) -> Tensor:
    low, high = tensor.aminmax()
    return torch.maximum(low.abs(), high.abs()).to(torch.float64)


def _product(a: Tensor, b: Tensor, into: Tensor, first: bool, scale: Tensor | None) -> None:
    """``into (+)= scale a @ b``.

    A GPU's library adds to float32 itself. A CPU's adds in the dtype of its operands, so wider sums are added here,
    some classes at a time: it turns a transposed factor over first, and so many of it take 8 MB instead of 16.
    """
    if scale is None and into.dtype is a.dtype:
        torch.mm(a, b, out=into) if first else into.addmm_(a, b)
        return
    if scale is None and a.is_cuda:
        wide = {"out_dtype": into.dtype, "out": into}
        torch.mm(a, b, **wide) if first else torch.addmm(into, a, b, **wide)
        return
    for part in steps(a.shape[0], CLASSES // 2):
        product = a[part] @ b
        if scale is not None:
            product = product.to(torch.float32).mul_(scale)
        into[part].copy_(product) if first else into[part].add_(product)
