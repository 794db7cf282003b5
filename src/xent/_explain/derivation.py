"""The walk from logits to loss as data: plain numbers and words, nothing that holds on to a tensor.

Numbers are float64, in nats, and follow the letters of `xent.summary`; the routes alone are computed
in the dtype of the input. A renderer turns a `Derivation` into text and adds nothing to it.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import OptionError

SCHEMA = "xent.explain/1"


@dataclass(frozen=True, slots=True)
class Entry:
    """One class of a row."""

    index: int
    label: str | None
    rank: int
    """1 + how many classes have a larger logit."""
    logit: float
    """As given."""
    shaped: float
    """``x_j``, the logit that the loss is of: the same, but for a softcap and a logit scale."""
    exponential: float
    """``exp(x_j - peak)``."""
    probability: float
    log_probability: float
    share: float
    """``q_j``: 1 at a label, or what a distribution says."""
    weight: float
    """``w_j``, the class weight; 1 without."""
    asked: float
    """``a_j = w_j ((1 - e) q_j + e / V)``: the row's loss is ``sum_j a_j (-log p_j)``, a z-loss and a token weight
    apart."""
    gradient: float
    """Of the reduced loss with respect to this logit (of the row's own loss where nothing is reduced)."""
    target: bool
    """The label, or the class that a distribution asks most of."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """The classes that are not shown, at one temperature: all that a row's loss needs of them when another logit moves.

    Each is exact, so the loss is, however many they are; differences to their own logsumexp are >= 0, so none cancels.
    """

    temperature: float
    """What their logits are divided by, before a softcap."""
    logsumexp: float
    rest: float
    """``sum exp(x_j - their peak)`` without one occurrence of it."""
    weighted: float
    """``sum_j w_j (logsumexp - x_j)``."""
    shared: float
    """``sum_j q_j w_j (logsumexp - x_j)``."""


@dataclass(frozen=True, slots=True)
class Others:
    """The classes of a row that are not shown one by one, as one line."""

    count: int
    max_logit: float
    max_shaped: float
    exponentials: float
    logsumexp: float
    probability: float
    asked: float
    gradient: float
    weights: float
    """``sum_j w_j``."""
    shares: float
    """``sum_j q_j w_j``."""
    crowds: tuple[Crowd, ...]
    """From cold to hot, 1 in the middle."""

    @property
    def crowd(self) -> Crowd:
        """At the temperature of the call."""
        return self.crowds[len(self.crowds) // 2]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the walk: what is computed, with which numbers, and why so."""

    name: str
    formula: str
    substituted: str
    value: float
    why: str


@dataclass(frozen=True, slots=True)
class Term:
    """What an option (class weight, label smoothing, z-loss, token weight, ignored row) makes of the loss of a row."""

    name: str
    formula: str
    substituted: str
    value: float
    adds: bool
    """Is it a summand? These add up to the loss of the row before its token weight; the others are steps on the way."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row. An ignored one is not looked at: its facts are those of a row of one class, all zero."""

    position: int
    """Of the row among all rows, counted in the order of the labels."""
    index: tuple[int, ...]
    """Of the row in the shape of the labels."""
    target: int | None
    """The label; for a distribution the class it asks most of, None if it asks nothing."""
    ignored: bool
    classes: int
    peak: float
    rest: float
    """``sum exp(z_j - peak)`` without one occurrence of the peak; the row's mass is ``1 + rest``."""
    logsumexp: float
    loss: float
    """Before the reduction, class weights, smoothing, z-loss and token weight in it."""
    token_weight: float
    entries: tuple[Entry, ...]
    others: Others | None
    steps: tuple[Step, ...]
    terms: tuple[Term, ...]

    @property
    def picked(self) -> Entry | None:
        """The line of the target."""
        return next((entry for entry in self.entries if entry.target), None)


@dataclass(frozen=True, slots=True)
class Reduction:
    """From the losses of the rows to the loss."""

    name: str
    rows: int
    ignored: int
    total: float
    divisor: float
    formula: str
    """What the divisor is made of."""


@dataclass(frozen=True, slots=True)
class Route:
    """One way to compute the same number, in the dtype of the input."""

    name: str
    value: float | None
    error: float | None
    """Signed, against the exact value; None where one of the two is not finite."""
    ulps: float | None
    """The size of `error` in units of the last place of the exact value in the route's dtype."""
    status: str
    """ok, inaccurate, underflow, overflow, nan or not applicable."""
    reason: str


@dataclass(frozen=True, slots=True)
class Exact:
    """The number that the routes are compared with."""

    value: float
    digits: str
    method: str


@dataclass(frozen=True, slots=True)
class Caution:
    """Something that people get wrong, seen in these inputs."""

    kind: str
    text: str
    cure: str


@dataclass(frozen=True, slots=True)
class Derivation:
    """How a loss comes about; `print` shows it, `to_dict` gives JSON."""

    loss: float | None
    """The reduced loss; None where nothing is reduced."""
    shape: tuple[int, ...]
    dtype: str
    classes: int
    soft: bool
    weighted: bool
    label_smoothing: float
    ignore_index: int
    softcap: float | None
    logit_scale: float
    z_loss: float
    token_weighted: bool
    temperatures: tuple[float, ...]
    """At which the classes that are not shown are summed up."""
    rows: tuple[Row, ...]
    selection: str
    """Which rows these are."""
    reduction: Reduction
    exact: Exact
    routes: tuple[Route, ...]
    scope: str
    """Which rows the routes and the exact value are taken over."""
    cautions: tuple[Caution, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: a number that is not finite becomes the string "inf", "-inf" or "nan"."""
        return {"schema": SCHEMA, **_plain(self)}

    def to_html(self) -> str:
        """One self-contained page with sliders that move the logits."""
        return self._rendered("html")

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the page of `to_html`, or that of `to_svg` where the name ends so; the path it was written to."""
        file = Path(path)
        file.write_text(self.to_svg() if file.suffix == ".svg" else self.to_html(), encoding="utf-8")
        return file

    def to_svg(self, row: int | None = None) -> str:
        """A picture of one of the rows shown, the one at the position `row` among all or the one of highest loss."""
        chosen = self._chosen(row)
        return (self if chosen is None else replace(self, rows=(chosen,)))._rendered("svg")

    def plot(self, row: int | None = None) -> Any:
        """The same row in matplotlib: probabilities, gradient, the loss of each row shown, the loss over two logits.

        Returns:
            matplotlib.figure.Figure: not known to pyplot; ``figure.savefig(path)`` writes it.
        """
        from . import figure

        return figure.drawn(self, self._chosen(row))

    def _chosen(self, position: int | None) -> Row | None:
        if position is None:
            return worst(self.rows)
        found = next((row for row in self.rows if row.position == position), None)
        if found is None:
            shown = ", ".join(str(row.position) for row in self.rows) or "none"
            raise OptionError(f"row {position} is not among the rows shown: {shown}.\n  Explain it with rows=...")
        return found

    def _rendered(self, name: str) -> str:
        from .render import RENDERERS

        return RENDERERS[name](self)

    def _repr_html_(self) -> str:
        return self._rendered("notebook")

    def _repr_markdown_(self) -> str:
        return self._rendered("markdown")

    def _repr_latex_(self) -> str:
        return self._rendered("latex")

    def __str__(self) -> str:
        return self._rendered("text")

    def __repr__(self) -> str:
        kind = f"{self.reduction.name} of {self.reduction.rows:,} × {self.classes:,} logits, {self.dtype}"
        loss = "one loss a row" if self.loss is None else f"loss {self.loss:.10g} nats"
        row = worst(self.rows)
        if row is None or row.ignored:
            return f"Derivation: {loss} ({kind})\n  no row to show"
        at = ", ".join(map(str, row.index))
        return f"Derivation: {loss} ({kind})\n  worst row shown: [{at}], target {row.target}, loss {row.loss:.6g}"

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from .render import colour

        return colour.lines(self)


def worst(rows: Iterable[Row]) -> Row | None:
    """The row of highest loss, nan first; an ignored one where there is no other."""
    return max(rows, key=lambda row: (not row.ignored, math.inf if math.isnan(row.loss) else row.loss), default=None)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value
