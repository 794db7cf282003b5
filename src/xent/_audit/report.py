"""What an audit found, as data."""

from dataclasses import asdict, dataclass
from typing import Any

OK, FAIL, REFUSED, NOT_OFFERED, NOT_JUDGED = "ok", "FAIL", "refused", "not offered", "not judged"


@dataclass(frozen=True)
class Measured:
    """The largest error of a loss or a gradient, in ulp of what was returned; inf where nothing is a number."""

    ulp: float
    allowed: float
    torch: float | None
    """torch's own in the same dtype; None where it refused."""


@dataclass(frozen=True)
class Finding:
    """What is wrong, in a sentence, and at most eight lines of Python that show it by themselves."""

    what: str
    reproducer: str


@dataclass(frozen=True)
class Outcome:
    """One case: a status, the errors measured, and a finding where it fails."""

    case: str
    breaks: str
    dtype: str
    status: str
    """``'ok'``, ``'FAIL'``, ``'refused'`` with a clear error, ``'not offered'``, or ``'not judged'`` here."""
    loss: Measured | None = None
    gradient: Measured | None = None
    torch: str = ""
    """What torch does where nothing is measured: one of the statuses."""
    detail: str = ""
    finding: Finding | None = None


@dataclass(frozen=True)
class Report:
    """An audit of one loss: what was audited, on what, by which truth, and the outcome of every case."""

    target: str
    signature: str
    dtype: str | None
    device: str
    seed: int
    versions: dict[str, str]
    truth: str
    seconds: float
    outcomes: tuple[Outcome, ...]
    missing: str | None = None
    """Why nothing was audited, if so."""

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The outcomes with a finding."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == FAIL)

    @property
    def judged(self) -> tuple[Outcome, ...]:
        """The outcomes that were judged, rather than refused or not offered."""
        return tuple(outcome for outcome in self.outcomes if outcome.status in (OK, FAIL))

    @property
    def passed(self) -> bool:
        """Whether something was judged and nothing found."""
        return bool(self.judged) and not self.failures

    @property
    def verdict(self) -> str:
        """One line."""
        if self.missing is not None:
            return f"{self.target}: {self.missing}"
        if not self.judged:
            return f"{self.target}: nothing could be judged"
        rest = len(self.outcomes) - len(self.judged)
        aside = f" ({rest} refused or not offered)" if rest else ""
        if self.passed:
            return f"{self.target}: passes {len(self.judged)} cases{aside}"
        names = ", ".join(outcome.case for outcome in self.failures)
        return f"{self.target}: fails {len(self.failures)} of {len(self.judged)} cases{aside}: {names}"

    def to_dict(self) -> dict[str, Any]:
        """The document of ``xent audit --json``: plain data, an error beyond numbers as the text ``'inf'``."""
        body = _plain(asdict(self))
        return {"schema": "xent.audit/1", "passed": self.passed, "verdict": self.verdict, **body}

    def __str__(self) -> str:
        from .render import markdown

        return markdown(self)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return "inf" if value == float("inf") else value
