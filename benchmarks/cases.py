"""The table of the benchmark as data: what is measured, and which ratio is asked of it."""

import re
from typing import NamedTuple


class Goals(NamedTuple):
    """What a row is to reach, as ratios of times; None is not asked."""

    torch: float | None = None
    """torch's time / xent's, at least."""
    compile: float | None = None
    """Time of torch.compile(F.cross_entropy) / xent's, at least."""
    floor: float | None = None
    """xent's time / that of a copy of the logits (forward alone: of reading them), at most."""


NO_GOALS = Goals()


class Case(NamedTuple):
    what: str
    """loss, an option of it, softmax, log_softmax: forward and backward. forward: the loss without a gradient."""
    shape: str
    dtype: str
    goals: Goals
    stretch: Goals = NO_GOALS

    @property
    def label(self) -> str:
        return f"{self.what} {self.shape} {self.dtype}"

    def is_in(self, pattern: str) -> bool:
        """Whether the pattern stands in the label as whole words, so that 64x10 is not 16384x100."""
        return re.search(rf"(?<!\S)(?:{pattern})(?!\S)", self.label) is not None


def rows(what: str, shapes: str, dtypes: str, goals: Goals, stretch: Goals = NO_GOALS) -> list[Case]:
    return [Case(what, shape, dtype, goals, stretch) for dtype in dtypes.split() for shape in shapes.split()]


LARGE = "2048x32000 512x128256"

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

SOFTMAX = [Case(what, case.shape, case.dtype, Goals(1)) for what in ("softmax", "log_softmax") for case in LOSS]

CASES = [*LOSS, *OTHERS, *SOFTMAX]

# A training step may hold one gradient beyond its input: the last 5 % are the allocator's and the kernel's counting.
GRADIENTS = Goals(floor=1.05)
MEMORY = rows("memory", "1024x32000 256x128256", "float32", GRADIENTS)
