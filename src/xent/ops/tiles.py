"""The logits of a linear head, a tile at a time: their facts, and the three gradients of the head.

A tile holds some rows and all classes, or, where memory is tighter, some classes too (`_plan.tiles`). Its logits are
made a block at a time, on a CPU of `_plan.block_rows` x CLASSES whatever the tile: a matrix library may round a product
of another shape differently, so this is what makes the loss the same for every budget (`docs/design/linear.md`). On
a GPU a block is a tile, for small products leave it idle.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _algebra, _plan, summary
from .._plan import CLASSES, Tiles
from ..backends import choose, pages
from ..backends.contract import IGNORED
from ..summary import RowSummary
from .head import Factors, Head, at_hand, steps
from .head_gradients import Gradients, Sums

STRIP = 4 << 20
"""Bytes of a tile that the kernels of a CPU are given at a time."""


def run(
    head: Head, mixed: bool, budget: int | None, facts: RowSummary | None, factors: Factors | None, wanted: list[bool]
) -> tuple[RowSummary, Gradients]:
    """The facts of each row, ``(N,)``, if they are not given; and with `factors` the wanted gradients."""
    (rows, width), classes = head.hidden.shape, head.weight.shape[0]
    # a GPU makes the logits in one product a tile: the same tiles again, or other bits would come the second time
    sums = wanted[1] or factors is None or not at_hand(head.hidden)
    tiles = _plan.tiles(rows, classes, width, head.hidden.dtype, budget, head.soft, sums)
    room = room_for(head.hidden, tiles, classes)
    if factors is None and not at_hand(head.hidden):
        return _facts_of(head, tiles, room, mixed), (None, None, None)
    if factors is None:  # in the room that a gradient would take later, of which no more is touched than a block
        tiles = _plan.least(rows, classes, head.hidden.dtype)
        wide = min(tiles.classes + 64, classes)  # rows stay aligned, and not at powers of two
        room = room.flatten()[: tiles.rows * wide].view(tiles.rows, wide)
        return _facts_of(head, tiles, room, mixed), (None, None, None)
    if facts is None and tiles.classes < classes:
        facts = _facts_of(head, tiles, room, mixed)
    sums, found = Sums(head, tiles, wanted), []
    for columns in steps(classes, tiles.classes):
        for at in steps(rows, tiles.rows):
            seen = None if facts else _Facts(head, at, mixed, _in_one(tiles, room, classes))
            tile = products(head, at, columns, room, seen)
            found.append(seen.merged() if seen else RowSummary(*(fact[at] for fact in facts or ())))
            pulls = factors.of(at)
            unit = sums.unit(at, found[-1], pulls)
            sums.add(at, columns, _pull(head, at, columns, room, tile, found[-1], pulls.times(unit)), unit)
    return facts or _together(found), sums.finished()


def room_for(hidden: Tensor, tiles: Tiles, classes: int) -> Tensor:
    """Memory for a tile. One of some classes has a column more, for those outside it (`_pull`)."""
    width = classes if tiles.classes >= classes else tiles.classes + 64  # rows stay aligned
    return pages.empty_like(hidden.new_empty(1).expand(tiles.rows, width))


def products(head: Head, rows: slice, columns: slice, room: Tensor, seen: "_Facts | None" = None) -> Tensor:
    """``hidden @ weight.T + bias`` of a tile, in blocks of one shape; their facts while they are in the cache."""
    tile = room[: rows.stop - rows.start, : columns.stop - columns.start]
    high, wide = _block(tile)
    for c in steps(columns.stop - columns.start, wide, columns.start):
        weight = head.weight[c].T
        for r in steps(rows.stop - rows.start, high, rows.start):
            block = tile[_within(r, rows), _within(c, columns)]
            if head.bias is None:
                torch.mm(head.hidden[r], weight, out=block)
            else:
                torch.addmm(head.bias[c], head.hidden[r], weight, out=block)
            if seen is not None:
                seen.add(r, c, block)
    return tile


def _block(tile: Tensor) -> tuple[int, int]:
    """Rows and classes of a tile that are made at a time."""
    return (_plan.block_rows(tile.dtype), CLASSES) if at_hand(tile) else (tile.shape[0], tile.shape[1])


def _in_one(tiles: Tiles, room: Tensor, classes: int) -> bool:
    """Does a block have all classes of its rows?"""
    return min(tiles.classes, _block(room)[1]) >= classes


def _within(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


class _Facts:
    """The facts of some rows, gathered block by block: all rows of a block of classes, then of the next; and where
    `told` the logit of the label of each row."""

    def __init__(self, head: Head, rows: slice, mixed: bool, whole: bool, told: bool = False) -> None:
        self.head, self.rows, self.mixed, self.whole, self.told = head, rows, mixed, whole, told
        self.parts: list[RowSummary] = []
        self.spans: list[Tensor | float] = []
        self.own = torch.zeros(0) if whole and not told else self._numbers(1)[0].zero_()

    def _numbers(self, count: int) -> Tensor:
        size = count, self.rows.stop - self.rows.start
        return torch.empty(size, dtype=torch.float64, device=self.head.hidden.device)

    def add(self, rows: slice, columns: slice, block: Tensor) -> None:
        head = self.head
        if self.whole:
            self._look_at_whole(rows, block)
            return
        weight = head.class_weight if self.mixed or head.soft else None
        weight = None if weight is None else weight[columns]
        if rows.start == self.rows.start:  # room for all rows at once: what lives on between blocks splits the heap
            self.parts.append(RowSummary(*self._numbers(len(RowSummary._fields))))
            self.spans.append(float(block.shape[1]) if weight is None else weight.to(torch.float64).sum())
        for piece in head.pieces(block):
            at = slice(rows.start + piece.start, rows.start + piece.stop)
            self._look(at, columns, head.shaped(block[piece]), weight)

    def _look(self, rows: slice, columns: slice, block: Tensor, weight: Tensor | None) -> None:
        head, at = self.head, _within(rows, self.rows)
        if head.soft:
            target = head.target[rows, columns].unsqueeze(2)
        else:  # any class in place of a label elsewhere, so that the row is looked at
            label = head.target[rows] - columns.start
            here = (label >= 0) & (label < block.shape[1])
            target = label.where(here, 0)
            own = block.gather(1, target.unsqueeze(1)).squeeze(1)
            self.own[at] = own.to(torch.float64).where(here, self.own[at])
        facts = choose(block.device).row_summary(block.unsqueeze(2), target, weight, -100, self.mixed)
        for into, fact in zip(self.parts[-1], facts, strict=True):
            into[at] = fact.squeeze(1)

    def _look_at_whole(self, rows: slice, block: Tensor) -> None:
        head, all_rows = self.head, self.rows.stop - self.rows.start
        for piece in head.pieces(block):
            at = slice(rows.start + piece.start, rows.start + piece.stop)
            logits, target = head.shaped(block[piece]), head.target[at]
            asked = target.unsqueeze(2) if head.soft else target, head.class_weight, IGNORED, self.mixed
            facts = choose(block.device).row_summary(logits.unsqueeze(2), *asked)
            facts = RowSummary(*(fact.squeeze(1) for fact in facts))
            if self.told and not head.soft:
                self.own[_within(at, self.rows)] = logits.gather(1, target.clamp_min(0).unsqueeze(1)).squeeze(1)
            if at.stop - at.start == all_rows:
                self.parts.append(facts)
                continue
            if not self.parts:  # room for all rows at once, as below
                self.parts.append(RowSummary(*self._numbers(len(RowSummary._fields))))
            for into, fact in zip(self.parts[0], facts, strict=True):
                into[_within(at, self.rows)] = fact

    def merged(self) -> RowSummary:
        """Of whole rows; what a label picks in parts of them is known only now that the peak is."""
        if self.whole:
            return self.parts[0]
        whole = summary.merge(self.parts, self.spans if self.mixed else None)
        if self.head.soft:
            return whole
        mass = _masses(self.head, self.head.target[self.rows])
        return whole._replace(mass=mass, picked=(mass * (self.own - whole.peak)).where(mass != 0, 0.0))


def _masses(head: Head, labels: Tensor) -> Tensor:
    mass = (labels >= 0).to(torch.float64)
    return mass if head.class_weight is None else head.class_weight.to(torch.float64)[labels.clamp_min(0)] * mass


def _facts_of(head: Head, tiles: Tiles, room: Tensor, mixed: bool) -> RowSummary:
    """Of all rows, from tiles of some classes."""
    found = []
    for at in steps(head.hidden.shape[0], tiles.rows):
        seen = _Facts(head, at, mixed, _in_one(tiles, room, head.weight.shape[0]))
        for columns in steps(head.weight.shape[0], tiles.classes):
            products(head, at, columns, room, seen)
        found.append(seen.merged())
    return _together(found)


def _together(found: list[RowSummary]) -> RowSummary:
    return RowSummary(*map(torch.cat, zip(*found, strict=True)))


class Spread(NamedTuple):
    """What rows tell beyond their loss, ``(N,)`` each (`row_spread` of the backends)."""

    own: Tensor
    """The logit of the label."""
    moment: Tensor
    argmax: Tensor
    above: Tensor


def stats(head: Head, mixed: bool, budget: int | None) -> tuple[RowSummary, Spread]:
    """The facts of each row and what it tells. Once they are known the logits are looked at again: they are still there
    where a block of whole rows has room, and made again where not."""
    (rows, width), classes, dtype = head.hidden.shape, head.weight.shape[0], head.hidden.dtype
    tiles = _plan.tiles(rows, classes, width, dtype, budget, head.soft, True)
    room, facts, spreads = room_for(head.hidden, tiles, classes), [], []  # that of the gradient, which takes it next
    if tiles.classes >= classes:
        tiles = replace(tiles, rows=min(tiles.rows, _block(room)[0]))
    for at in steps(rows, tiles.rows):
        seen = _Facts(head, at, mixed, _in_one(tiles, room, classes), told=True)
        for columns in steps(classes, tiles.classes):
            products(head, at, columns, room, seen)
        facts.append(seen.merged())
        walk = _Walk(head, facts[-1].peak, seen.own)
        for columns in steps(classes, tiles.classes):
            if tiles.classes < classes:
                products(head, at, columns, room)
            walk.add(room[: at.stop - at.start, : columns.stop - columns.start], columns.start)
        spreads.append(Spread(seen.own, walk.moment, walk.argmax, walk.above))
    return _together(facts), Spread(*map(torch.cat, zip(*spreads, strict=True)))


class _Walk:
    """Along the classes, in blocks of one size, so that no budget changes a bit."""

    def __init__(self, head: Head, peak: Tensor, own: Tensor) -> None:
        self.head, self.peak, self.own = head, peak, own
        self.moment, self.above = torch.zeros_like(peak), torch.zeros_like(peak)
        self.argmax = torch.full_like(peak, -1, dtype=torch.int64)

    def add(self, tile: Tensor, start: int) -> None:
        for columns in steps(tile.shape[1], _block(tile)[1]):
            for at in self.head.pieces(tile[:, columns]):
                self._look(at, self.head.shaped(tile[at, columns]), columns.start + start)

    def _look(self, at: slice, block: Tensor, start: int) -> None:
        peak = self.peak[at]
        numbers = peak.unsqueeze(1), self.own[at].unsqueeze(1)
        found = choose(block.device).row_spread(block.unsqueeze(2), *numbers)
        moment, above, first = (number.squeeze(1) for number in found)
        self.moment[at] += moment
        self.above[at] += above
        self.argmax[at] = (first + start).where((self.argmax[at] < 0) & (first >= 0), self.argmax[at])


def _pull(
    head: Head, rows: slice, columns: slice, room: Tensor, tile: Tensor, facts: RowSummary, factors: Factors
) -> Tensor:
    """The gradient in the place of the logits.

    A tile of some classes gets one more, masked, that stands for all others: a label elsewhere is a label there,
    and its class weight is the sum of theirs. So the kernel knows what the whole row is asked for.
    """
    labels, weight = head.target[rows], head.class_weight
    hard, smooth, *by_products = factors
    if tile.shape[1] < head.weight.shape[0]:
        last = tile.shape[1]
        tile = room[: tile.shape[0], : last + 1]
        tile[:, last] = -torch.inf
        inside = (labels >= columns.start) & (labels < columns.stop)
        if weight is not None or smooth is not None:
            weight, hard = _weights_with_others(head, columns, labels, inside, hard, smooth is not None)
        labels = (labels - columns.start).where(inside, last).where(labels >= 0, IGNORED)
    target = labels.unsqueeze(2) if head.soft else labels
    logits = tile.unsqueeze(2)
    numbers = [None if t is None else t.unsqueeze(1) for t in (facts.peak, facts.rest, hard, smooth, *by_products)]
    backend = choose(tile.device)
    plain = head.plain and factors.lse is None
    for at in steps(tile.shape[0], _strip(tile, plain)):
        strip, some = logits[at], [None if t is None else t[at] for t in numbers]
        if plain:
            backend.row_grad(strip, target[at], weight, IGNORED, *some[:4], strip)
        else:
            others = tile.shape[1] > columns.stop - columns.start
            strip.copy_(_with_by_products(head, strip, others, target[at], weight, *some))
    return tile[:, : columns.stop - columns.start]


def _with_by_products(
    head: Head, products: Tensor, others: bool, target: Tensor, weight: Tensor | None, *some: Any
) -> Tensor:
    """The gradient in float32 at least, so that its terms are rounded to 16 bits once."""
    peak, rest, hard, smooth, nll, lse, entropy, mean = some
    backend, logits = choose(products.device), head.shaped(products)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if others:  # no bound of the logits bounds what is masked
        wide[:, -1] = -torch.inf
    slope = backend.row_grad(wide, target, weight, IGNORED, peak, rest, hard, smooth)
    if nll is not None:
        slope += backend.row_grad(wide, target, None, IGNORED, peak, rest, nll, None)
    if lse is not None:
        slope += backend.row_spread_grad(wide, peak, rest, mean, lse, entropy)
    return slope.mul_(_algebra.shaped_slope(products, head.softcap, head.scale, wide))


def _strip(tile: Tensor, plain: bool) -> int:
    """Rows whose gradient is made at a time. They stay near a CPU's cache: 2048 x 32,000 in bfloat16 take 56 ms at once
    and 20 in strips. Where logits are shaped or told of, they and what is made of them are small."""
    if plain and not at_hand(tile):
        return tile.shape[0]
    return max(1, (STRIP if plain else _plan.piece(tile.device)) // (tile.shape[1] * tile.itemsize))


def _weights_with_others(
    head: Head, columns: slice, labels: Tensor, inside: Tensor, hard: Tensor, smoothed: bool
) -> tuple[Tensor, Tensor]:
    """The class weights of a tile and of the class that stands for the others; the factor of a label there makes
    up for its weight being another one. Without smoothing any weight will do there, so it is 1."""
    classes = head.weight.shape[0]
    all_of = hard.new_ones(classes) if head.class_weight is None else head.class_weight.to(torch.float64)
    others = all_of[: columns.start].sum() + all_of[columns.stop :].sum() if smoothed else hard.new_ones(())
    share = hard * all_of[labels.clamp_min(0)] / others.where(others != 0, 1.0)
    return torch.cat([all_of[columns], others.reshape(1)]), hard.where(inside, share)
