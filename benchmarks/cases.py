"""The fixed set of the benchmark as data: what is measured, and which ratio is asked of it."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

import xent
from goals import BUDGETS, Goal
from xent._bench.cases import Case


class Goals(NamedTuple):
    """What a row is to reach, as ratios of times; None is not asked."""

    torch: float | None = None
    """torch's time / xent's, at least."""
    compile: float | None = None
    """Time of torch.compile(F.cross_entropy) / xent's, at least."""
    floor: float | None = None
    """xent's time / that of a copy of the logits (forward alone: of reading them), at most."""


NO_GOALS = Goals()
RATIOS = {
    "torch": ("torch / xent", "at least"),
    "compile": ("torch-compile / xent", "at least"),
    "floor": ("xent / floor", "at most"),
}


class Benchmark(NamedTuple):
    what: str
    """loss, an option of it, softmax, log_softmax: forward and backward. forward: the loss without a gradient. memory:
    the peak of a step. Of a linear head: train, forward, memory."""
    shape: str
    dtype: str
    goals: tuple[Goal, ...]
    case: Case
    names: tuple[str, ...]
    """Who takes part."""

    @property
    def label(self) -> str:
        return f"{self.what} {self.shape} {self.dtype}"

    def is_in(self, pattern: str) -> bool:
        """Whether the pattern stands in the label as whole words, so that 64x10 is not 16384x100."""
        return re.search(rf"(?<!\S)(?:{pattern})(?!\S)", self.label) is not None


def rows(what: str, shapes: str, dtypes: str, goals: Goals, stretch: Goals = NO_GOALS) -> list[Benchmark]:
    return [_logits(what, shape, dtype, goals, stretch) for dtype in dtypes.split() for shape in shapes.split()]


def _logits(what: str, shape: str, dtype: str, goals: Goals, stretch: Goals) -> Benchmark:
    task = "loss" if what in ("forward", "memory") else what
    measures = {"forward": ("forward",), "memory": ("peak",), "loss": ("step", "error")}.get(what, ("step",))
    others = ("torch-compile",) if goals.compile is not None else ()
    if what == "loss" and shape in LARGE:
        others = (*others, IN_FORWARD)
    case = Case(task, sizes(shape), dtype, measures=measures)
    return Benchmark(what, shape, dtype, tuple(_asked(goals, stretch)), case, ("xent", "torch", *others))


def _asked(goals: Goals, stretch: Goals) -> Iterator[Goal]:
    for name, (ratio, bound) in RATIOS.items():
        value = getattr(goals, name)
        if value is not None:
            yield Goal(ratio, bound, value, getattr(stretch, name))


def sizes(shape: str) -> tuple[int, ...]:
    return tuple(int(size) for size in shape.split("x"))


LARGE = "2048x32000 512x128256"
IN_FORWARD = "xent, gradient in forward=cases:xent_with_its_gradient"


def xent_with_its_gradient(input: Tensor, target: Tensor, *args, **options) -> Tensor:
    xent.set_grad_in_forward(True)
    try:
        return xent.cross_entropy(input, target, *args, **options)
    finally:
        xent.set_grad_in_forward(None)


LOSS = [
    *rows("loss", LARGE, "float32", Goals(12, 6, 2.0), Goals(16, 8, 1.6)),
    *rows("loss", LARGE, "bfloat16 float16", Goals(10, 6, 2.6)),
    *rows("loss", "4096x1000", "float32", Goals(3, 2.7, 1.6)),
    *rows("loss", "4096x1000", "bfloat16", Goals(4.5, 5, 2.5)),
    *rows("loss", "16384x100", "float32", Goals(6, 6, 2.3)),
    *rows("loss", "16384x100", "bfloat16", Goals(6, 6, 6.5)),
    *rows("loss", "65536x10", "float32", Goals(30, 5.5, 8)),
    *rows("loss", "65536x10", "bfloat16 float16", Goals(28, 7, 18)),
    *rows("loss", "1000000x2", "float32", Goals(24, 20, 4.5)),
    *rows("loss", "1000000x2", "bfloat16", Goals(15, 12, 4.5)),
    *rows("loss", "65536x10 16384x100 4096x1000 1000000x2", "float64", Goals(3, 2.5)),
    *rows("loss", "4x21x256x256", "float32", Goals(5, 3.5, 2.5)),
    *rows("loss", "2x150x512x512", "float32", Goals(12, 7, 3)),
    *rows("loss", "64x10", "float32", Goals(1.35, 4)),
]

OTHERS = [
    *rows("forward", LARGE, "float32", Goals(10, 2.3, 1.1)),
    *rows("smoothing", "2048x32000", "float32", Goals(9, 5)),
    *rows("weights", "2048x32000", "float32", Goals(9, 5)),
    *rows("probabilities", "2048x32000", "float32", Goals(9, 5)),
    *rows("ignored", "2048x32000", "float32", Goals(9, 5)),
]

SOFTMAX = [
    row for what in ("softmax", "log_softmax") for one in LOSS for row in rows(what, one.shape, one.dtype, Goals(1))
]

CASES = [*LOSS, *OTHERS, *SOFTMAX]

IN_64_MB = "xent in 64 MB=cases:xent_in_64_mb"
GRADIENT = Goal("xent / gradient", "at most", 1.05)
"""A training step may hold one gradient beyond its input; the last 5 % are the allocator's and the system's."""
MEMORY = [
    rows("memory", shape, "float32", NO_GOALS)[0]._replace(goals=(GRADIENT,)) for shape in ("1024x32000", "256x128256")
]


def xent_in_64_mb(hidden: Tensor, weight: Tensor, target: Tensor, **options) -> Tensor:
    return xent.linear_cross_entropy(hidden, weight, target, memory_budget=BUDGETS["xent in 64 MB"], **options)


class Head(NamedTuple):
    """What the loss of a linear head is to reach, as ratios of times."""

    floor: float
    """xent's time / that of the bare products, at most."""
    torch: float
    """Time of F.linear + F.cross_entropy / xent's, at least."""
    chunked: float | None = None
    """Time of torch's chunked op / xent's, at least; None where it does not take part."""


def heads(what: str, shape: str, dtype: str, goals: Head) -> list[Benchmark]:
    """Times and peaks. Of torch's chunked op no peak: in 16 bits a step takes it a minute."""
    timed = "step" if what == "train" else "forward"
    chunked = () if goals.chunked is None else (Goal("torch-linear / xent-linear", "at least", goals.chunked),)
    times = (
        Goal("xent-linear / floor", "at most", goals.floor),
        Goal("torch / xent-linear", "at least", goals.torch),
        *chunked,
    )
    peaks = tuple(Goal(f"{name} / budget", "at most", 1.1) for name in BUDGETS)
    case, names = Case("linear", sizes(shape), dtype, measures=(timed,)), ("xent-linear", IN_64_MB, "torch")
    if what == "forward":
        return [Benchmark(what, shape, dtype, times + peaks, case._replace(measures=("forward", "peak")), names)]
    return [
        Benchmark(what, shape, dtype, times, case, (*names, *(["torch-linear"] if chunked else []))),
        Benchmark("memory", shape, dtype, peaks, case._replace(measures=("peak",)), names),
    ]


HEADS = [
    *heads("train", "2048x512x32000", "float32", Head(1.06, 1.2, 2.5)),
    *heads("train", "2048x512x32000", "bfloat16", Head(1.15, 1.2, 5)),
    *heads("train", "1024x1024x128256", "bfloat16", Head(1.2, 1.0, 3)),
    *heads("forward", "2048x512x32000", "float32", Head(1.08, 1.3)),
]
