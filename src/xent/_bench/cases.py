"""What is measured: a task on tensors of one shape, dtype and device."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import OptionError, ShapeError

DTYPES = {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Short name -> torch's."""
TASKS = ("loss", "smoothing", "weights", "probabilities", "ignored", "softmax", "log_softmax", "linear")
"""The mean loss of logits, the same with an option, softmax for its own sake, the mean loss of a linear head."""
TIMES = ("forward", "step")
"""What is timed: the forward pass without a gradient; a training step, forward and backward."""
MEASURES = (*TIMES, "peak", "error")

LOGITS = ((1_638_400, 10), (163_840, 100), (16_384, 1_000), (512, 32_000), (128, 128_256))
"""Shapes where none is named: 16.4 million logits each, from ten classes to the vocabulary of a language model."""
HEADS = ((1_024, 256, 8_192), (512, 512, 32_000), (128, 1_024, 128_256))
ON_A_GPU = 16
"""Times as many rows where none is named."""


class Case(NamedTuple):
    """One line of work."""

    task: str
    shape: tuple[int, ...]
    """N x V, N x V x places; of a linear head N x D x V: rows, width, classes."""
    dtype: str
    device: str = "cpu"
    measures: tuple[str, ...] = MEASURES

    @property
    def label(self) -> str:
        return f"{self.task} {written(self.shape)} {self.dtype}"

    @property
    def classes(self) -> int:
        return self.shape[-1] if self.task == "linear" else self.shape[1]

    @property
    def results(self) -> float:
        """MB of the gradients of a step."""
        rows, *rest = self.shape
        numbers = (rows + rest[1]) * rest[0] if self.task == "linear" else math.prod(self.shape)
        return numbers * BYTES[self.dtype] / 1e6


BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def written(shape: tuple[int, ...]) -> str:
    """4096x32000."""
    return "x".join(map(str, shape))


def cases_of(shapes: object, dtype: object, device: str, task: str, measures: Iterable[str] = MEASURES) -> list[Case]:
    """The cases of a call; a default set where no shape is named.

    Raises:
        ShapeError: a shape that the task has not.
        OptionError: a dtype, task, device or measure that is none of those here.
    """
    name = str(dtype).removeprefix("torch.")
    name = DTYPES.get(name, name)
    for what, value, among in (("dtype", name, BYTES), ("task", task, TASKS), ("device", device, ("cpu", "cuda"))):
        if value not in among:
            raise OptionError(f"{what} = {value!r}: expected one of {', '.join(among)}.")
    wanted = set(measures)
    if not wanted or wanted - set(MEASURES):
        raise OptionError(f"measures = {sorted(wanted)}: expected some of {', '.join(MEASURES)}.")
    given = [shapes] if isinstance(shapes, str) or _is_one(shapes) else list(shapes or ())  # pyright: ignore
    found = [shape_of(one, task) for one in given] or _defaults(task, device)
    return [Case(task, shape, name, device, tuple(one for one in MEASURES if one in wanted)) for shape in found]


def shape_of(given: object, task: str) -> tuple[int, ...]:
    """(4096, 32000), from that or from 4096x32000."""
    parts = given.lower().split("x") if isinstance(given, str) else given
    try:
        shape = tuple(int(part) for part in parts)  # pyright: ignore
    except (TypeError, ValueError):
        shape = ()
    linear = task == "linear"
    if not all(size > 0 for size in shape) or (len(shape) != 3 if linear else len(shape) < 2):
        form = "NxDxV, rows, width and classes, as 2048x512x32000" if linear else "NxV or NxCxHxW, as 4096x32000"
        raise ShapeError(f"shape {given!r}: expected {form}; every size at least 1.")
    return shape


def _is_one(shapes: object) -> bool:
    return isinstance(shapes, tuple) and bool(shapes) and all(isinstance(size, int) for size in shapes)


def _defaults(task: str, device: str) -> list[tuple[int, ...]]:
    more = ON_A_GPU if device == "cuda" else 1
    return [(rows * more, *rest) for rows, *rest in (HEADS if task == "linear" else LOGITS)]
