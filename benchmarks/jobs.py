"""The inputs of a case and the calls that are timed on them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

import xent
from cases import Case

Job = Callable[[], object]


def sizes(shape: str) -> list[int]:
    return [int(size) for size in shape.split("x")]


def megabytes(shape: str, dtype: str) -> float:
    return math.prod(sizes(shape)) * getattr(torch, dtype).itemsize / 1e6


def inputs(shape: str, dtype: str) -> tuple[Tensor, Tensor]:
    """Normal logits that want a gradient, and labels; classes are dim 1."""
    samples, classes, *places = sizes(shape)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, classes, *places, generator=generator).to(getattr(torch, dtype))
    return logits.requires_grad_(), torch.randint(classes, (samples, *places), generator=generator)


def with_option(what: str, logits: Tensor, target: Tensor) -> tuple[Tensor, dict[str, object]]:
    """The target and the keyword arguments of the loss."""
    generator = torch.Generator().manual_seed(1)
    if what == "probabilities":
        return torch.randn(logits.shape, generator=generator).softmax(1).to(logits.dtype), {}
    if what == "ignored":
        return target.masked_fill(torch.rand(target.shape, generator=generator) < 0.3, -100), {}
    if what == "weights":
        return target, {"weight": 0.5 + torch.rand(logits.shape[1], generator=generator).to(logits.dtype)}
    return target, {"label_smoothing": 0.1} if what == "smoothing" else {}


def training_step(loss: Callable[..., Tensor], logits: Tensor, target: Tensor, **options: object) -> Job:
    def job() -> None:
        logits.grad = None
        loss(logits, target, **options).backward()

    return job


def forward(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Job:
    return torch.no_grad()(lambda: loss(logits, target))


def softmax_step(function: Callable[..., Tensor], logits: Tensor, upstream: Tensor) -> Job:
    def job() -> None:
        logits.grad = None
        function(logits, 1).backward(upstream)

    return job


def copies(logits: Tensor) -> dict[str, Job]:
    """Into memory that is there. (memmove on a thread for each half: 11.9 ms at 262 MB where copy_ takes 10.0.)"""
    source, into = logits.detach(), torch.zeros_like(logits.detach())
    return {
        "copy with copy_": lambda: into.copy_(source),
        "copy with cat": lambda: torch.cat([source], out=into),
    }


def reads(logits: Tensor) -> dict[str, Job]:
    """Reductions as fast as memory: which one wins changes with the size and from run to run, by up to 5 %."""
    floats = logits.detach().view(-1)
    integers = floats.view(torch.int64)
    return {"read with sum": floats.sum, "read with sum of int64": integers.sum, "read with amax": floats.amax}


def jobs_of(case: Case, compiled: Callable[..., Tensor] | None) -> dict[str, Job]:
    """Name -> call; several calls of one floor are named "copy with ..." or "read with ..."."""
    logits, target = inputs(case.shape, case.dtype)
    losses = {"xent": xent.cross_entropy, "torch": F.cross_entropy}
    if compiled is not None and case.goals.compile is not None:
        losses["compile"] = compiled
    if case.what == "forward":
        return {name: forward(loss, logits, target) for name, loss in losses.items()} | reads(logits)
    if case.what in ("softmax", "log_softmax"):
        upstream = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).to(logits.dtype)
        steps = {name: softmax_step(getattr(of, case.what), logits, upstream) for name, of in LIBRARIES.items()}
    else:
        target, options = with_option(case.what, logits, target)
        steps = {name: training_step(loss, logits, target, **options) for name, loss in losses.items()}
    return steps | copies(logits)


LIBRARIES = {"xent": xent, "torch": F}
