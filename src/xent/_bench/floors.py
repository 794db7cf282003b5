"""What nothing can be faster than, measured in the same rounds: a pass over the memory, or bare matrix products.

There are several ways to copy or to read, of which the fastest counts; which one that is changes with the size and
from run to run, by up to 5 %.
"""

import torch
from torch import Tensor

from .cases import Case
from .clock import Job
from .results import Floor, Times
from .tasks import Problem

MARK = "floor: "


def floors_of(case: Case, problem: Problem, timed: str) -> dict[str, Job]:
    """Name -> call. A step reads the logits and writes a gradient: a copy. The forward pass reads them."""
    if case.task == "linear":
        found = {"products": _products(*problem.leaves, training=timed == "step")}
    elif timed == "step" or case.task in ("softmax", "log_softmax"):
        found = _copies(problem.leaves[0])
    else:
        found = _reads(problem.leaves[0])
    return {MARK + name: job for name, job in found.items()}


def fastest(times: dict[str, Times]) -> Floor | None:
    """The fastest of the floors among these times; None where none of them could be called."""
    names = sorted((name for name in times if name.startswith(MARK)), key=lambda name: times[name].median)
    return Floor(names[0].removeprefix(MARK), times[names[0]]) if names else None


def _copies(logits: Tensor) -> dict[str, Job]:
    """Into memory that is there. (memmove on a thread for each half: 11.9 ms at 262 MB where copy_ takes 10.0.)"""
    source, into = logits.detach(), torch.zeros_like(logits.detach())
    return {
        "copy with copy_": lambda: into.copy_(source),
        "copy with cat": lambda: torch.cat([source], out=into),
    }


def _reads(logits: Tensor) -> dict[str, Job]:
    floats = logits.detach().view(-1)
    found: dict[str, Job] = {"read with sum": floats.sum, "read with amax": floats.amax}
    if floats.nbytes % 8 == 0:
        found["read with sum of int64"] = floats.view(torch.int64).sum
    return found


def _products(hidden: Tensor, weight: Tensor, training: bool) -> Job:
    """Into memory that is there: the logits, and for a step both gradients."""
    hidden, weight = hidden.detach(), weight.detach()
    logits = hidden.new_zeros(len(hidden), len(weight))
    into = torch.zeros_like(hidden), torch.zeros_like(weight)

    def job() -> None:
        torch.mm(hidden, weight.T, out=logits)
        if training:
            torch.mm(logits, weight, out=into[0])
            torch.mm(logits.T, hidden, out=into[1])

    return job
