"""The error in ulp of a row of the case, in the very call that is timed: the labels of all other rows are ignored."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._truth import Exact, arithmetic, truth, unit
from .cases import Case
from .results import Error
from .tasks import Function, Problem

CLASSES = {"Flint": 150_000, "Mpmath": 10_000}
"""Arithmetic -> classes of a row whose truth it finds in about a second."""
IGNORED = -100


class Judged(NamedTuple):
    """A row, and what is true of it."""

    kind: str
    row: Tensor
    """The logits; of a head the hidden state."""
    loss: Exact
    gradient: Exact | None
    """With respect to the row; None of a head, whose gradients are sums of many products."""


def unjudged(case: Case) -> str | None:
    """Why no error can be taken; None where it can."""
    if case.task not in ("loss", "linear"):
        return f"ulp: there is no truth of {case.task} here"
    means = type(arithmetic()).__name__
    if case.classes <= CLASSES[means]:
        return None
    cure = "" if means == "Flint" else '; pip install "xent[audit]" reaches further'
    return f"ulp: the truth of more than {CLASSES[means]:,} classes takes too long{cure}"


def judged(case: Case, problem: Problem) -> list[Judged]:
    """Row 0 as it comes; and row 0 with a label that is right and a loss of about 2e-7, as in late training."""
    head, label = case.task == "linear", _label(problem)
    margin = math.log(case.classes) + 16
    found = []
    for kind in ("random", "sure"):
        row = _row(problem.leaves[0]).detach().clone()
        if kind == "sure" and head:
            towards = problem.leaves[1][label].detach().double()
            row = (towards * (margin / towards.square().sum())).to(row.dtype)
        elif kind == "sure":
            row[label] = margin
        logits = problem.leaves[1].detach().double() @ row.double() if head else row
        true = truth(logits[None].cpu(), torch.tensor([label]))
        found.append(Judged(kind, row, true.loss, None if head else true.gradient.reshape(row.shape)))
    return found


def error_of(case: Case, problem: Problem, function: Function, one: Judged) -> Error:
    """Of one implementation. It writes into the problem's tensors, which nobody should time afterwards."""
    first, *others = problem.leaves
    _row(first.detach()).copy_(one.row)
    first.grad = None
    loss = function(first, *others, _all_but_first_ignored(problem.rest[0]))
    loss.backward()
    gradient = None
    if one.gradient is not None and first.grad is not None:
        gradient = ulps(_row(first.grad), one.gradient, case.dtype)
    return Error(one.kind, ulps(loss.detach(), one.loss, case.dtype), gradient)


def ulps(got: Tensor, true: Exact, dtype: str) -> float:
    """The largest distance from the truth, in units of its last place in a dtype, whatever that of `got` is."""
    distance = ((got.cpu().double() - true.high) - true.low).abs() / unit(true.high, getattr(torch, dtype))
    return distance.max().item()


def _row(tensor: Tensor) -> Tensor:
    """The first row: classes are dimension 1, of a hidden state the width."""
    return tensor[(0, slice(None), *[0] * (tensor.ndim - 2))]


def _label(problem: Problem) -> int:
    target = problem.rest[0]
    assert isinstance(target, Tensor)
    return int(target.flatten()[0])


def _all_but_first_ignored(target: object) -> Tensor:
    assert isinstance(target, Tensor)
    alone = torch.full_like(target, IGNORED)
    alone[(0,) * target.ndim] = target[(0,) * target.ndim]
    return alone
