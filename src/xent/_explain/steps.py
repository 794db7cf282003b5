"""The words of the walk: each step with its formula, its numbers and its reason."""

import math
from dataclasses import dataclass

from .derivation import Entry, Step, Term
from .numerals import number, short, signed


@dataclass(frozen=True, slots=True)
class Facts:
    """What the steps of one row are written from."""

    peak: float
    rest: float
    hard: float
    smooth: float
    loss: float
    weight: float | None
    """Of the label's class, where there are class weights."""
    smoothing: float
    classes: int
    soft: bool
    scale: float
    """1 / divisor: what a nat of this row adds to the loss."""


def steps_of(facts: Facts, picked: Entry | None) -> tuple[Step, ...]:
    """Peak, sum, pick, -log and gradient of one row."""
    log_mass = math.log1p(facts.rest) if facts.rest > -1 else math.nan
    steps = [
        Step(
            "peak",
            "m = max z",
            f"m = {short(facts.peak)}",
            facts.peak,
            "exp(z − m) is at most 1, so nothing overflows; a common offset cancels exactly",
        ),
        Step(
            "sum",
            "Σ exp(z−m) = 1 + rest,  logsumexp = m + log(1 + rest)",
            f"1 + {number(facts.rest)},  logsumexp = {short(facts.peak)} + {number(log_mass)}"
            f" = {number(facts.peak + log_mass)}",
            1 + facts.rest,
            "the rest is kept apart from the 1: added to it, a rest below 1e-16 would be lost",
        ),
    ]
    if picked is None:
        return tuple(steps)
    ask = _ask(facts, picked, log_mass) if facts.soft else _pick(facts, picked, log_mass)
    return (*steps, *ask, _gradient(facts, picked))


def _pick(facts: Facts, picked: Entry, log_mass: float) -> tuple[Step, Step]:
    below = picked.logit - facts.peak
    nll = log_mass - below
    return (
        Step(
            "pick",
            "p[target] = exp(z[target] − logsumexp)",
            f"exp({short(picked.logit)} − {number(facts.peak + log_mass, 4)}) = {number(picked.probability)}",
            picked.probability,
            f"the target has rank {picked.rank:,} of {facts.classes:,}",
        ),
        Step(
            "−log",
            "−log p[target] = log(1 + rest) − (z[target] − m)",
            f"{number(log_mass)} − ({number(below, 4)}) = {number(nll)}",
            nll,
            "neither part is negative, so nothing cancels, and p is never formed: it may underflow",
        ),
    )


def _ask(facts: Facts, picked: Entry, log_mass: float) -> tuple[Step, ...]:
    return (
        Step(
            "ask",
            "Σ q w (−log p) = Σ q w (log(1 + rest) − (z − m))",
            f"largest share {number(picked.asked, 4)} at class {picked.index}: {number(facts.hard)} in all",
            facts.hard,
            "a class with q = 0 is left out, whatever its logit",
        ),
    )


def _gradient(facts: Facts, picked: Entry) -> Step:
    plain = not facts.soft and facts.weight is None and facts.smoothing == 0
    less = f"({number(picked.probability)} − 1)"
    if picked.logit == facts.peak and facts.rest < 1e-3:  # p − 1 has no digits left to show
        less = f"−{number(facts.rest)} / (1 + {number(facts.rest)})"
    shown = f"{less} × {number(facts.scale)}"
    return Step(
        "gradient",
        "dL/dz = (p − 1[target]) / divisor" if plain else "dL/dz = (p Σ a − a) / divisor, a the share asked",
        f"{shown} = {signed(picked.gradient)}" if plain else f"{signed(picked.gradient)} at the target",
        picked.gradient,
        "over all classes it adds up to zero: what is taken from one is given to the others",
    )


def terms_of(facts: Facts | None, ignore_index: int | None) -> tuple[Term, ...]:
    """What the options add; empty for a plain row."""
    if facts is None:
        formula = "target = ignore_index: no loss, no weight, no gradient"
        return (Term("ignored", formula, f"target = {ignore_index}", 0.0),)
    terms = []
    if facts.weight is not None:
        plain = facts.hard / facts.weight if facts.weight else 0.0
        text = f"{short(facts.weight)} × {number(plain)} = {number(facts.hard)}"
        terms.append(Term("class weight", "w[target] × −log p[target]", text, facts.hard))
    if facts.smoothing > 0:
        e = f"{facts.smoothing:g}"
        own, spread = (1 - facts.smoothing) * facts.hard, facts.smoothing / facts.classes * facts.smooth
        terms.append(Term("target's share", "(1 − e) × hard", f"(1 − {e}) × {number(facts.hard)} = {number(own)}", own))
        text = f"{e}/{facts.classes} × {number(facts.smooth)} = {number(spread)}"
        terms.append(Term("label smoothing", "e/V × Σ w (−log p)", text, spread))
        terms.append(Term("row loss", "the two shares together", number(facts.loss), facts.loss))
    return tuple(terms)
