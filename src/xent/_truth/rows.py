r"""Loss, gradient and softmax of rows of logits.

With ``a_j`` what the target asks of class ``j``, ``A = sum a_j``, ``e_j = exp(x_j - peak)`` and ``rest`` their sum but
for one class at the peak,

    loss = sum_j a_j (log1p(rest) + (peak - x_j)),   gradient_j = (e_j (A - a_j) - a_j (1 + rest - e_j)) / (1 + rest)

and at the peak ``1 + rest - e_j`` is `rest`. Terms with ``a_j = 0`` are left out, so that ``0 * inf`` never occurs.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .numbers import Arithmetic, Exact, arithmetic, paired


@dataclass(frozen=True)
class Truth:
    """What a call should have given, for the exact values of the tensors it was given."""

    loss: Exact
    """A scalar, or with ``reduction='none'`` of the shape of the labels."""
    gradient: Exact
    """With respect to the logits, and of their shape."""
    size: Tensor
    """Of each entry of the gradient the larger of the two terms it is the difference of."""
    softmax: Exact
    bits: int | None
    """Of which every number above is certain; None where nothing is proven."""
    by: str
    """The arithmetic."""


def truth(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    upstream: Tensor | None = None,
    times: int = 1,
    using: Arithmetic | None = None,
) -> Truth:
    """The truth of torch's ``cross_entropy(logits, target, weight, ...)``, by the formulas of its documentation.

    `upstream` is the gradient that comes from above, of the shape of the loss; 1 where there is none. `times` says that
    all rows come so many times, one after another; gradient and softmax are then those of the first time.
    """
    using = using or arithmetic()
    with using.at_work():
        asking = _Asking(using, logits, target, weight, ignore_index, label_smoothing)
        rows = [_Row(using, row, asking.of(n)) for n, row in enumerate(asking.rows)]
        divisor = asking.divisor() * times if reduction == "mean" else using.number(1)
        results = [row.loss for row in rows]
        if reduction != "none":
            total = sum(results, using.number(0)) * times
            results = [total / divisor if divisor != 0 else using.number("nan")]
        above = _above(using, upstream, divisor, len(rows))
        entries = [row.gradient(g) for row, g in zip(rows, above, strict=True)]
        flat = [number for row in entries for number, _ in row]
        return Truth(
            loss=paired(results).reshape(asking.shape if reduction == "none" else ()),
            gradient=asking.placed(paired(flat)),
            size=asking.placed(paired(size for row in entries for _, size in row)).high,
            softmax=asking.placed(paired(p for row in rows for p in row.softmax())),
            bits=_certain(using, [*results, *flat]),
            by=using.name,
        )


def _above(using: Arithmetic, upstream: Tensor | None, divisor: Any, count: int) -> list[Any]:
    """What reaches each row: 0 where a mean divides by nothing."""
    given = [1.0] if upstream is None else upstream.detach().double().reshape(-1).tolist()
    given = given * count if len(given) == 1 else given
    return [using.number(g) / divisor if divisor != 0 else using.number(0) for g in given]


def _certain(using: Arithmetic, numbers: list[Any]) -> int | None:
    bits = [using.bits(number) for number in numbers if math.isfinite(float(number))]
    return None if None in bits else min((b for b in bits if b is not None), default=using.BITS)


class _Asking:
    """The rows of a call, and what its target asks of each class."""

    def __init__(
        self, using: Arithmetic, logits: Tensor, target: Tensor, weight: Tensor | None, ignored: int, smoothing: float
    ) -> None:
        self._using, self._at = using, 0 if logits.ndim == 1 else 1
        self._moved = logits.detach().movedim(self._at, -1)
        classes = self._moved.shape[-1]
        self.shape = self._moved.shape[:-1]
        self.rows = self._moved.double().reshape(-1, classes).tolist()
        weights = [1.0] * classes if weight is None else weight.detach().double().tolist()
        self._weight = [using.number(w) for w in weights]
        self._smoothing, self._ignored = using.number(float(smoothing)), ignored
        self._soft = target.shape == logits.shape and target.is_floating_point()
        if self._soft:
            self._target = target.detach().double().movedim(self._at, -1).reshape(-1, classes).tolist()
        else:
            self._target = target.detach().long().reshape(-1).tolist()

    def of(self, n: int) -> dict[int, Any]:
        """``a_j``, where it is not 0; empty for a row that is ignored."""
        asked, e = {}, self._smoothing
        if self._soft:
            share = {j: self._using.number(q) for j, q in enumerate(self._target[n]) if q}
        elif self._target[n] == self._ignored:
            return {}
        else:
            share = {self._target[n]: self._using.number(1)}
        spread = e / len(self._weight)
        for j in range(len(self._weight)) if e != 0 else share:
            asked[j] = self._weight[j] * (share.get(j, 0) * (1 - e) + spread)
        return {j: a for j, a in asked.items() if a != 0}

    def divisor(self) -> Any:
        """Of a mean."""
        if self._soft:
            return self._using.number(len(self.rows))
        return sum((self._weight[y] for y in self._target if y != self._ignored), self._using.number(0))

    def placed(self, flat: Exact) -> Exact:
        """Entries of the rows, one after another, where the logits have them."""
        shape = self._moved.shape
        return Exact(*(part.reshape(shape).movedim(-1, self._at) for part in (flat.high, flat.low)))


class _Row:
    def __init__(self, using: Arithmetic, logits: list[float], asked: dict[int, Any]) -> None:
        self._using, self._asked = using, asked
        peak = max(logits)
        self._defined = math.isfinite(peak) and not any(math.isnan(x) for x in logits)
        if not self._defined:
            self._e = [using.number("nan")] * len(logits)
            self.loss = using.number("nan" if asked else 0)
            return
        number, exp, top = using.number, using.exp, using.number(peak)
        self._peak = logits.index(peak)
        self._e = [number(0) if x == -math.inf else exp(number(x) - top) for x in logits]
        below = self._e[: self._peak] + self._e[self._peak + 1 :]
        self._rest = sum(below, number(0))
        self._mass = 1 + self._rest
        log_mass, away = using.log1p(self._rest), [j for j in asked if logits[j] == -math.inf]
        if away:  # a class that cannot be is asked for
            self.loss = number("inf")
        else:
            self.loss = sum((a * (log_mass + (top - number(logits[j]))) for j, a in asked.items()), number(0))

    def softmax(self) -> list[Any]:
        return [e / self._mass for e in self._e] if self._defined else self._e

    def gradient(self, above: Any) -> list[tuple[Any, Any]]:
        """Each entry, and the larger of its two terms."""
        zero = self._using.number(0)
        if not self._asked or above == 0:
            return [(zero, zero)] * len(self._e)
        if not self._defined:
            return [(e, e) for e in self._e]
        everything = sum(self._asked.values(), zero)
        scale = above / self._mass
        plain, entries = everything * scale, []
        for j, e in enumerate(self._e):
            a = self._asked.get(j)
            if a is None:
                entries.append((e * plain, abs(e * plain)))
                continue
            plus = e * (everything - a) * scale
            minus = a * (self._rest if j == self._peak else self._mass - e) * scale
            entries.append((plus - minus, max(abs(plus), abs(minus), key=float)))
        return entries
