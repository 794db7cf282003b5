"""A loss in a few kernels, around the algebra: of logits that are there, and of those that come a tile at a time."""

from functools import cache

import torch
from torch import Tensor

from ..contract import IGNORED
from . import flags, programs
from .calls import dtype_of, find, labels, looked_at, numbers_a_row, one_block, weights_of
from .cut import like
from .launch import on


def loss(
    rows: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    factors: tuple[float, float],
    reduction: str,
    dtype: torch.dtype,
    wide: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss in `dtype` (of each row for ``"none"``), what a gradient is divided by, `peak` and `rest`. A mean or a
    sum may be in a wider dtype, with what is done to it still to come."""
    device, mixed, board = rows.device, factors[1] != 0, flags.board(rows.device)
    target = looked_at(target, rows.shape[1], ignore_index)
    weight, weight_sum = weights_of(class_weight, mixed)
    asked = programs.asked(target, weight, ignore_index, mixed, factors)
    numbers = numbers_a_row(rows, 4)  # losses, mass, peak, rest
    mass, peak, rest = numbers[1], numbers[2], numbers[3]
    if reduction == "none":
        losses = peak.new_empty(peak.shape, dtype=dtype)
        with on(device):
            facts = programs.summary(like(rows), asked, dtype, dtype)
            find(
                facts,
                rows,
                target,
                weight,
                weight_sum,
                into=(peak, rest, losses, mass, None),
                board=board,
            )
        return losses, _one(device), peak, rest
    plan = programs.loss(like(rows), asked, reduction == "mean", dtype, wide or dtype)
    out, divisor = rows.new_empty((), dtype=wide or dtype), rows.new_empty((), dtype=torch.float64)
    with on(device):
        find(
            plan.facts,
            rows,
            target,
            weight,
            weight_sum,
            into=(peak, rest, numbers, mass, None),
            board=board,
        )
        _reduce(plan.reduction, numbers, out, divisor)
    return out, divisor, peak, rest


def _reduce(plan: programs.Reduction, numbers: Tensor, out: Tensor, divisor: Tensor) -> None:
    """Losses and masses, a row of numbers each, into a result and what it was divided by."""
    plan.reduce(numbers.device, one_block(numbers, 2, plan.sums), out, divisor)


def _divide(plan: programs.Divisor, target: Tensor, weight: Tensor | None, mass: Tensor, divisor: Tensor) -> None:
    """Labels and class weights into what each label counts, and what a mean is divided by."""
    plan.masses(mass.device, target, weight, mass)
    plan.total(mass.device, one_block(mass, 1, plan.sums), divisor)


def loss_and_gradient(
    rows: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    factors: tuple[float, float],
    reduction: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None:
    """`loss`, and the gradient for an upstream 1; None where the logits would be read no less."""
    device, mixed, mean = rows.device, factors[1] != 0, reduction == "mean"
    if reduction == "none":
        return None
    weight, weight_sum = weights_of(class_weight, mixed)
    gradient, asked = torch.empty_like(rows), programs.asked(target, weight, ignore_index, mixed, factors)
    step = programs.step(like(rows), like(gradient), asked, dtype)
    if step is None:
        return None
    target, board = looked_at(target, rows.shape[1], ignore_index), flags.board(device)
    numbers = numbers_a_row(rows, 4)  # losses, mass, peak, rest
    mass, peak, rest = numbers[1], numbers[2], numbers[3]
    out, divisor = rows.new_empty((), dtype=dtype), rows.new_empty((), dtype=torch.float64)
    with on(device):
        if mean:
            plan = programs.divisor(target.dtype, asked.weight, target.numel(), rows.shape[1], ignore_index)
            _divide(plan, target, weight, mass, divisor)
        by = divisor if mean else _one(device)
        step(device, rows, target, weight, weight_sum, board, by, peak, rest, numbers, mass, gradient)
        _reduce(programs.reduction(target.numel(), mean, False, dtype), numbers, out, divisor)
    return out, divisor, peak, rest, gradient


class Tiled:
    """The loss of labels whose logits come some rows at a time and are gone when the next ones come: a mean or a sum.
    The gradient of each tile takes its place, for an upstream 1."""

    def __init__(
        self,
        target: Tensor,
        classes: int,
        class_weight: Tensor | None,
        ignore_index: int,
        factors: tuple[float, float],
        mean: bool | Tensor,
        dtype: torch.dtype,
    ) -> None:
        """`mean`: is it one? Or else what it is to be divided by, when it comes as a float64 sum."""
        self.factors, self.mean, self.dtype, self.mixed = factors, mean is True, dtype, factors[1] != 0
        self.wide = isinstance(mean, Tensor)
        self.label = labels(target, classes, ignore_index)  # with a note of what is none, which no tile makes again
        self.weight, self.weight_sum = weights_of(class_weight, self.mixed)
        self.numbers = target.new_empty((5, target.numel()), dtype=torch.float64)  # losses, mass, peak, rest, own
        self.divisor = mean if isinstance(mean, Tensor) else _one(target.device)
        if self.mean:
            self.divisor, asked = self.numbers.new_empty(()), dtype_of(self.weight)
            plan = programs.divisor(torch.int64, asked, target.numel(), classes, IGNORED)
            with on(target.device):
                _divide(plan, self.label, self.weight, self.numbers[1], self.divisor)

    @property
    def peak(self) -> Tensor:
        return self.numbers[2]

    @property
    def rest(self) -> Tensor:
        return self.numbers[3]

    def add(self, at: slice, logits: Tensor) -> None:
        """Of the rows `at` the loss, and the gradient in the place of the logits."""
        rows, device, label = logits.unsqueeze(2), logits.device, self.label[at]
        losses, mass, peak, rest, own = (numbers[at] for numbers in self.numbers)
        asked = programs.asked(label, self.weight, IGNORED, self.mixed, self.factors)
        facts = programs.summary(like(rows), asked, self.dtype, torch.float64)
        with on(device):
            given = (rows, label, self.weight, self.weight_sum)
            find(facts, *given, into=(peak, rest, losses, mass, own), board=None)
            launch = programs.gradient(like(rows), like(rows), asked, (), own.dtype, own.dtype)
            launch(device, *given, peak, rest, own, None, _one(device), None, self.divisor, rows)

    def reduced(self) -> Tensor:
        """The mean or the sum."""
        out = self.numbers.new_empty((), dtype=torch.float64 if self.wide else self.dtype)
        with on(out.device):
            plan = programs.reduction(self.label.numel(), self.mean, False, out.dtype)
            _reduce(plan, self.numbers[:2], out, self.numbers.new_empty(()))  # a divisor that is known
        return out


def _one(device: torch.device) -> Tensor:
    """What is made while a graph is captured has its number and its memory when the graph runs: it is not kept."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return torch.ones((), dtype=torch.float64, device=device)
    return _kept_one(device)


@cache
def _kept_one(device: torch.device) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=device)
