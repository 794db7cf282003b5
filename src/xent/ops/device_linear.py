"""The short way of a linear head on a GPU: labels, whole rows a tile, a mean or a sum.

Two or three kernels a tile around its three products; the long way has some sixty, each of which takes the host
as long as a large one.
"""

from typing import NamedTuple

from torch import Tensor

from .. import _algebra, _plan
from .._plan import LinearPlan
from ..backends import choose, triton
from . import losses, tiles
from .head import Head, at_hand, steps
from .head_gradients import Gradients, Sums


class Made(NamedTuple):
    """A loss, and the gradients for an upstream 1."""

    loss: Tensor
    gradients: Gradients
    peak: Tensor
    rest: Tensor
    divisor: Tensor


def serves(plan: LinearPlan) -> bool:
    """Is nothing asked for that takes more than the loss of the rows?"""
    hidden = plan.hidden
    return (
        not at_hand(hidden)
        and choose(hidden.device) is triton
        and not plan.soft
        and plan.shaping is None
        and plan.sums.token_weight is None
        and hidden.shape[0] > 0
        and plan.classes > 0
        and _tiles(plan).classes >= plan.classes
    )


def _tiles(plan: LinearPlan) -> _plan.Tiles:
    rows, width = plan.hidden.shape
    return _plan.tiles(rows, plan.classes, width, plan.hidden.dtype, plan.budget, False, True)


def step(plan: LinearPlan, tensors: tuple[Tensor, Tensor, Tensor | None], target: Tensor, wanted: list[bool]) -> Made:
    """The loss of hidden states, weight and bias, and the gradients that are wanted."""
    hidden, weight, bias = tensors
    factors, mean = _algebra.factors(plan.smoothing, plan.classes), plan.sums.reduction == "mean"
    by = losses.num_items(plan.sums, hidden.device)
    asked = plan.class_weight, plan.ignore_index, factors, mean if by is None else by
    told = triton.tiled(target, plan.classes, *asked, plan.dtype)
    head, cut = Head(hidden, weight, bias, told.label, plan.class_weight), _tiles(plan)
    all_classes = slice(0, plan.classes)
    sums, room = Sums(head, cut, wanted), tiles.room_for(hidden, cut, plan.classes)
    for at in steps(hidden.shape[0], cut.rows):
        tile = tiles.products(head, at, all_classes, room)
        told.add(at, tile)
        sums.add(at, all_classes, tile, None)
    loss = told.reduced() if by is None else losses.divided(told.reduced(), by, plan.sums).to(plan.dtype)
    if mean and plan.sums.all_ignored == 0:
        loss = loss.where(told.divisor != 0, 0.0)
    return Made(loss, sums.finished(), told.peak, told.rest, told.divisor)
