"""What was measured, as data: plain numbers and words. A renderer turns it into text and adds nothing to it."""

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ..errors import FileError
from .cases import Case

if TYPE_CHECKING:
    from .compare import Comparison

SCHEMA = "xent.bench/1"
MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of a call, one number a round; None where the call was left out of a round."""

    rounds: tuple[float | None, ...]

    @property
    def taken(self) -> list[float]:
        return [value for value in self.rounds if value is not None]

    @property
    def median(self) -> float:
        return median(self.taken)

    @property
    def spread(self) -> float:
        """The largest distance of a round from the median, in parts of the median."""
        return max(abs(value / self.median - 1) for value in self.taken)

    def over(self, other: "Times") -> "Times":
        """The ratios of the rounds that have both; where none has, that of the medians."""
        pairs = zip(self.rounds, other.rounds, strict=False)
        ratios = [a / b for a, b in pairs if a is not None and b is not None]
        return Times(tuple(ratios or [self.median / other.median]))

    def to_dict(self) -> dict[str, Any]:
        taken = {"median": self.median, "min": min(self.taken), "max": max(self.taken)}
        return {**{name: _four(value) for name, value in taken.items()}, "rounds": [_four(ms) for ms in self.rounds]}


@dataclass(frozen=True, slots=True)
class Error:
    """The distance from the truth of one row's loss and gradient, in ulp of the dtype."""

    row: str
    """random: as the logits come; sure: with a label that is right, and a loss of about 2e-7."""
    loss: float
    gradient: float | None

    @property
    def worst(self) -> float:
        return max(self.loss, self.gradient or 0.0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One implementation in one case."""

    name: str
    version: str | None
    status: str
    """measured, or why it was not, or not all of it."""
    times: dict[str, Times]
    """Of what was timed: forward, step."""
    peak: float | None = None
    """MB of a step beyond its inputs (of the forward pass if only that is timed), in a fresh process."""
    errors: tuple[Error, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether there is a number to show."""
        return bool(self.times or self.errors or self.peak is not None)


@dataclass(frozen=True, slots=True)
class Floor:
    """What no implementation can be faster than: a copy or a read of the logits, or the bare products of a head."""

    name: str
    times: Times


@dataclass(frozen=True, slots=True)
class Row:
    """All implementations in one case."""

    case: Case
    entries: tuple[Entry, ...]
    floors: dict[str, Floor]
    waited: float
    """For cores, in parts of the time of the worst round that counts; of all threads together."""
    notes: tuple[str, ...] = ()
    """Why something that was asked for is not there."""

    def entry(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name), None)

    def ratio(self, above: str, below: str, timed: str) -> Times | None:
        """Of two implementations, or of one and "floor"; None where one of them was not measured."""
        pair = [self.times(name, timed) for name in (above, below)]
        return None if pair[0] is None or pair[1] is None else pair[0].over(pair[1])

    def times(self, name: str, timed: str) -> Times | None:
        if name == "floor":
            return self.floors[timed].times if timed in self.floors else None
        entry = self.entry(name)
        return None if entry is None else entry.times.get(timed)


