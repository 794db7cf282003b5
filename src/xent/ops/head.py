"""A linear head: what its logits are made of, and what is asked of them."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _algebra, _plan
from ..backends import choose
from ..backends.contract import IGNORED, NO_CLASS
from ..summary import RowSummary


def at_hand(tensor: Tensor) -> bool:
    """Are its values where the host is, or would it have to wait for them?"""
    return tensor.is_cpu


def steps(size: int, step: int, start: int = 0) -> Iterator[slice]:
    """Parts of `size` things from `start` on."""
    for at in range(start, start + size, max(step, 1)):
        yield slice(at, min(at + step, start + size))


class Head(NamedTuple):
    """What the logits are made of, and what is asked of them."""

    hidden: Tensor
    """``(N, D)``."""
    weight: Tensor
    """``(V, D)``."""
    bias: Tensor | None
    """``(V,)``."""
    target: Tensor
    """Labels, int64, ``(N,)``, IGNORED where one is; or probabilities ``(N, V)``."""
    class_weight: Tensor | None
    softcap: float | None = None
    scale: float = 1.0

    @property
    def soft(self) -> bool:
        return self.target.is_floating_point()

    def shaped(self, block: Tensor) -> Tensor:
        """The logits that the loss is of, from the products."""
        return block if self.plain else _algebra.shaped(block, self.softcap, self.scale)

    @property
    def plain(self) -> bool:
        return self.softcap is None and self.scale == 1.0

    def pieces(self, block: Tensor) -> Iterator[slice]:
        """Rows of a block that are shaped at a time."""
        rows, size = block.shape[0], block.shape[1] * block.itemsize
        return steps(rows, rows if self.plain else max(1, _plan.piece(block.device) // size))


class Factors(NamedTuple):
    """What stands in front of `hard` and `smooth` of each row, ``(N,)`` each; and of its by-products."""

    hard: Tensor
    smooth: Tensor | None
    nll: Tensor | None = None
    lse: Tensor | None = None
    entropy: Tensor | None = None
    mean: Tensor | None = None
    """A fact: ``sum p_j (x_j - peak)``, which the gradient of the entropy needs."""

    def of(self, rows: slice) -> "Factors":
        return self._make(None if t is None else t[rows] for t in self)

    def times(self, unit: Tensor | None) -> "Factors":
        """All of them, but `mean` is none."""
        if unit is None:
            return self
        return self._make(None if t is None else t * unit for t in self)._replace(mean=self.mean)

    def bound(self, head: Head, facts: RowSummary) -> Tensor:
        """What no slope of a row exceeds, and half of what the magnitudes of a row's slopes add up to."""
        most = self.hard.abs() * facts.mass.abs()
        if self.smooth is not None:
            whole = head.weight.shape[0] if head.class_weight is None else head.class_weight.abs().sum()
            most = most + self.smooth.abs() * whole
        for by_product in (self.nll, self.lse):
            most = most if by_product is None else most + by_product.abs()
        if self.entropy is not None:  # p_j |log p_j + entropy|
            most = most + self.entropy.abs() * (1.0 + math.log(head.weight.shape[0]))
        return most * abs(head.scale)


class Rows(NamedTuple):
    """Which rows of a call are looked at: `kept` where the host can know it, and else `live`."""

    whole: int
    """How many there are."""
    kept: Tensor | None = None
    """Their numbers, if some are ignored; those cost nothing."""
    live: Tensor | None = None
    """Is a row looked at? Those that are not have been computed with, and are no more than that."""
    wrong: Tensor | None = None
    """Has it a label that is no class? The error comes later."""

    def some(self, numbers: Iterable[Tensor | None]) -> Iterator[Any]:
        """Of numbers of all rows, those of rows that are looked at."""
        return (t if t is None else self._alive(t) if self.kept is None else t[self.kept] for t in numbers)

    def all(self, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Zeros in the rows that were left out."""
        if self.kept is None:
            return tuple(self._alive(t) for t in tensors)
        return tuple(t.new_zeros((self.whole, *t.shape[1:])).index_copy_(0, self.kept, t) for t in tensors)

    def _alive(self, tensor: Tensor) -> Tensor:
        """Gradients are 0 as they come."""
        return tensor if self.live is None or tensor.ndim > 1 else tensor.where(self.live, 0)

    def facts(self, facts: RowSummary) -> tuple[Tensor, ...]:
        """Of all rows; the loss of a wrong one is nan."""
        whole = RowSummary(*self.all(facts))
        return whole if self.wrong is None else whole._replace(picked=whole.picked.where(~self.wrong, torch.nan))


def rows_of(head: tuple) -> tuple[Head, Rows]:
    """What the ops of a head are given -> the head of the rows that are looked at, and which these are."""
    hidden, weight, bias, target, class_weight, ignore_index, *_, softcap, scale = head
    rows = Rows(hidden.shape[0])
    if not target.is_floating_point():
        target = choose(target.device).labels(target, weight.shape[0], ignore_index)
        if not at_hand(target):
            rows = rows._replace(live=target >= 0, wrong=target == NO_CLASS)
            target = target.clamp_min(IGNORED)
        elif (target < 0).any():
            rows = rows._replace(kept=(target >= 0).nonzero().squeeze(1))
            hidden, target = hidden[rows.kept], target[rows.kept]
    return Head(hidden, weight, bias, target, class_weight, softcap, scale), rows
