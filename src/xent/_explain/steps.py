"""The words of the walk: each step with its formula, its numbers and its reason."""

import math
from dataclasses import dataclass

from .._plan import Shaping
from .call import Product
from .numerals import number, short, signed
from .parts import Entry, Step, Term


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
    shaping: Shaping
    z_loss: float
    """The term, not its coefficient."""
    token: float
    weighted_rows: bool
    """Is there a token weight?"""
    scale: float
    """1 / divisor: what a nat of this row adds to the loss."""

    @property
    def logsumexp(self) -> float:
        """Of the row's logits, as shaped."""
        return self.peak + math.log1p(self.rest) if self.rest > -1 else math.nan

    @property
    def letter(self) -> str:
        """Of a logit that the loss is of."""
        return "x" if self.shaping.moves else "z"


def head_step(product: Product | None, picked: Entry | None) -> tuple[Step, ...]:
    """The product that the target's logit is, where the head is known."""
    if product is None or picked is None:
        return ()
    width, bias = product.hidden.shape[-1], "" if product.bias is None else " + b[target]"
    added = "" if product.bias is None else f" + {short(float(product.bias[picked.index]))}"
    product_alone = picked.logit - (0.0 if product.bias is None else float(product.bias[picked.index]))
    return (
        Step(
            "head",
            f"z[target] = h · W[target]{bias}",
            f"{short(product_alone)}{added} = {short(picked.logit)}, a sum of {width:,} products",
            picked.logit,
            f"rounded to {str(product.hidden.dtype).removeprefix('torch.')}, as torch.nn.functional.linear does",
        ),
    )


def _shape(facts: Facts, picked: Entry | None) -> tuple[Step, ...]:
    """What a logit scale and a softcap make of the target's logit."""
    shaping = facts.shaping
    if not shaping.moves or picked is None:
        return ()
    scale, cap = float(shaping.scale), shaping.softcap
    inner = "z" if scale == 1 else "s z"
    given = short(picked.logit) if scale == 1 else f"{short(scale)} × {short(picked.logit)}"
    formula, text = f"x = {inner}", given
    if cap is not None:
        formula, text = f"x = c tanh({inner} / c)", f"{short(cap)} tanh({given} / {short(cap)})"
    return (
        Step(
            "shape",
            formula,
            f"x[target] = {text} = {short(picked.shaped)}",
            picked.shaped,
            "the loss is that of x: the logits as the options shape them",
        ),
    )


