"""One case: everything that is asked of it, of everybody who can take part."""

from dataclasses import dataclass, field

import torch

from ..errors import LoadError
from .accuracy import error_of, judged, unjudged
from .cases import TIMES, Case
from .clock import in_a_line, interleaved
from .contestants import Contestant
from .floors import fastest, floors_of
from .memory import can_be_read, peak_of
from .progress import Progress
from .results import MEASURED, Entry, Error, Floor, Row, Times
from .tasks import JOBS, Function, Problem, problem_of


def row_of(case: Case, contestants: list[Contestant], rounds: int, told: Progress) -> Row:
    sides = [Side.of(one, case) for one in contestants]
    unread = None if can_be_read(case.device) else "peak: it is read from Linux's /proc"
    notes = {"peak": unread, "error": unjudged(case)}
    if "peak" in case.measures and unread is None:
        _peaks(case, sides, told)
    floors: dict[str, Floor] = {}
    waited = 0.0
    if set(case.measures) - {"peak"}:
        tensors = Tensors(case)
        for timed in (one for one in TIMES if one in case.measures):
            found, floor = _times(tensors, timed, sides, rounds, told)
            floors |= {} if floor is None else {timed: floor}
            waited = max(waited, found)
        if "error" in case.measures and notes["error"] is None:
            _errors(tensors, sides, told)
    if any(side.function is not None and side.contestant.compiles for side in sides):
        torch.compiler.reset()  # or the ninth shape of one function is not compiled
    told_why = tuple(note for measure, note in notes.items() if note is not None and measure in case.measures)
    return Row(case, tuple(side.entry for side in sides), floors, waited, told_why)


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

    @classmethod
    def of(cls, contestant: Contestant, case: Case) -> "Side":
        reason = contestant.refusal(case)
        if reason is not None:
            return cls(contestant, reason=reason)
        try:
            return cls(contestant, contestant.function(case))
        except LoadError as error:
            return cls(contestant, reason=in_a_line(error))

    @property
    def label(self) -> str:
        return self.contestant.label

    @property
    def entry(self) -> Entry:
        status = self.reason or MEASURED
        return Entry(self.label, self.contestant.version, status, self.times, self.peak, self.errors)


class Tensors:
    """Of a case, one set for all who leave it alone and one for each who may not."""

    def __init__(self, case: Case) -> None:
        self.case, self.shared = case, problem_of(case)
        self._own: dict[str, Problem] = {}

    def of(self, side: Side, fresh: bool = False) -> Problem:
        """`fresh`: as they were before anybody wrote on them."""
        if side.contestant.trusted:
            return self.shared
        if fresh or side.label not in self._own:
            self._own[side.label] = problem_of(self.case)
        return self._own[side.label]


def _still_in(sides: list[Side], offering: str | None = None) -> list[tuple[Side, Function]]:
    here = [side for side in sides if offering is None or side.contestant.offers(offering)]
    return [(side, side.function) for side in here if side.function is not None and side.reason is None]


def _peaks(case: Case, sides: list[Side], told: Progress) -> None:
    for side, _ in _still_in(sides):
        told.at(f"{side.label}: memory")
        try:
            side.peak = peak_of(case, side.contestant)
        except RuntimeError as error:
            side.reason = f"memory: {error}"


def _times(tensors: Tensors, timed: str, sides: list[Side], rounds: int, told: Progress) -> tuple[float, Floor | None]:
    """Gives each side its times of one kind; what the rounds waited, and the floor."""
    here = _still_in(sides, "gradient" if timed == "step" else None)
    if not here:
        return 0.0, None
    told.at(timed)
    jobs = {side.label: JOBS[timed](tensors.of(side), function) for side, function in here}
    jobs |= floors_of(tensors.case, tensors.shared, timed)
    compiled = [side.label for side, _ in here if side.contestant.compiles]
    found = interleaved(jobs, rounds, tensors.case.device, compiled, lambda done: told.at(f"{timed}, round {done}"))
    for side, _ in here:
        if side.label in found.times:
            side.times[timed] = found.times[side.label]
        else:
            side.reason = f"{timed}: {found.failed[side.label]}"
    return found.waited, fastest(found.times)


def _errors(tensors: Tensors, sides: list[Side], told: Progress) -> None:
    able = _still_in(sides, "ignore_index")
    if not able:
        return
    told.at("the truth")
    rows = judged(tensors.case, tensors.shared)
    for side, function in able:
        told.at(f"{side.label}: error")
        try:
            side.errors = tuple(error_of(tensors.case, tensors.of(side, fresh=True), function, row) for row in rows)
        except Exception as error:  # a peer may raise anything
            side.reason = f"error: {in_a_line(error)}"
