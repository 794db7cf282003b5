"""Tables for a terminal."""

from ..clock import BUSY
from ..compare import Comparison
from ..results import MEASURED, Measurements, Row
from .words import cells, digits, floor_cells, head, title, where


def text(measurements: Measurements) -> str:
    """A table a case, and on what it was measured."""
    return "\n\n".join([where(measurements), *map(_table, measurements.rows)])


def _table(row: Row) -> str:
    busy = f"   busy: {row.waited:.0%} of the time waited for cores" if row.waited > BUSY else ""
    measured = [cells(row, entry) for entry in row.entries if entry.measured]
    floor = [floor_cells(row)] if row.floors else []
    lines = aligned([head(row), *measured, *floor]) if measured else []
    widest = max((len(entry.name) for entry in row.entries), default=0)
    absent = [f"  {entry.name:<{widest}}  {entry.status}" for entry in row.entries if entry.status != MEASURED]
    return "\n".join([title(row) + busy, *lines, *absent, *(f"  {note}" for note in row.notes)])


def aligned(rows: list[list[str]]) -> list[str]:
    """Columns as wide as their widest cell: names to the left, numbers to the right."""
    count = max(map(len, rows))
    filled = [[*row, *[""] * (count - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*filled, strict=True)]
    return ["  " + "  ".join(_placed(row, widths)).rstrip() for row in filled]


def _placed(row: list[str], widths: list[int]) -> list[str]:
    first, *others = zip(row, widths, strict=True)
    return [f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]


def comparison(found: Comparison) -> str:
    """A line a number: what it was, what it is, the ratio, and whether the rounds allow to call that a change."""
    lines = [f"  {name}: {before} -> {after}" for name, (before, after) in found.differences.items()]
    if lines:
        lines = ["measured on different ground, so that a ratio is not the code's alone:", *lines, ""]
    table = [["", "", "before", "after", "ratio", "between", ""]]
    for change in found.changes:
        between = "" if change.measure == "peak" else f"{change.low:.2f}–{change.high:.2f}"
        numbers = [digits(change.before), digits(change.after), f"{change.ratio:.2f}", between, change.word]
        table.append([f"{change.case} {change.device}", f"{change.implementation} {change.measure}", *numbers])
    lines += aligned(table) if found.changes else ["nothing that both have"]
    for word, names in (("gone", found.gone), ("new", found.new)):
        lines += [f"{word}: {name}" for name in names]
    return "\n".join(lines)
