"""What a picture shows, before anybody draws it: time against classes, a line an implementation, and the floor."""

from collections import Counter
from dataclasses import dataclass

from ...errors import FileError
from ..cases import written
from ..results import Measurements, Row
from .words import TIMED, where

Point = tuple[int, float]
"""Classes, milliseconds."""


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: tuple[Point, ...]
    floor: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    title: str
    note: str
    """On what it was measured."""
    shapes: dict[int, str]
    """Classes -> the shapes that have so many, which stand under the axis."""
    lines: tuple[Line, ...]


def figure(measurements: Measurements) -> Figure:
    """Of the task, dtype and device that most rows have; training steps, or forward passes where there are none.

    Raises:
        FileError: nothing was timed.
    """
    rows = _alike(measurements)
    timed = "step" if any("step" in row.case.measures for row in rows) else "forward"
    names = list({entry.name: None for row in rows for entry in row.entries if timed in entry.times})
    if not names:
        raise FileError("there is no time to plot: nothing was measured.")
    lines = [_line(name, rows, timed) for name in [*names, "floor"]]
    case = rows[0].case
    shapes: dict[int, str] = {}
    for row in rows:
        shapes[row.case.classes] = ", ".join(filter(None, (shapes.get(row.case.classes), written(row.case.shape))))
    return Figure(
        f"{case.task}, {TIMED[timed]}, {case.dtype}, {case.device}",
        where(measurements),
        shapes,
        tuple(line for line in lines if line.points),
    )


def _alike(measurements: Measurements) -> list[Row]:
    """In the order of their classes."""
    kind = {id(row): (row.case.task, row.case.dtype, row.case.device) for row in measurements.rows}
    timed = [row for row in measurements.rows if any(entry.times for entry in row.entries)]
    if not timed:
        raise FileError("there is no time to plot: nothing was measured.")
    commonest, _ = Counter(kind[id(row)] for row in timed).most_common(1)[0]
    return sorted((row for row in timed if kind[id(row)] == commonest), key=lambda row: row.case.classes)


def _line(name: str, rows: list[Row], timed: str) -> Line:
    found = [(row.case.classes, times.median) for row in rows if (times := row.times(name, timed)) is not None]
    return Line(name, tuple(found), floor=name == "floor")
