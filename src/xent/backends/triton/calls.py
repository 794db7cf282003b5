"""Tensors in, tensors out: the functions of the contract."""

import torch
from torch import Tensor

from ... import _check
from ...summary import RowSummary
from . import flags, programs
from .cut import like
from .launch import on


def numbers_a_row(rows: Tensor, count: int = 1) -> Tensor:
    """Room for some numbers a row."""
    return rows.new_empty((count, rows.shape[0], rows.shape[2]), dtype=torch.float64)


def dtype_of(tensor: Tensor | None) -> torch.dtype | None:
    """None of none."""
    return None if tensor is None else tensor.dtype


def weights_of(class_weight: Tensor | None, mixed: bool) -> tuple[Tensor | None, Tensor | None]:
    """Class weights as the kernels read them, and their sum where it is asked for."""
    if class_weight is None:
        return None, None
    weight = class_weight.contiguous()
    if not weight.is_floating_point():
        weight = weight.to(torch.float64)
    return weight, exact_sum(weight.to(torch.float64)) if mixed else None


# -- facts -------------------------------------------------------------------------------------------


def looked_at(target: Tensor, classes: int, ignore_index: int) -> Tensor:
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


def find(
    plan: programs.Facts, rows: Tensor, *given: Tensor | None, into: tuple[Tensor | None, ...], board: Tensor | None
) -> None:
    """The facts that `plan` finds for target, class weights and their sum: peak, rest, picked, mass, mix; a label that
    is no class is noted on the `board`."""
    device = rows.device
    partial = None if plan.merge is None else numbers_a_row(rows, 6 * plan.tiles)
    tensors = (rows, *given, board, partial, *into)
    plan.summary(device, *tensors)
    if plan.merge is not None:
        plan.merge(device, *tensors)


def row_summary(
    rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, mixed: bool
) -> RowSummary:
    """See `xent.backends.contract`."""
    target = looked_at(target, rows.shape[1], ignore_index)
    weight, weight_sum = weights_of(class_weight, mixed)
    asked = programs.asked(target, weight, ignore_index, mixed)
    plan = programs.summary(like(rows), asked, torch.float32, torch.float64)  # whoever asks may want a float32 loss
    out = [numbers_a_row(rows)[0] for _ in range(5)]  # not parts of one: what an op returns may not overlap
    with on(rows.device):
        find(plan, rows, target, weight, weight_sum, into=tuple(out), board=flags.board(rows.device))
    return RowSummary(*out)


# -- gradients ---------------------------------------------------------------------------------------


def _halves(rows: Tensor, other: Tensor, weight: Tensor | None, peak: Tensor, rest: Tensor, moment: bool) -> Tensor:
    """What `writes.split` finds, a tile each."""
    tiles, launch = programs.split(like(rows), like(other), dtype_of(weight), moment)
    sums = numbers_a_row(rows, 2 * tiles)
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
    weight, weight_sum = weights_of(class_weight, mixed)
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
    launch = programs.gradient(like(rows), like(out), asked, hard.stride(), hard.dtype, dtype_of(own), made)
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
    peak, rest = numbers_a_row(rows)[0], numbers_a_row(rows)[0]
    plan = programs.summary(like(rows), programs.asked(None, None, -100, False), dtype)
    with on(rows.device):
        find(plan, rows, rows, None, None, into=(peak, rest, None, None, None), board=None)
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


def one_block(values: Tensor, rows: int, plan: programs.Sums) -> Tensor:
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
        few = one_block(values.contiguous(), rows, plan)
        programs.total(rows, plan.left, plan.stride)(values.device, few, out)
    return out
