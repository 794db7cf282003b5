"""Tensors in, tensors out: the functions of the contract, and the loss in a few kernels with its gradient in one."""

from functools import cache

import torch
from torch import Tensor

from ... import _check
from ...summary import RowSummary
from ..contract import IGNORED
from . import flags, programs
from .cut import like
from .launch import on


def _numbers(rows: Tensor, count: int = 1) -> Tensor:
    """Room for some numbers a row."""
    return rows.new_empty((count, rows.shape[0], rows.shape[2]), dtype=torch.float64)


def _dtype(tensor: Tensor | None) -> torch.dtype | None:
    return None if tensor is None else tensor.dtype


def _weights(class_weight: Tensor | None, mixed: bool) -> tuple[Tensor | None, Tensor | None]:
    """Class weights as the kernels read them, and their sum where it is asked for."""
    if class_weight is None:
        return None, None
    weight = class_weight.contiguous()
    if not weight.is_floating_point():
        weight = weight.to(torch.float64)
    return weight, exact_sum(weight.to(torch.float64)) if mixed else None


# -- facts -------------------------------------------------------------------------------------------


def _looked_at(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """The target as the kernels read it; labels that are no class are told, those of this call or of earlier ones."""
    if target.is_floating_point():
        return target
    if flags.eager(target.device):
        _check.labels(target, classes, ignore_index)
    else:
        flags.look(target.device)
    return target.contiguous()


def labels(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """See `xent.backends.contract`."""
    if flags.eager(target.device):
        return _check.labels(target, classes, ignore_index)
    flags.look(target.device)
    out = torch.empty(target.shape, dtype=torch.int64, device=target.device)
    with on(target.device):
        launch = programs.labels(target.dtype, target.numel(), classes, ignore_index)
        launch(target.device, target.contiguous(), flags.board(target.device), out)
    return out


def _find(
    plan: programs.Facts, rows: Tensor, *given: Tensor | None, into: tuple[Tensor | None, ...], board: Tensor | None
) -> None:
    """The facts that `plan` finds for target, class weights and their sum: peak, rest, picked, mass, mix; a label that
    is no class is noted on the `board`."""
    device = rows.device
    partial = None if plan.merge is None else _numbers(rows, 6 * plan.tiles)
    tensors = (rows, *given, board, partial, *into)
    plan.summary(device, *tensors)
    if plan.merge is not None:
        plan.merge(device, *tensors)


def row_summary(
    rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, mixed: bool
) -> RowSummary:
    """See `xent.backends.contract`."""
    target = _looked_at(target, rows.shape[1], ignore_index)
    weight, weight_sum = _weights(class_weight, mixed)
    asked = programs.asked(target, weight, ignore_index, mixed)
    plan = programs.summary(like(rows), asked, torch.float32, torch.float64)  # whoever asks may want a float32 loss
    out = [_numbers(rows)[0] for _ in range(5)]  # not parts of one: what an op returns may not overlap
    with on(rows.device):
        _find(plan, rows, target, weight, weight_sum, into=tuple(out), board=flags.board(rows.device))
    return RowSummary(*out)


# -- gradients ---------------------------------------------------------------------------------------


def _halves(rows: Tensor, other: Tensor, weight: Tensor | None, peak: Tensor, rest: Tensor, moment: bool) -> Tensor:
    """What `writes.split` finds, a tile each."""
    tiles, launch = programs.split(like(rows), like(other), _dtype(weight), moment)
    sums = _numbers(rows, 2 * tiles)
    launch(rows.device, rows, other, weight, peak, rest, sums)
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
    out: Tensor | None = None,
    divisor: Tensor | None = None,
    factors: tuple[float, float] | None = None,
    made: bool = False,
) -> Tensor:
    """See `xent.backends.contract`. With `factors`, `hard` is what comes from upstream, of any float dtype; `made`:
    `out` holds the gradient for an upstream 1 already."""
    mixed = smooth is not None if factors is None else factors[1] != 0
    weight, weight_sum = _weights(class_weight, mixed)
    soft = target.is_floating_point()
    own = None
    if not soft:
        target = target.contiguous()
        own = _own(rows, target) if out is not None and out.data_ptr() == rows.data_ptr() else None
    out = torch.empty_like(rows) if out is None else out
    peak, rest = peak.contiguous(), rest.contiguous()
    if smooth is not None and smooth.stride() != hard.stride():
        hard, smooth = hard.contiguous(), smooth.contiguous()
    asked = programs.asked(target, weight, ignore_index, mixed, factors)
    launch = programs.gradient(like(rows), like(out), asked, hard.stride(), hard.dtype, _dtype(own), made)
    with on(rows.device):
        halves = _halves(rows, target, weight, peak, rest, False) if soft else None
        launch(rows.device, rows, target, weight, weight_sum, peak, rest, own, halves, hard, smooth, divisor, out)
    return out


def _own(rows: Tensor, target: Tensor) -> Tensor:
    """The logits of the labels, as numbers a row. Any will do for a label that is no class."""
    at = target.to(torch.int64).clamp(0, rows.shape[1] - 1).reshape(rows.shape[0], 1, rows.shape[2])
    return rows.gather(1, at)


def rescale(values: Tensor, factor: Tensor) -> None:
    """See `xent.backends.contract`. The values lie without gaps, in whatever order."""
    with on(values.device):
        programs.rescale(values.numel(), values.dtype, factor.dtype)(values.device, values, factor)


# -- softmax -----------------------------------------------------------------------------------------


def softmax(rows: Tensor, log: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """See `xent.backends.contract`."""
    if torch.promote_types(rows.dtype, dtype) is dtype:
        rows = rows.to(dtype)  # exact
    out = torch.empty_like(rows, dtype=dtype)
    peak, rest = _numbers(rows)[0], _numbers(rows)[0]
    plan = programs.summary(like(rows), programs.asked(None, None, -100, False), dtype)
    with on(rows.device):
        _find(plan, rows, rows, None, None, into=(peak, rest, None, None, None), board=None)
        programs.softmax(like(rows), like(out), log)(rows.device, rows, peak, rest, out)
    return out, peak, rest


def softmax_grad(rows: Tensor, peak: Tensor, rest: Tensor, grad: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    out, peak, rest = torch.empty_like(rows), peak.contiguous(), rest.contiguous()
    with on(rows.device):
        moments = _halves(rows, grad, None, peak, rest, True)
        launch = programs.slope(like(rows), like(grad), like(out))
        launch(rows.device, rows, grad, peak, rest, moments, out)
    return out


# -- by-products -------------------------------------------------------------------------------------


def row_spread(rows: Tensor, peak: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `xent.backends.contract`. A number of classes and a class are whole, so any order will do for them."""
    tiles, launch = programs.spread(like(rows))
    sums = rows.new_empty((3, *peak.shape, tiles), dtype=torch.float64)
    with on(rows.device):
        launch(rows.device, rows, peak.contiguous(), own.to(torch.float64).contiguous(), sums)
    first = sums[2].amin(-1)
    return exact_sum(sums[0]), sums[1].sum(-1), first.where(first < torch.inf, -1.0).to(torch.int64)


def row_spread_grad(rows: Tensor, peak: Tensor, rest: Tensor, mean: Tensor, lse: Tensor, entropy: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    out, numbers = torch.empty_like(rows), (t.contiguous() for t in (peak, rest, mean, lse, entropy))
    with on(rows.device):
        programs.spread_slope(like(rows), like(out))(rows.device, rows, *numbers, out)
    return out


# -- sums --------------------------------------------------------------------------------------------


def _one_block(values: Tensor, rows: int, plan: programs.Sums) -> Tensor:
    """Rows of numbers with the same sums, short enough for one block."""
    for launch, count in plan.shrinks:
        fewer = values.new_empty((rows, count))
        launch(values.device, values, fewer)
        values = fewer
    return values


def exact_sum(values: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    shape = values.shape[:-1]
    out = values.new_empty(shape)
    rows, count = shape.numel(), values.shape[-1]
    plan = programs.shrinks(rows, count, count)
    with on(values.device):
        few = _one_block(values.contiguous(), rows, plan)
        programs.total(rows, plan.left, plan.stride)(values.device, few, out)
    return out


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
    target = _looked_at(target, rows.shape[1], ignore_index)
    weight, weight_sum = _weights(class_weight, mixed)
    asked = programs.asked(target, weight, ignore_index, mixed, factors)
    numbers = _numbers(rows, 4)  # losses, mass, peak, rest
    mass, peak, rest = numbers[1], numbers[2], numbers[3]
    if reduction == "none":
        losses = peak.new_empty(peak.shape, dtype=dtype)
        with on(device):
            facts = programs.summary(like(rows), asked, dtype, dtype)
            _find(
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
        _find(
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
    plan.reduce(numbers.device, _one_block(numbers, 2, plan.sums), out, divisor)


def _divide(plan: programs.Divisor, target: Tensor, weight: Tensor | None, mass: Tensor, divisor: Tensor) -> None:
    """Labels and class weights into what each label counts, and what a mean is divided by."""
    plan.masses(mass.device, target, weight, mass)
    plan.total(mass.device, _one_block(mass, 1, plan.sums), divisor)


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
    weight, weight_sum = _weights(class_weight, mixed)
    gradient, asked = torch.empty_like(rows), programs.asked(target, weight, ignore_index, mixed, factors)
    step = programs.step(like(rows), like(gradient), asked, dtype)
    if step is None:
        return None
    target, board = _looked_at(target, rows.shape[1], ignore_index), flags.board(device)
    numbers = _numbers(rows, 4)  # losses, mass, peak, rest
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
        self.weight, self.weight_sum = _weights(class_weight, self.mixed)
        self.numbers = target.new_empty((5, target.numel()), dtype=torch.float64)  # losses, mass, peak, rest, own
        self.divisor = mean if isinstance(mean, Tensor) else _one(target.device)
        if self.mean:
            self.divisor, asked = self.numbers.new_empty(()), _dtype(self.weight)
            plan = programs.divisor(torch.int64, asked, target.numel(), classes, IGNORED)
            with on(target.device):
                _divide(plan, self.label, self.weight, self.numbers[1], self.divisor)

    @property
    def peak(self) -> Tensor:
        return self.numbers[2]

    @property
    def rest(self) -> Tensor:
        return self.numbers[3]

    def add(self, at: slice, logits: Tensor, pulled: bool) -> None:
        """Of the rows `at` the loss; and if it is `pulled` the gradient, in the place of the logits."""
        rows, device, label = logits.unsqueeze(2), logits.device, self.label[at]
        losses, mass, peak, rest, own = (numbers[at] for numbers in self.numbers)
        asked = programs.asked(label, self.weight, IGNORED, self.mixed, self.factors)
        facts = programs.summary(like(rows), asked, self.dtype, torch.float64)
        with on(device):
            given = (rows, label, self.weight, self.weight_sum)
            _find(facts, *given, into=(peak, rest, losses, mass, own), board=None)
            if pulled:
                launch = programs.gradient(like(rows), like(rows), asked, (), own.dtype, own.dtype)
                launch(device, *given, peak, rest, own, None, _one(device), None, self.divisor, rows)

    def reduced(self) -> Tensor:
        """The mean or the sum."""
        out = self.numbers.new_empty((), dtype=torch.float64 if self.wide else self.dtype)
        with on(out.device):
            plan = programs.reduction(self.label.numel(), self.mean, False, out.dtype)
            _reduce(plan, self.numbers[:2], out, _unread(out.device))
        return out


@cache
def _unread(device: torch.device) -> Tensor:
    """Where numbers go that are known already."""
    return torch.empty((), dtype=torch.float64, device=device)


@cache
def _one(device: torch.device) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=device)
