"""Two measurements side by side: what changed, as ratios, and whether it is more than the spread of the rounds."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .results import Measurements, Row, Times

SCHEMA = "xent.bench.comparison/1"
PEAKS = 1.02
"""Peaks of the same step in two processes are that far apart."""
Key = tuple[str, str, str, str]
"""Case, device, implementation, what was measured."""


@dataclass(frozen=True, slots=True)
class Change:
    """One number of both."""

    case: str
    device: str
    implementation: str
    measure: str
    """forward or step (ms), or peak (MB)."""
    before: float
    after: float
    low: float
    """The ratio after / before is between this and `high` if each number is anywhere in its own spread."""
    high: float

    @property
    def ratio(self) -> float:
        return self.after / self.before

    @property
    def word(self) -> str:
        """What the rounds allow to say: less, more, or the same within their spread."""
        if self.low <= 1 <= self.high:
            return "same"
        return "less" if self.high < 1 else "more"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `Measurements.against` found; `print` shows it."""

    differences: dict[str, tuple[Any, Any]]
    """What the machines, versions and settings differ in: name -> before, after."""
    changes: tuple[Change, ...]
    gone: tuple[str, ...]
    """Measured before only."""
    new: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        changes = [{**asdict(change), "ratio": change.ratio, "word": change.word} for change in self.changes]
        differences = {name: list(pair) for name, pair in self.differences.items()}
        return {
            "schema": SCHEMA,
            "differences": differences,
            "changes": changes,
            "gone": list(self.gone),
            "new": list(self.new),
        }

    def __str__(self) -> str:
        from .render.text import comparison

        return comparison(self)


def compared(before: Measurements, after: Measurements) -> Comparison:
    """Every number that both have."""
    old, new = dict(_numbers(before)), dict(_numbers(after))
    changes = tuple(_change(key, old[key], new[key]) for key in old if key in new)
    return Comparison(_differences(before, after), changes, _only(old, new), _only(new, old))


def _only(one: dict[Key, Times], other: dict[Key, Times]) -> tuple[str, ...]:
    """A line for each case and implementation."""
    names: dict[str, list[str]] = {}
    for key in one:
        if key not in other:
            names.setdefault(" ".join(key[:3]), []).append(key[3])
    return tuple(f"{name}: {', '.join(measures)}" for name, measures in names.items())


def _change(key: Key, before: Times, after: Times) -> Change:
    low, high = min(after.taken) / max(before.taken), max(after.taken) / min(before.taken)
    if key[3] == "peak":
        low, high = low / PEAKS, high * PEAKS
    return Change(*key, before.median, after.median, low, high)


def _numbers(measurements: Measurements) -> Iterator[tuple[Key, Times]]:
    for row in measurements.rows:
        for name, measure, times in _of_row(row):
            yield (row.case.label, row.case.device, name, measure), times


def _of_row(row: Row) -> Iterator[tuple[str, str, Times]]:
    for timed, floor in row.floors.items():
        yield "floor", timed, floor.times
    for entry in row.entries:
        for timed, times in entry.times.items():
            yield entry.name, timed, times
        if entry.peak:
            yield entry.name, "peak", Times((entry.peak,))


def _differences(before: Measurements, after: Measurements) -> dict[str, tuple[Any, Any]]:
    """The load is left out: it differs always, and what it did to a round is in the round's wait."""
    pair = [{**one.machine, **one.versions, "threads": one.threads, "load before": None} for one in (before, after)]
    names = {name: None for one in pair for name in one}
    return {name: (pair[0].get(name), pair[1].get(name)) for name in names if pair[0].get(name) != pair[1].get(name)}