@dataclass(frozen=True, slots=True)
class Measurements:
    """What `xent.bench` measured; `print` shows it, `to_dict` gives JSON.

    >>> found = xent.bench("64x10", implementations=["xent", "torch"], measures=["step"], rounds=1)
    >>> found.rows[0].ratio("torch", "xent", "step").median > 0
    True
    """

    date: str
    """Of the end, UTC, ISO 8601."""
    machine: dict[str, Any]
    versions: dict[str, str]
    threads: int
    rounds: int
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; times in ms, to four digits, peaks in MB."""
        head = {name: getattr(self, name) for name in ("date", "machine", "versions", "threads", "rounds")}
        return {"schema": SCHEMA, **head, "rows": [_row_to_dict(row) for row in self.rows]}

    @classmethod
    def from_dict(cls, stored: Any) -> "Measurements":
        """The inverse of `to_dict`.

        Raises:
            FileError: it is not of the schema ``xent.bench/1``.
        """
        if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
            got = stored.get("schema") if isinstance(stored, dict) else type(stored).__name__
            raise FileError(f"schema {got!r}: expected {SCHEMA!r}, which `xent bench --json FILE` writes.")
        try:
            head = {name: stored[name] for name in ("date", "machine", "versions", "threads", "rounds")}
            return cls(**head, rows=tuple(_row_from_dict(row) for row in stored["rows"]))
        except (KeyError, TypeError, ValueError, AttributeError) as reason:
            raise FileError(f"not a whole {SCHEMA}: {type(reason).__name__}: {reason}.") from reason

    @classmethod
    def read(cls, path: str | Path) -> "Measurements":
        """Of a file that ``xent bench --json`` wrote.

        Raises:
            FileError: it cannot be opened, or is not of the schema ``xent.bench/1``.
        """
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as reason:
            raise FileError(f"{path}: cannot be read as JSON ({reason}).") from reason
        try:
            return cls.from_dict(stored)
        except FileError as reason:
            raise FileError(f"{path}: {reason}") from reason

    def __str__(self) -> str:
        from .render.text import text

        return text(self)

    def to_markdown(self) -> str:
        """A table for an issue or a page."""
        from .render.markdown import markdown

        return markdown(self)

    def against(self, after: "Measurements") -> "Comparison":
        """What changed from these measurements to later ones, as ratios with the spread of their rounds."""
        from .compare import compared

        return compared(self, after)

    def plot(self, path: str | Path) -> None:
        """Time against classes on two logarithmic axes, one line an implementation, with the floor: .svg or .png.

        Raises:
            OptionError: another suffix.
            FileError: .png without matplotlib; no such folder; or nothing was timed.
        """
        from .render import plot

        plot.write(self, Path(path))


def as_json(document: dict[str, Any]) -> str:
    """With the numbers of a list in one line."""
    words = json.dumps(document, allow_nan=False, ensure_ascii=False, indent=1)
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", words) + "\n"


def _four(value: float | None) -> float | None:
    """Four digits, which is more than a time holds."""
    return None if value is None else float(f"{value:.4g}")


def _row_to_dict(row: Row) -> dict[str, Any]:
    case = {**row.case._asdict(), "shape": list(row.case.shape), "measures": list(row.case.measures)}
    floors = {timed: {"name": floor.name, "ms": floor.times.to_dict()} for timed, floor in row.floors.items()}
    return {
        **case,
        "waited": _four(row.waited),
        "notes": list(row.notes),
        "floors": floors,
        "entries": [_entry_to_dict(e) for e in row.entries],
    }


def _entry_to_dict(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "version": entry.version,
        "status": entry.status,
        "ms": {timed: times.to_dict() for timed, times in entry.times.items()},
        "peak": entry.peak,
        "errors": [{name: _plain(value) for name, value in asdict(error).items()} for error in entry.errors],
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _row_from_dict(stored: dict[str, Any]) -> Row:
    case = Case(stored["task"], tuple(stored["shape"]), stored["dtype"], stored["device"], tuple(stored["measures"]))
    floors = {timed: Floor(floor["name"], _times(floor["ms"])) for timed, floor in stored["floors"].items()}
    entries, notes = tuple(map(_entry_from_dict, stored["entries"])), tuple(stored.get("notes", ()))
    return Row(case, entries, floors, stored["waited"], notes)


def _entry_from_dict(stored: dict[str, Any]) -> Entry:
    times = {timed: _times(ms) for timed, ms in stored["ms"].items()}
    errors = tuple(Error(error["row"], *map(_number, (error["loss"], error["gradient"]))) for error in stored["errors"])
    return Entry(stored["name"], stored["version"], stored["status"], times, stored["peak"], errors)


def _number(stored: Any) -> Any:
    return None if stored is None else float(stored)


def _times(stored: dict[str, Any]) -> Times:
    return Times(tuple(stored["rounds"]))