def steps_of(facts: Facts, picked: Entry | None) -> tuple[Step, ...]:
    """Peak, sum, pick, -log and gradient of one row."""
    log_mass, x = math.log1p(facts.rest) if facts.rest > -1 else math.nan, facts.letter
    steps = [
        *_shape(facts, picked),
        Step(
            "peak",
            f"m = max {x}",
            f"m = {short(facts.peak)}",
            facts.peak,
            f"exp({x} − m) is at most 1, so nothing overflows; a common offset cancels exactly",
        ),
        Step(
            "sum",
            f"Σ exp({x}−m) = 1 + rest,  logsumexp = m + log(1 + rest)",
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
    below, x = picked.shaped - facts.peak, facts.letter
    nll = log_mass - below
    return (
        Step(
            "pick",
            f"p[target] = exp({x}[target] − logsumexp)",
            f"exp({short(picked.shaped)} − {number(facts.peak + log_mass, 4)}) = {number(picked.probability)}",
            picked.probability,
            f"the target has rank {picked.rank:,} of {facts.classes:,}",
        ),
        Step(
            "−log",
            f"−log p[target] = log(1 + rest) − ({x}[target] − m)",
            f"{number(log_mass)} − ({number(below, 4)}) = {number(nll)}",
            nll,
            "neither part is negative, so nothing cancels, and p is never formed: it may underflow",
        ),
    )


def _ask(facts: Facts, picked: Entry, log_mass: float) -> tuple[Step, ...]:
    return (
        Step(
            "ask",
            f"Σ q w (−log p) = Σ q w (log(1 + rest) − ({facts.letter} − m))",
            f"largest share {number(picked.asked, 4)} at class {picked.index}: {number(facts.hard)} in all",
            facts.hard,
            "a class with q = 0 is left out, whatever its logit",
        ),
    )


def _gradient(facts: Facts, picked: Entry) -> Step:
    shaping = facts.shaping
    balanced = not shaping.moves and not shaping.z_loss
    plain = not facts.soft and facts.weight is None and facts.smoothing == 0 and facts.token == 1 and balanced
    less = f"({number(picked.probability)} − 1)"
    if picked.shaped == facts.peak and facts.rest < 1e-3:  # p − 1 has no digits left to show
        less = f"−{number(facts.rest)} / (1 + {number(facts.rest)})"
    shown = f"{less} × {number(facts.scale)}"
    pull = " + 2ζ logsumexp p" if shaping.z_loss else ""
    token = "t " if facts.weighted_rows else ""
    bracket = f"{token}(p Σ a − a{pull})"
    general = f"dL/dz = {bracket}{' dx/dz' if shaping.moves else ''} / divisor, a the share asked"
    return Step(
        "gradient",
        "dL/dz = (p − 1[target]) / divisor" if plain else general,
        f"{shown} = {signed(picked.gradient)}" if plain else f"{signed(picked.gradient)} at the target",
        picked.gradient,
        "over all classes it adds up to zero: what is taken from one is given to the others"
        if balanced
        else "softcap and z-loss: what is taken from one class is not all given to the others",
    )


def terms_of(facts: Facts | None, ignore_index: int | None) -> tuple[Term, ...]:
    """What the options make of the loss of a row; empty for a plain one. Those that add up are its summands."""
    if facts is None and ignore_index is None:
        return (Term("ignored", "token weight = 0: no loss, no weight, no gradient", "token weight = 0", 0.0, True),)
    if facts is None:
        formula = "target = ignore_index: no loss, no weight, no gradient"
        return (Term("ignored", formula, f"target = {ignore_index}", 0.0, True),)
    terms = [*_weighted(facts), *_smoothed(facts), *_z(facts)]
    parts = [term for term in terms if term.adds]
    together = sum(term.value for term in parts) if parts else facts.hard
    if len(parts) > 1:
        text = f"{' + '.join(number(term.value) for term in parts)} = {number(together)}"
        terms.append(Term("row loss", "what adds up", text, together, False))
    if facts.weighted_rows:
        text = f"{short(facts.token)} × {number(together)} = {number(facts.loss)}"
        terms.append(Term("token weight", "t × row loss", text, facts.loss, False))
    return tuple(terms)


def _weighted(facts: Facts) -> list[Term]:
    """What the target asks: a summand, unless smoothing takes a share of it."""
    if facts.weight is not None:
        plain = facts.hard / facts.weight if facts.weight else 0.0
        text = f"{short(facts.weight)} × {number(plain)} = {number(facts.hard)}"
        return [Term("class weight", "w[target] × −log p[target]", text, facts.hard, not facts.smoothing)]
    if facts.smoothing or not facts.shaping.z_loss:
        return []
    return [Term("target", "Σ q w (−log p)" if facts.soft else "−log p[target]", number(facts.hard), facts.hard, True)]


def _smoothed(facts: Facts) -> list[Term]:
    if not facts.smoothing:
        return []
    e = f"{facts.smoothing:g}"
    own, spread = (1 - facts.smoothing) * facts.hard, facts.smoothing / facts.classes * facts.smooth
    text = f"{e}/{facts.classes} × {number(facts.smooth)} = {number(spread)}"
    return [
        Term("target's share", "(1 − e) × hard", f"(1 − {e}) × {number(facts.hard)} = {number(own)}", own, True),
        Term("label smoothing", "e/V × Σ w (−log p)", text, spread, True),
    ]


def _z(facts: Facts) -> list[Term]:
    zeta = facts.shaping.z_loss
    if not zeta:
        return []
    text = f"{zeta:g} × {number(facts.logsumexp)}² = {number(facts.z_loss)}"
    return [Term("z-loss", "ζ × logsumexp²", text, facts.z_loss, True)]
