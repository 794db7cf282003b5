"""One case: everything that is asked of it, of everybody who can take part."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..errors import LoadError
from .accuracy import errors_of, judged, unjudged
from .cases import TIMES, Case
from .clock import in_a_line, interleaved
from .contestants import Contestant
from .floors import fastest, floors_of
from .memory import can_be_read, peak_of
from .progress import Progress
from .results import MEASURED, Entry, Error, Floor, Row, Times
from .tasks import Function, Problem, forward, problem_of, step

JOBS = {"forward": forward, "step": step}


@dataclass
class Side:
    """What is known so far of one implementation."""

    contestant: Contestant
    function: Function | None = None
    reason: str | None = None
    """Why it is out, or what of it failed."""
    times: dict[str, Times] = field(default_factory=dict)
    peak: float | None = None
    errors: tuple[Error, ...] = ()

    @property
    def entry(self) -> Entry:
        one = self.contestant
        return Entry(one.label, one.version, self.reason or MEASURED, self.times, self.peak, self.errors)


def row_of(case: Case, contestants: list[Contestant], rounds: int, told: Progress) -> Row:
    sides = [_ready(case, one) for one in contestants]
    floors: dict[str, Floor] = {}
    waited = 0.0
    if "peak" in case.measures and can_be_read(case.device):
        _peaks(case, sides, told)
    if set(case.measures) - {"peak"}:
        problems = _problems(case, sides)
        for timed in (one for one in TIMES if one in case.measures):
            waited = max(waited, _time(case, timed, sides, problems, floors, rounds, told))
        if "error" in case.measures and unjudged(case) is None:
            _errors(case, sides, problems, told)
    torch.compiler.reset()  # or the ninth shape of one function is not compiled
    return Row(case, tuple(side.entry for side in sides), floors, waited)


def _ready(case: Case, contestant: Contestant) -> Side:
    reason = contestant.refusal(case)
    if reason is not None:
        return Side(contestant, reason=reason)
    try:
        return Side(contestant, contestant.function(case))
    except LoadError as error:
        return Side(contestant, reason=in_a_line(error))


def _in(sides: list[Side]) -> list[tuple[Side, Function]]:
    return [(side, side.function) for side in sides if side.function is not None and side.reason is None]


def _peaks(case: Case, sides: list[Side], told: Progress) -> None:
    for side, _ in _in(sides):
        told.at(f"{side.contestant.label}: memory")
        try:
            side.peak = peak_of(case, side.contestant)
        except RuntimeError as error:
            side.reason = f"memory: {error}"


def _problems(case: Case, sides: list[Side]) -> dict[str, Problem]:
    """One for all who leave it alone, one for each who may not: liger writes its gradient over the logits."""
    shared = problem_of(case)
    return {side.contestant.label: shared if side.contestant.trusted else problem_of(case) for side, _ in _in(sides)}


def _time(
    case: Case,
    timed: str,
    sides: list[Side],
    problems: dict[str, Problem],
    floors: dict[str, Floor],
    rounds: int,
    told: Progress,
) -> float:
    """Fills in the times of one kind and their floor; what the rounds waited."""
    here = {
        side.contestant.label: (side, JOBS[timed](problems[side.contestant.label], function))
        for side, function in _in(sides)
        if timed == "forward" or side.contestant.offers("gradient")
    }
    jobs = {label: job for label, (_, job) in here.items()}
    if not jobs:
        return 0.0
    told.at(timed)
    beside = floors_of(case, next(iter(problems.values())), timed)
    found = interleaved(jobs | beside, rounds, case.device, lambda done: told.at(f"{timed}, round {done}"))
    for label, (side, _) in here.items():
        if label in found.times:
            side.times[timed] = found.times[label]
        else:
            side.reason = f"{timed}: {found.failed[label]}"
    floor = fastest(found.times)
    if floor is not None:
        floors[timed] = floor
    return found.waited


def _errors(case: Case, sides: list[Side], problems: dict[str, Problem], told: Progress) -> None:
    able = [(side, function) for side, function in _in(sides) if side.contestant.offers("ignore_index")]
    if not able:
        return
    told.at("the truth")
    rows = judged(case, problem_of(case))
    for side, function in able:
        told.at(f"{side.contestant.label}: error")
        label, trusted = side.contestant.label, side.contestant.trusted
        problem: Callable[[], Problem] = (lambda label=label: problems[label]) if trusted else lambda: problem_of(case)
        try:
            side.errors = errors_of(case, problem, function, rows)
        except Exception as error:  # a peer may raise anything
            side.reason = f"error: {in_a_line(error)}"
