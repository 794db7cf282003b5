"""The tensors of a case and the calls that are timed on them. The same numbers in every process: seeds are fixed."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .cases import Case
from .clock import Job

Function = Callable[..., Tensor]


class Problem(NamedTuple):
    """What every implementation is given."""

    leaves: tuple[Tensor, ...]
    """Gradients are wanted of these: the logits, or hidden states and weight of a head."""
    rest: tuple[object, ...] = ()
    """The arguments after them."""
    options: dict[str, object] = {}  # noqa: RUF012
    upstream: Tensor | None = None
    """The gradient of the result, where that is no loss."""


def problem_of(case: Case) -> Problem:
    """Normal logits, or those that normal states and weights give, and random labels."""
    if case.task == "linear":
        return _head(case)
    logits, target = _logits(case), _labels(case)
    if case.task in ("softmax", "log_softmax"):
        upstream = torch.randn(logits.shape, generator=_seeded(2)).to(logits)
        return Problem((logits.requires_grad_(),), (1,), {}, upstream)
    target, options = _with_option(case.task, logits, target)
    return Problem((logits.requires_grad_(),), (target,), options)


def forward(problem: Problem, function: Function) -> Job:
    plain = [leaf.detach() for leaf in problem.leaves]
    return torch.no_grad()(lambda: function(*plain, *problem.rest, **problem.options))


def step(problem: Problem, function: Function) -> Job:
    """Loss and gradients, which die at the next step, as a training loop's do."""

    def job() -> None:
        for leaf in problem.leaves:
            leaf.grad = None
        function(*problem.leaves, *problem.rest, **problem.options).backward(problem.upstream)

    return job


def _logits(case: Case) -> Tensor:
    drawn = torch.randn(case.shape, generator=_seeded(0))
    return drawn.to(device=case.device, dtype=getattr(torch, case.dtype))


def _labels(case: Case) -> Tensor:
    """One a row: the shape without the classes, which are dimension 1."""
    rows, _, *places = case.shape
    return torch.randint(case.classes, (rows, *places), generator=_seeded(1)).to(case.device)


def _head(case: Case) -> Problem:
    rows, width, classes = case.shape
    drawn = _seeded(0)
    hidden = torch.randn(rows, width, generator=drawn)
    weight = torch.randn(classes, width, generator=drawn).div_(width**0.5)
    target = torch.randint(classes, (rows,), generator=drawn)
    dtype = getattr(torch, case.dtype)
    leaves = tuple(leaf.to(device=case.device, dtype=dtype).requires_grad_() for leaf in (hidden, weight))
    return Problem(leaves, (target.to(case.device),))


def _with_option(task: str, logits: Tensor, target: Tensor) -> tuple[Tensor, dict[str, object]]:
    """The target and the keyword arguments of the loss."""
    if task == "probabilities":
        return torch.randn(logits.shape, generator=_seeded(1)).softmax(1).to(logits), {}
    if task == "ignored":
        left_out = torch.rand(target.shape, generator=_seeded(1)) < 0.3
        return target.masked_fill(left_out.to(target.device), -100), {}
    if task == "weights":
        return target, {"weight": (0.5 + torch.rand(logits.shape[1], generator=_seeded(1))).to(logits)}
    return target, {"label_smoothing": 0.1} if task == "smoothing" else {}


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
