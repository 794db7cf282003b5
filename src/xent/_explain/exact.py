"""The loss in 60-digit arithmetic, by none of the code it judges: 50 digits to compare with.

The exponentials of a row are whole numbers of 2**-224 below its runner-up, summed without error;
the few operations a row that remain are `decimal`'s. About 6 microseconds a class, hence the limit.
"""

import math
from collections.abc import Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from functools import lru_cache

from torch import Tensor

from .._plan import Shaping
from ..functional import cross_entropy
from .call import Call
from .parts import Exact

LIMIT = 1 << 16
"""Logits; beyond it the float64 path of the library has to do, with its compensated sums, and says so."""
DIGITS = 50
BITS = 224
ONE = 1 << BITS
CONTEXT = Context(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])


def evaluate(call: Call) -> Exact:
    """The reduced loss of `call`, with its digits and how they were found."""
    if call.plan.rows.numel() > LIMIT:
        value = float(_compensated(call))
        return Exact(value, repr(value), "float64, 15 digits")
    with localcontext(CONTEXT):
        total, divisor = _total(call)
        mean = total / divisor if divisor else Decimal(call.plan.sums.all_ignored)
        value = mean if call.plan.reduction == "mean" else total
        digits = _digits(value)
    return Exact(float(digits), digits, f"{DIGITS} digits")


def error(value: float, exact: Exact) -> float:
    """``value - exact``, signed."""
    with localcontext(CONTEXT):
        return float(Decimal(value) - Decimal(exact.digits))


def _compensated(call: Call) -> Tensor:
    plan, sums, shaping = call.plan, call.plan.sums, call.plan.shaping or Shaping()
    target = call.target.double() if plan.soft else call.target
    return cross_entropy(
        call.logits.double(),
        target,
        None if call.weight is None else call.weight.double(),
        ignore_index=plan.ignore_index,
        reduction=plan.reduction,
        label_smoothing=plan.smoothing,
        token_weight=sums.token_weight,
        num_items=sums.num_items,
        all_ignored="nan" if math.isnan(sums.all_ignored) else "zero",
        softcap=shaping.softcap,
        logit_scale=shaping.scale,
        z_loss=shaping.z_loss,
    )


def _digits(value: Decimal) -> str:
    if not value.is_finite():
        return {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}[str(value)]
    return str(value.normalize(Context(prec=DIGITS, Emax=MAX_EMAX, Emin=MIN_EMIN)))


def _total(call: Call) -> tuple[Decimal, Decimal]:
    """Sum of the rows' losses, and what a mean divides it by."""
    plan, shaping = call.plan, call.plan.shaping or Shaping()
    count, classes, z_loss = call.count, plan.classes, Decimal(shaping.z_loss)
    rows = plan.rows.movedim(1, -1).reshape(count, classes).tolist()
    index = None if call.index is None else call.index.reshape(-1).tolist()
    soft = plan.target.movedim(1, -1).reshape(count, classes).tolist() if index is None else []
    weight = [Decimal(w) for w in (call.weight.tolist() if call.weight is not None else [1] * classes)]
    token = [1] * count if plan.sums.token_weight is None else plan.sums.token_weight.reshape(-1).tolist()
    total = divisor = Decimal(0)
    for n, logits in enumerate(rows):
        label = None if index is None else index[n]
        if label == -1 or token[n] == 0:
            continue
        divisor += Decimal(token[n]) * (1 if label is None else weight[label])
        share = {label: Decimal(1)} if label is not None else {j: Decimal(q) for j, q in enumerate(soft[n]) if q}
        asked = _asked(share, weight, Decimal(plan.smoothing))
        total += Decimal(token[n]) * _row(_shaped(logits, shaping) if shaping.moves else logits, asked, z_loss)
    return total, divisor if plan.sums.num_items is None else Decimal(float(plan.sums.num_items))


