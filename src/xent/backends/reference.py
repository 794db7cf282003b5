"""Plain PyTorch, float64 inside: when backends disagree, this one is right.

Float64 holds the difference of two narrower logits to 2**-53 of itself, so float32, bfloat16 and
float16 results are the exact ones rounded once. For float64 logits the rounding of ``x - peak`` is
carried into exp, and sums carry theirs (`blocks`).
"""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from .. import _algebra, _check
from ..summary import RowSummary
from .blocks import Block, blocks, facts, peak_of

name = "reference"


def serves(device: torch.device) -> str | None:
    """Every device that has float64."""
    return "float64 does not exist there" if device.type == "mps" else None


def row_summary(
    rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, mixed: bool
) -> RowSummary:
    """See `xent.backends.contract`."""
    labels = None if target.is_floating_point() else _Labels(rows, target, class_weight, ignore_index)
    distribution, weights = _Distribution(target, class_weight), _Weights(class_weight, rows.shape[1])
    peak = peak_of(rows)
    rest, picked, mass, mix = (facts(rows) for _ in range(4))
    for block in blocks(rows, peak):
        at = block.at
        rest[at] = block.rest()
        if labels is None:
            picked[at], mass[at] = distribution.moments(block)
        if mixed:
            mix[at] = weights.moments(block)[0]
    if labels is None:
        return RowSummary(peak, rest, picked, mass, mix)
    picked = (labels.mass * (labels.logit - peak)).where(labels.mass != 0, 0.0)
    peak, rest, mix = (fact.where(labels.kept, 0.0) for fact in (peak, rest, mix))
    return RowSummary(peak, rest, picked, labels.mass, mix)


