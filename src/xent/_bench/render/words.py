"""How numbers and cases are written, the same in every table."""

from ..cases import written
from ..results import Entry, Measurements, Row, Times

DASH = "–"
TIMED = {"forward": "forward", "step": "forward + backward"}


def milliseconds(times: Times | None) -> str:
    """37.1 ±2%, the largest distance of a round from the median; ±? of a single round."""
    if times is None:
        return DASH
    spread = f"±{times.spread:.0%}" if len(times.taken) > 1 else "once"
    return f"{digits(times.median)} {spread}"


def digits(value: float | None) -> str:
    """Three digits, and no exponent below ten million."""
    if value is None:
        return DASH
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if abs(value) >= 1e7:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def title(row: Row) -> str:
    return f"{row.case.task} {written(row.case.shape)} {row.case.dtype}, {row.case.device}"


def where(measurements: Measurements) -> str:
    """The machine, the versions and the date, in one line."""
    machine = measurements.machine
    device = machine.get("gpu") or machine.get("processor") or machine.get("architecture")
    if not machine.get("gpu") and machine.get("instructions"):
        device = f"{device} ({machine['instructions']})"
    versions = ", ".join(f"{name} {version}" for name, version in measurements.versions.items())
    threads = _counted(measurements.threads, "thread")
    return f"{device}, {threads}; {versions}; {_counted(measurements.rounds, 'round')}; {measurements.date[:10]}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def head(row: Row) -> list[str]:
    """The columns of a row's table; only those that something was measured of."""
    case = row.case
    timed = [name for name in ("forward", "step") if name in case.measures]
    columns = [column for name in timed for column in (f"{TIMED[name]}, ms", "/ floor")]
    columns += ["peak, MB"] if "peak" in case.measures else []
    kinds = _kinds(row)
    return ["", *columns, *(f"ulp, {kind} row" for kind in kinds)]


def cells(row: Row, entry: Entry) -> list[str]:
    """What stands under the columns."""
    found = [entry.name]
    for timed in ("forward", "step"):
        if timed in row.case.measures:
            ratio = row.ratio(entry.name, "floor", timed)
            found += [milliseconds(entry.times.get(timed)), digits(ratio.median if ratio else None)]
    if "peak" in row.case.measures:
        found.append(digits(entry.peak))
    errors = {error.row: error.worst for error in entry.errors}
    return found + [digits(errors.get(kind)) for kind in _kinds(row)]


def floor_cells(row: Row) -> list[str]:
    found = ["floor"]
    for timed in ("forward", "step"):
        if timed in row.case.measures:
            floor = row.floors.get(timed)
            found += [milliseconds(floor.times if floor else None), floor.name if floor else DASH]
    return found


def _kinds(row: Row) -> list[str]:
    return list({error.row: None for entry in row.entries for error in entry.errors})
