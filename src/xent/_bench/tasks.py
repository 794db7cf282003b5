"""The tensors of a case and the calls that are timed on them. The same numbers in every process: seeds are fixed."""

from collections.abc import Callable
from typing import Any, NamedTuple

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
        upstream = torch.randn(logits.shape, **_drawn(2, case.device)).to(logits.dtype)
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


JOBS = {"forward": forward, "step": step}
"""What is timed -> the call."""


def _logits(case: Case) -> Tensor:
    return torch.randn(case.shape, **_drawn(0, case.device)).to(getattr(torch, case.dtype))


def _labels(case: Case) -> Tensor:
    """One a row: the shape without the classes, which are dimension 1."""
    rows, _, *places = case.shape
    return torch.randint(case.classes, (rows, *places), **_drawn(1, case.device))


def _head(case: Case) -> Problem:
    rows, width, classes = case.shape
    drawn = _drawn(0, case.device)
    hidden, weight = torch.randn(rows, width, **drawn), torch.randn(classes, width, **drawn).div_(width**0.5)
    leaves = tuple(leaf.to(getattr(torch, case.dtype)).requires_grad_() for leaf in (hidden, weight))
    return Problem(leaves, (torch.randint(classes, (rows,), **drawn),))


def _with_option(task: str, logits: Tensor, target: Tensor) -> tuple[Tensor, dict[str, object]]:
    """The target and the keyword arguments of the loss."""
    drawn = _drawn(1, logits.device)
    if task == "probabilities":
        return torch.randn(logits.shape, **drawn).softmax(1).to(logits.dtype), {}
    if task == "ignored":
        return target.masked_fill(torch.rand(target.shape, **drawn) < 0.3, -100), {}
    if task == "weights":
        return target, {"weight": (0.5 + torch.rand(logits.shape[1], **drawn)).to(logits.dtype)}
    return target, {"label_smoothing": 0.1} if task == "smoothing" else {}


def _drawn(seed: int, device: str | torch.device) -> dict[str, Any]:
    return {"generator": torch.Generator(device).manual_seed(seed), "device": device}