def row_grad(
    rows: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    peak: Tensor,
    rest: Tensor,
    hard: Tensor,
    smooth: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """See `xent.backends.contract`.

    Where the peak holds more than half of the mass, its ``mass p - a`` would cancel; it is written with the
    part of the mass that lies elsewhere: ``(off - a rest) / (1 + rest)``.
    """
    if target.is_floating_point():
        pulls: list[tuple[Tensor, _Pull]] = [(hard, _Distribution(target, class_weight))]
    else:
        labels = _Labels(rows, target, class_weight, ignore_index)
        pulls = [(hard.where(labels.mass != 0, 0.0), labels)]
        smooth = None if smooth is None else smooth.where(labels.kept, 0.0)
    if smooth is not None:
        pulls.append((smooth, _Weights(class_weight, rows.shape[1])))

    grad = torch.empty_like(rows) if out is None else out
    for block in blocks(rows, peak):
        mass = (1.0 + rest[block.at]).unsqueeze(1)
        scale, lifted = torch.zeros_like(mass), torch.zeros_like(mass)
        for factor, pull in pulls:
            top, off = pull.split(block)
            scale += (factor[block.at] * (top + off)).unsqueeze(1)
            lifted += (factor[block.at] * (off - top * rest[block.at])).unsqueeze(1)
        for tile in block.tiles:
            shifted, exp = block.exp(tile)
            values = (exp / mass * scale).where(scale != 0, 0.0)
            for factor, pull in pulls:
                pull.subtract_from(values, block, tile, factor[block.at])
            block.write(grad, tile, (lifted / mass).where((shifted == 0) & (mass < 2.0), values))
    return grad


def softmax(rows: Tensor, log: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """See `xent.backends.contract`."""
    out = torch.empty_like(rows, dtype=dtype)
    peak, rest = peak_of(rows), facts(rows)
    for block in blocks(rows, peak):
        rest[block.at] = r = block.rest()
        for tile in block.tiles:
            block.write(out, tile, block.log_probability(tile, r) if log else block.probability(tile, r))
    return out, peak, rest


def softmax_grad(rows: Tensor, peak: Tensor, rest: Tensor, grad: Tensor) -> Tensor:
    """See `xent.backends.contract`. At a peak with more than half of the mass, ``g - sum p g`` is written
    ``(g rest - sum over the others) / (1 + rest)``."""
    out = torch.empty_like(rows)
    for block in blocks(rows, peak):
        r = rest[block.at].unsqueeze(1)

        def moment(tile: slice, block: Block = block) -> Tensor:
            exp = block.exp(tile)[1]
            return (exp * block.load(grad, tile)).where(exp != 0, 0.0)

        at_peak, others = (part.unsqueeze(1) for part in block.split(moment))
        for tile in block.tiles:
            slope, (shifted, exp) = block.load(grad, tile), block.exp(tile)
            lifted = (slope * r - others) / (1.0 + r)
            centred = slope - (at_peak + others) / (1.0 + r)
            step = lifted.where((shifted == 0) & (r < 1.0), centred)
            block.write(out, tile, (exp / (1.0 + r) * step).where(exp != 0, 0.0))
    return out


def row_spread(rows: Tensor, peak: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `xent.backends.contract`."""
    moment, above = facts(rows), facts(rows)
    own = own.to(torch.float64).unsqueeze(1)
    for block in blocks(rows, peak):
        o, i = block.at

        def terms(tile: slice, block=block, o=o, i=i) -> tuple[Tensor, Tensor]:
            shifted, exp = block.exp(tile)
            return (exp * shifted).where(exp != 0, 0.0), (rows[o, tile, i] > own[o, :, i]).to(torch.float64)

        moment[block.at], above[block.at] = block.sums(terms)
    if rows.shape[1] == 0:
        return moment, above, torch.full_like(peak, -1, dtype=torch.int64)
    first = rows.argmax(1, keepdim=True)
    top = rows.gather(1, first).to(torch.float64)
    return moment, above, first.where((top == peak.unsqueeze(1)) | top.isnan(), -1).squeeze(1)


def row_spread_grad(rows: Tensor, peak: Tensor, rest: Tensor, mean: Tensor, lse: Tensor, entropy: Tensor) -> Tensor:
    """See `xent.backends.contract`. The difference in the bracket is ``log p_j`` plus the entropy: a confident row's
    peak loses no digit."""
    out = torch.empty_like(rows)
    for block in blocks(rows, peak):
        centre, by_lse, by_entropy = (t[block.at].unsqueeze(1) for t in (mean, lse, entropy))
        asked = (by_lse != 0) | (by_entropy != 0)
        for tile in block.tiles:
            shifted, exp = block.exp(tile)
            slope = by_lse - (by_entropy * (shifted - centre)).where(by_entropy != 0, 0.0)
            values = exp / (1.0 + rest[block.at]).unsqueeze(1) * slope
            block.write(out, tile, values.where((exp != 0) & asked, 0.0))
    return out


labels = _check.labels


def rescale(values: Tensor, factor: Tensor) -> None:
    """See `xent.backends.contract`."""
    number = factor.item()  # a tensor would be rounded to the dtype of the values first
    if number != 1:
        values.mul_(number)


def exact_sum(values: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    return _algebra.exact_sum(values)


# -- what asks for probability: each pull has an attraction of every class ------------------------


class _Pull(Protocol):
    """An attraction `a`; 0 leaves a class out, whatever its logit."""

    def split(self, block: Block) -> tuple[Tensor | float, Tensor | float]:
        """``sum a_j`` over the classes at the peak, and over the others."""
        ...

    def subtract_from(self, out: Tensor, block: Block, tile: slice, factor: Tensor) -> None:
        """``out -= factor a``."""
        ...


class _Written(ABC):
    """A pull that can be written out, tile by tile."""

    @abstractmethod
    def of(self, block: Block, tile: slice) -> Tensor:
        """``a_j``, in a shape that broadcasts to the tile."""

    def moments(self, block: Block) -> tuple[Tensor, Tensor]:
        """``sum a_j (x_j - peak)`` and ``sum a_j``."""

        def terms(tile: slice) -> tuple[Tensor, Tensor]:
            shifted = block.shifted(tile)[0]
            a = self.of(block, tile)
            return (a * shifted).where(a != 0, 0.0), a.expand_as(shifted).clone()

        return block.sums(terms)

    def split(self, block: Block) -> tuple[Tensor | float, Tensor | float]:
        return block.split(lambda tile: self.of(block, tile))

    def subtract_from(self, out: Tensor, block: Block, tile: slice, factor: Tensor) -> None:
        out -= factor.unsqueeze(1) * self.of(block, tile)


class _Distribution(_Written):
    """``a_j = q_j w_j``."""

    def __init__(self, target: Tensor, class_weight: Tensor | None) -> None:
        self.target, self.weight = target, _column(class_weight)

    def of(self, block: Block, tile: slice) -> Tensor:
        q = block.load(self.target, tile)
        return q if self.weight is None else q * self.weight[:, tile]


class _Weights(_Written):
    """``a_j = w_j``, or 1: what label smoothing asks of every row."""

    def __init__(self, class_weight: Tensor | None, classes: int) -> None:
        self.weight, self.classes = _column(class_weight), classes

    def of(self, block: Block, tile: slice) -> Tensor:
        if self.weight is None:
            return block.peak.new_ones(()).expand(1, tile.stop - tile.start, 1)
        return self.weight[:, tile]

    def split(self, block: Block) -> tuple[Tensor | float, Tensor | float]:
        return (1.0, self.classes - 1.0) if self.weight is None else super().split(block)


class _Labels:
    """``a_y = w_y``, and nothing elsewhere: never written out."""

    def __init__(self, rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int) -> None:
        index = _check.labels(target, rows.shape[1], ignore_index).reshape(rows.shape[0], rows.shape[2])
        self.index, self.kept = index, index >= 0
        self.mass, self.logit = self.kept.to(torch.float64), facts(rows)
        if rows.shape[1]:
            at = index.clamp_min(0)
            self.logit = rows.gather(1, at.unsqueeze(1)).squeeze(1).to(torch.float64)
            if class_weight is not None:
                self.mass = class_weight.to(torch.float64)[at].where(self.kept, 0.0)

    def split(self, block: Block) -> tuple[Tensor | float, Tensor | float]:
        mass, at_peak = self.mass[block.at], self.logit[block.at] == block.peak
        return mass.where(at_peak, 0.0), mass.where(~at_peak, 0.0)

    def subtract_from(self, out: Tensor, block: Block, tile: slice, factor: Tensor) -> None:
        at = self.index[block.at] - tile.start
        inside = (at >= 0) & (at < out.shape[1])
        amount = (factor * self.mass[block.at]).where(inside, 0.0)
        out.scatter_add_(1, at.clamp(0, out.shape[1] - 1).unsqueeze(1), -amount.unsqueeze(1))


def _column(class_weight: Tensor | None) -> Tensor | None:
    return None if class_weight is None else class_weight.to(torch.float64).reshape(1, -1, 1)
