"""What a derivation is made of: rows with their classes, steps and terms, the reduction, the routes, the cautions.

Numbers are float64, in nats, and follow the letters of `xent.summary`; the routes alone are computed
in the dtype of the input.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One class of a row."""

    index: int
    label: str | None
    rank: int
    """1 + how many classes have a larger logit."""
    logit: float
    """As given."""
    shaped: float
    """``x_j``, the logit that the loss is of: the same, but for a softcap and a logit scale."""
    exponential: float
    """``exp(x_j - peak)``."""
    probability: float
    log_probability: float
    share: float
    """``q_j``: 1 at a label, or what a distribution says."""
    weight: float
    """``w_j``, the class weight; 1 without."""
    asked: float
    """``a_j = w_j ((1 - e) q_j + e / V)``: the row's loss is ``sum_j a_j (-log p_j)``, a z-loss and a token weight
    apart."""
    gradient: float
    """Of the reduced loss with respect to this logit (of the row's own loss where nothing is reduced)."""
    target: bool
    """The label, or the class that a distribution asks most of."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """The classes that are not shown, at one temperature: all that a row's loss needs of them when another logit moves.

    Each is exact, so the loss is, however many they are; differences to their own logsumexp are >= 0, so none cancels.
    """

    temperature: float
    """What their logits are divided by, before a softcap."""
    logsumexp: float
    rest: float
    """``sum exp(x_j - their peak)`` without one occurrence of it."""
    weighted: float
    """``sum_j w_j (logsumexp - x_j)``."""
    shared: float
    """``sum_j q_j w_j (logsumexp - x_j)``."""


@dataclass(frozen=True, slots=True)
class Others:
    """The classes of a row that are not shown one by one, as one line."""

    count: int
    max_logit: float
    max_shaped: float
    exponentials: float
    logsumexp: float
    probability: float
    asked: float
    gradient: float
    weights: float
    """``sum_j w_j``."""
    shares: float
    """``sum_j q_j w_j``."""
    crowds: tuple[Crowd, ...]
    """From cold to hot, 1 in the middle."""

    @property
    def crowd(self) -> Crowd:
        """At the temperature of the call."""
        return self.crowds[len(self.crowds) // 2]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the walk: what is computed, with which numbers, and why so."""

    name: str
    formula: str
    substituted: str
    value: float
    why: str


@dataclass(frozen=True, slots=True)
class Term:
    """What an option (class weight, label smoothing, z-loss, token weight, ignored row) makes of the loss of a row."""

    name: str
    formula: str
    substituted: str
    value: float
    adds: bool
    """Is it a summand? These add up to the loss of the row before its token weight; the others are steps on the way."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row. An ignored one is not looked at: its facts are those of a row of one class, all zero."""

    position: int
    """Of the row among all rows, counted in the order of the labels."""
    index: tuple[int, ...]
    """Of the row in the shape of the labels."""
    target: int | None
    """The label; for a distribution the class it asks most of, None if it asks nothing."""
    ignored: bool
    classes: int
    peak: float
    rest: float
    """``sum exp(z_j - peak)`` without one occurrence of the peak; the row's mass is ``1 + rest``."""
    logsumexp: float
    loss: float
    """Before the reduction, class weights, smoothing, z-loss and token weight in it."""
    token_weight: float
    entries: tuple[Entry, ...]
    others: Others | None
    steps: tuple[Step, ...]
    terms: tuple[Term, ...]

    @property
    def picked(self) -> Entry | None:
        """The line of the target."""
        return next((entry for entry in self.entries if entry.target), None)


@dataclass(frozen=True, slots=True)
class Reduction:
    """From the losses of the rows to the loss."""

    name: str
    rows: int
    ignored: int
    total: float
    divisor: float
    formula: str
    """What the divisor is made of."""


@dataclass(frozen=True, slots=True)
class Route:
    """One way to compute the same number, in the dtype of the input."""

    name: str
    value: float | None
    error: float | None
    """Signed, against the exact value; None where one of the two is not finite."""
    ulps: float | None
    """The size of `error` in units of the last place of the exact value in the route's dtype."""
    status: str
    """ok, inaccurate, underflow, overflow, nan or not applicable."""
    reason: str


@dataclass(frozen=True, slots=True)
class Exact:
    """The number that the routes are compared with."""

    value: float
    digits: str
    method: str


@dataclass(frozen=True, slots=True)
class Caution:
    """Something that people get wrong, seen in these inputs."""

    kind: str
    text: str
    cure: str
