"""Tables that paste into an issue or a page."""

from ..clock import BUSY
from ..results import MEASURED, Measurements, Row
from .words import cells, floor_cells, head, title, where


def markdown(measurements: Measurements) -> str:
    """A table a case, and on what it was measured."""
    return "\n\n".join([*map(_case, measurements.rows), where(measurements)]) + "\n"


def _case(row: Row) -> str:
    busy = f" (busy: {row.waited:.0%} of the time waited for cores)" if row.waited > BUSY else ""
    lines = [cells(row, entry) for entry in row.entries if entry.measured]
    lines += [floor_cells(row)] if row.floors else []
    lines += [[entry.name, entry.status] for entry in row.entries if entry.status != MEASURED]
    return "\n\n".join([f"**{title(row)}**{busy}", table(head(row), lines), *row.notes])


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Names to the left, numbers to the right."""
    rule = ["---", *["--:"] * (len(columns) - 1)]
    filled = [[*row, *[""] * (len(columns) - len(row))] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, rule, *filled])