def _shaped(logits: list[float], shaping: Shaping) -> list[Decimal]:
    """``c tanh(s x / c)``."""
    scaled = [Decimal(float(shaping.scale)) * Decimal(x) for x in logits]
    cap = None if shaping.softcap is None else Decimal(shaping.softcap)
    return scaled if cap is None else [cap * _tanh(x / cap) for x in scaled]


def _tanh(x: Decimal) -> Decimal:
    """``(e^2x - 1) / (e^2x + 1)``, with as many digits more as the difference loses."""
    if not x.is_finite() or abs(x) > 80:  # 1 - tanh(80) is below 1e-69
        return x if x.is_nan() else Decimal(1).copy_sign(x)
    with localcontext() as context:
        context.prec += max(0, -x.adjusted()) if x else 0
        e = (2 * x).exp()
        return (e - 1) / (e + 1)


def _asked(share: dict[int, Decimal], weight: list[Decimal], smoothing: Decimal) -> dict[int, Decimal]:
    """``a_j = w_j ((1 - e) q_j + e / V)``, where it is not zero."""
    asked = {j: weight[j] * q * (1 - smoothing) for j, q in share.items()}
    if smoothing:
        for j, w in enumerate(weight):
            asked[j] = asked.get(j, 0) + w * smoothing / len(weight)
    return {j: a for j, a in asked.items() if a}


def _row(logits: Sequence[float | Decimal], asked: dict[int, Decimal], z_loss: Decimal) -> Decimal:
    """``sum_j a_j (log1p(rest) - (x_j - peak)) + z lse^2``."""
    if not asked and not z_loss:
        return Decimal(0)
    peak = max(logits)
    if not math.isfinite(peak) or any(math.isnan(x) for x in logits):
        return Decimal("NaN")
    log_mass = _log1p(_rest(logits, peak))
    top = Decimal(peak)
    surprise = sum((a * (log_mass + (top - Decimal(logits[j]))) for j, a in asked.items()), Decimal(0))
    return surprise + z_loss * (top + log_mass) ** 2 if z_loss else surprise


def _rest(logits: Sequence[float | Decimal], peak: float | Decimal) -> Decimal:
    """``sum exp(x_j - peak)`` over every class but one that holds the peak."""
    below = list(logits)
    below.remove(peak)
    runner_up = max(below, default=-math.inf)
    if runner_up == -math.inf:
        return Decimal(0)
    start = _fixed(runner_up)
    bulk = sum(_exp_minus(start - _fixed(x)) for x in below if x != -math.inf)
    return Decimal(bulk) / ONE * (Decimal(runner_up) - Decimal(peak)).exp()


def _log1p(rest: Decimal) -> Decimal:
    """Below 1e-8 eight terms of the series are good to 64 digits; above it ``1 + rest`` keeps 52 of the rest's."""
    if rest < Decimal("1e-8"):
        return sum((-((-rest) ** k) / k for k in range(1, 9)), Decimal(0))
    return (1 + rest).ln()


def _fixed(x: float | Decimal) -> int:
    numerator, denominator = x.as_integer_ratio()
    return (numerator << BITS) // denominator


def _exp_minus(t: int) -> int:
    """``exp(-t)`` for t >= 0, both in units of 2**-BITS: ``2**-n``, three table look-ups of six bits, and
    ten terms of the series below 2**-18. The error is a few units."""
    ln2, tables = _tables()
    n = -(-t // ln2)
    if n > BITS:
        return 0
    u = n * ln2 - t
    r, i = u & ((1 << (BITS - 18)) - 1), u >> (BITS - 18)
    series = ONE
    for k in range(10, 0, -1):
        series = ONE + (r * series >> BITS) // k
    for table in tables:
        i, digit = i >> 6, i & 63
        series = series * table[digit] >> BITS
    return series >> n


@lru_cache(maxsize=1)
def _tables() -> tuple[int, list[list[int]]]:
    with localcontext(Context(prec=90)):
        ln2 = int(Decimal(2).ln() * ONE)
        steps = (2**18, 2**12, 2**6)
        return ln2, [[int((Decimal(i) / step).exp() * ONE) for i in range(64)] for step in steps]
