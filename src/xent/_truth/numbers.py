"""Two arithmetics with one interface, and their results in pairs of float64."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Exact:
    """Numbers as unevaluated sums ``high + low`` of float64; `low` is 0 where `high` is not finite."""

    high: Tensor
    low: Tensor

    def reshape(self, shape: Sequence[int]) -> "Exact":
        return Exact(self.high.reshape(tuple(shape)), self.low.reshape(tuple(shape)))


class Flint:
    """Arb: a number is a ball that contains the true one."""

    BITS = 170

    def __init__(self) -> None:
        import flint

        self._context = flint.ctx
        self.number = flint.arb
        self.name = f"python-flint {metadata.version('python-flint')}, {self.BITS} bits"

    @contextmanager
    def at_work(self) -> Iterator[None]:
        before = self._context.prec
        self._context.prec = self.BITS
        try:
            yield
        finally:
            self._context.prec = before

    def exp(self, x: Any) -> Any:
        return x.exp()

    def log1p(self, x: Any) -> Any:
        return x.log1p()

    def bits(self, x: Any) -> int:
        """Of which it is certain, relative to its size."""
        return x.rel_accuracy_bits()


class Mpmath:
    """Rounded to nearest at every step; what the steps add up to is not proven."""

    BITS = 200

    def __init__(self) -> None:
        import mpmath

        self._context = mpmath.mp.clone()
        self._context.prec = self.BITS
        self.number, self.exp, self.log1p = self._context.mpf, self._context.exp, self._context.log1p
        self.name = f"mpmath {metadata.version('mpmath')}, {self.BITS} bits"

    @contextmanager
    def at_work(self) -> Iterator[None]:
        yield

    def bits(self, x: Any) -> None:
        return None


Arithmetic = Flint | Mpmath


def arithmetic(name: str | None = None) -> Arithmetic:
    """``'flint'`` or ``'mpmath'``; flint where it is installed and nothing is said."""
    if name is None:
        name = "flint" if find_spec("flint") else "mpmath"
    return {"flint": Flint, "mpmath": Mpmath}[name]()


def paired(numbers: Iterable[Any]) -> Exact:
    """Balls or mpf as pairs of float64."""
    high, low = [], []
    for number in numbers:
        first = float(number)
        high.append(first)
        low.append(float(number - first) if math.isfinite(first) else 0.0)
    return Exact(torch.tensor(high, dtype=torch.float64), torch.tensor(low, dtype=torch.float64))
