"""The walk from logits to loss as data: plain numbers and words, nothing that holds on to a tensor.

A renderer turns a `Derivation` into text and adds nothing to it.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import OptionError
from .parts import Caution, Exact, Reduction, Route, Row

SCHEMA = "xent.explain/1"


@dataclass(frozen=True, slots=True)
class Derivation:
    """How a loss comes about; `print` shows it, a notebook shows tables and a page, `to_dict` gives JSON."""

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
        """One page with sliders that move the logits of a row: loss, probabilities and gradient follow, to 1e-12.

        It loads nothing, and has the same size for any number of classes: those that are not shown are one logsumexp.

        Example:
            >>> page = xent.explain(torch.tensor([[2.0, 1.0, 0.1]]), torch.tensor([0])).to_html()
            >>> page.startswith("<!doctype html>"), len(page) < 30_000
            (True, True)
        """
        return self._rendered("html")

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the page of `to_html`, or that of `to_svg` where the name ends so; the path it was written to.

        Raises:
            OSError: it cannot be written there.
        """
        file = Path(path)
        file.write_text(self.to_svg() if file.suffix == ".svg" else self.to_html(), encoding="utf-8")
        return file

    def to_svg(self, row: int | None = None) -> str:
        """A picture of one of the rows shown: `row` is its position among all, otherwise the one of highest loss.

        Raises:
            OptionError: that row is not among those shown.

        Example:
            >>> derivation = xent.explain(torch.tensor([[2.0, 1.0, 0.1]]), torch.tensor([0]))
            >>> derivation.to_svg(row=0).startswith("<svg ")
            True
        """
        chosen = self._chosen(row)
        return (self if chosen is None else replace(self, rows=(chosen,)))._rendered("svg")

    def plot(self, row: int | None = None) -> Any:
        """The same row in matplotlib: probabilities, gradient, the loss of each row shown, the loss over two logits.

        The two logits are the target's and the largest beside it.

        Returns:
            matplotlib.figure.Figure: not known to pyplot; ``figure.savefig(path)`` writes it.

        Raises:
            ModuleNotFoundError: matplotlib is missing; it is the extra ``plot``. OptionError: as `to_svg`.
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
