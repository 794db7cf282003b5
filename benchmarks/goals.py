"""What is asked of a ratio, and whether it was reached."""

from typing import Any, NamedTuple

from xent._bench.clock import BUSY
from xent._bench.results import Row, Times

BUDGETS = {"xent-linear": 512 << 20, "xent in 64 MB": 64 << 20}
"""Bytes that a head may take beyond its inputs and gradients."""


class Goal(NamedTuple):
    ratio: str
    """torch / xent, xent / floor: of times. xent / gradient, xent-linear / budget: of peaks."""
    bound: str
    """at least, or at most."""
    value: float
    stretch: float | None = None
    """A further goal, which nobody is held to yet."""

    def met_by(self, value: float, goal: float) -> bool:
        return value >= goal if self.bound == "at least" else value <= goal


def verdicts(label: str, goals: tuple[Goal, ...], row: Row) -> list[dict[str, Any]]:
    """Of each goal whose ratio could be measured: the ratio's median and spread, and whether it is met."""
    found = []
    for goal in goals:
        ratio = ratio_of(goal.ratio, row)
        if ratio is not None:
            value = ratio.median
            verdict = {goal.bound: goal.value, "met": goal.met_by(value, goal.value)}
            if goal.stretch is not None:
                verdict |= {"stretch": goal.stretch, "stretch met": goal.met_by(value, goal.stretch)}
            spread = {name: float(f"{of(ratio.taken):.4g}") for name, of in (("min", min), ("max", max))}
            place = {"case": label, "ratio": goal.ratio, "busy": row.waited > BUSY}
            found.append({**place, "median": float(f"{value:.4g}"), **spread, **verdict})
    return found


def ratio_of(name: str, row: Row) -> Times | None:
    above, below = name.split(" / ")
    if below not in ("gradient", "budget"):
        return row.ratio(above, below, "forward" if "forward" in row.case.measures else "step")
    entry = row.entry(above)
    if entry is None or entry.peak is None:
        return None
    if below == "gradient":
        return Times((entry.peak / row.case.results,))
    return Times(((entry.peak - kept(row)) * 1e6 / BUDGETS[above],))


def kept(row: Row) -> float:
    """MB of what a step leaves behind: its gradients. A forward pass leaves none."""
    return 0.0 if "forward" in row.case.measures else row.case.results


def words(verdict: dict[str, Any]) -> str:
    """torch / xent 3.1 >= 12 missed; 17.2 >= 12 met, 16 met."""
    sign, bound = (">=", "at least") if "at least" in verdict else ("<=", "at most")
    told = f"{verdict['ratio']} {verdict['median']:.3g} {sign} {verdict[bound]:g} {_word(verdict['met'])}"
    return told + (f", {verdict['stretch']:g} {_word(verdict['stretch met'])}" if "stretch" in verdict else "")


def summary(found: list[dict[str, Any]]) -> str:
    quiet = [verdict["met"] for verdict in found if not verdict["busy"]]
    busy = len(found) - len(quiet)
    note = f"; {busy} measured on a busy machine are not counted" if busy else ""
    return f"{sum(quiet)} of {len(quiet)} goals met{note}"


def _word(met: bool) -> str:
    return "met" if met else "missed"
