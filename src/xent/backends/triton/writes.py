"""Logits and facts -> one number a class, written once: gradients, softmax, log_softmax. No tile waits for another."""

# Triton compiles these functions: a constant may be given as a plain number, and a name bound under a constant.
# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from .arithmetic import (
    HALF,
    LIFT_HALF,
    WIDE,
    added,
    deepest,
    exp_wide,
    from_bits,
    log1p,
    near_peak,
    pivot,
    rounded,
    scale_of,
    scaled_exp,
    size_of_peak,
)
from .facts import classes_of, known, load_tile, load_weight, place
from .targets import asked_class

_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def scaled_probability(x, peak, factor, KIND: tl.constexpr):
    """``exp(x - peak) factor``, the factor a float64 number a row: one rounding more than exp has.

    The power of two in the factor joins that of exp, so neither a tiny share of a mean nor a tiny exp is denormal
    before their product is.
    """
    if KIND == WIDE:
        p = exp_wide(x, peak[:, None]) * factor[:, None]
    else:
        peak = peak.to(tl.float32)
        base = pivot(peak)
        near = near_peak(peak, base)
        if KIND == HALF:
            lift = tl.zeros_like(near) + LIFT_HALF
        else:
            exponent = ((factor.to(tl.int64, bitcast=True) >> 52) & 2047) - 1023
            lift = (64 + tl.minimum(tl.maximum(exponent, -126), 59)).to(tl.float32)
        scale = scale_of(peak, base, lift, KIND)
        share = (factor / size_of_peak(near, scale, KIND)).to(tl.float32)
        p = scaled_exp(x, base[:, None], deepest(peak, base)[:, None], scale[:, None], KIND) * share[:, None]
    return tl.where(factor[:, None] != 0, p, 0.0)


@triton.jit
def _facts(peak, rest, n, live):
    """Of a row that is not there: those of one class at 0."""
    return tl.load(peak + n, mask=live, other=0.0), tl.load(rest + n, mask=live, other=0.0)


@triton.jit
def store_tile(
    out, value, o, i, live, oo, ov, oi, V, B: tl.constexpr, FAR: tl.constexpr, CU: tl.constexpr, IU: tl.constexpr
):
    oo, ov, oi, V = known(oo, CU * IU), known(ov, IU), known(oi, CU), known(V, CU)
    _, inside, first, step = classes_of(V, ov, B, FAR)
    at = (o * oo + i * oi + first)[:, None] + step
    tl.store(out + at, rounded(value, out), mask=live[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["V", "inner", "blocks", "so", "to", "count"])
def split(
    rows, other, weight, peak_at, rest_at, sums,
    V, inner, blocks, so, sv, si, to, tv, ti, count,
    KIND: tl.constexpr, MOMENT: tl.constexpr, WEIGHTED: tl.constexpr, FAR: tl.constexpr,
    CU: tl.constexpr, IU: tl.constexpr, R: tl.constexpr, B: tl.constexpr, FOLDS: tl.constexpr,
):  # fmt: skip
    """A tile's share of two sums, over the classes at the peak and over the others: of ``q w``, or of ``p g``."""
    o, i, live, n = place(inner, blocks, R, IU)
    x = load_tile(rows, o, i, live, so, sv, si, V, B, FAR, CU, IU, -_INFINITY)
    value = load_tile(other, o, i, live, to, tv, ti, V, B, FAR, CU, IU, 0.0)
    peak, rest = _facts(peak_at, rest_at, n, live)
    x = x.to(tl.float64 if KIND == WIDE else tl.float32)
    value = value.to(x.dtype)
    if WEIGHTED:
        value = value * load_weight(weight, V, B).to(x.dtype)
    if MOMENT:
        p = scaled_probability(x, peak, 1.0 / (1.0 + rest), KIND)
        value = tl.where(p != 0, p * value, 0.0)
    at_peak = x == peak[:, None].to(x.dtype)
    spot = sums + n * tl.num_programs(1) + tl.program_id(1)
    tl.store(spot, added(tl.where(at_peak, value, 0.0), R, B, FOLDS), mask=live)
    tl.store(spot + count, added(tl.where(at_peak, 0.0, value), R, B, FOLDS), mask=live)


@triton.jit
def _halves(sums, n, live, tiles, count, R: tl.constexpr, T: tl.constexpr):
    """The two sums that `split` left in parts."""
    t = tl.arange(0, T)[None, :]
    spot, there = sums + (n * tiles)[:, None] + t, live[:, None] & (t < tiles)
    top = added(tl.load(spot, mask=there, other=0.0), R, T, 0)
    return top, added(tl.load(spot + count, mask=there, other=0.0), R, T, 0)


@triton.jit
def _push(
    x, peak, rest, hard, smooth, mass, top, off, weight, weight_sum, V,
    KIND: tl.constexpr, WEIGHTED: tl.constexpr, MIXED: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
    FOLDS: tl.constexpr,
):  # fmt: skip
    """``hard mass p + smooth (sum(w) p - w)``; which class is a peak with most of the row, and ``1 + rest`` times the
    gradient there, where `top` of the mass is asked of it and `off` of the others."""
    scale = hard * mass
    lifted = hard * (off - top * rest)
    at_peak = (x == peak[:, None].to(x.dtype)) & (rest < 1.0)[:, None]
    if MIXED:
        whole = tl.load(weight_sum) if WEIGHTED else V.to(tl.float64)
        scale += smooth * whole
        if WEIGHTED:
            w = load_weight(weight, V, B).to(x.dtype)
            of_peak = added(tl.where(at_peak, w, 0.0), R, B, FOLDS)  # the only one there, where it matters
        else:
            of_peak = tl.zeros_like(hard) + 1.0
        lifted += smooth * (whole - of_peak * (1.0 + rest))
    factor = tl.where(scale != 0, scale / (1.0 + rest), 0.0)
    value = scaled_probability(x, peak, factor, KIND)
    if MIXED:
        pull = smooth[:, None].to(x.dtype)
        value -= (pull * w) if WEIGHTED else pull
    return value, at_peak, lifted


@triton.jit
def pull_of_labels(
    x, peak, rest, hard, smooth, at, right, logit, mass, weight, weight_sum, V,
    KIND: tl.constexpr, WEIGHTED: tl.constexpr, MIXED: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
    FOLDS: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile, its rows asked for the classes `at`, whose logits and weights are `logit` and `mass`."""
    hard = tl.where(mass != 0, hard, 0.0)
    smooth = tl.where(right, smooth, 0.0)
    top = tl.where(logit == peak, mass, 0.0)
    x = x.to(tl.float64 if KIND == WIDE else tl.float32)
    value, at_peak, lifted = _push(
        x, peak, rest, hard, smooth, mass, top, mass - top, weight, weight_sum, V,
        KIND, WEIGHTED, MIXED, R, B, FOLDS,
    )  # fmt: skip
    at -= tl.program_id(1).to(tl.int64) * B
    here = tl.where(right & (at >= 0) & (at < B), at, -1).to(tl.int32)
    kept, added_to = tl.zeros_like(hard) + 1.0, -hard * mass
    if not MIXED:  # the label is the only class that anything is subtracted from, so the only one to be lifted
        lift = (logit == peak) & (rest < 1.0)
        kept, added_to = tl.where(lift, 0.0, 1.0), tl.where(lift, lifted / (1.0 + rest), added_to)
    at_label = tl.fma(value, kept[:, None].to(x.dtype), added_to[:, None].to(x.dtype))
    value = tl.where(tl.arange(0, B)[None, :] == here[:, None], at_label, value)
    if MIXED:
        value = tl.where(at_peak, (lifted / (1.0 + rest))[:, None].to(x.dtype), value)
    return value


@triton.jit(
    do_not_specialize=[
        "ignore_index", "ours", "theirs", "V", "inner", "blocks", "so", "to", "oo", "ho", "tiles", "count",
    ]
)  # fmt: skip
def gradient(
    rows, target, weight, weight_sum, peak_at, rest_at, own_at, sums, hard_at, smooth_at, divisor_at, out,
    ignore_index, ours, theirs, V, inner, blocks, so, sv, si, to, tv, ti, oo, ov, oi, ho, hi, tiles, count,
    KIND: tl.constexpr, LABELS: tl.constexpr, WEIGHTED: tl.constexpr, MIXED: tl.constexpr, LOSS: tl.constexpr,
    OWN: tl.constexpr, MADE: tl.constexpr, FAR: tl.constexpr, CU: tl.constexpr, IU: tl.constexpr, R: tl.constexpr,
    B: tl.constexpr, FOLDS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """``hard (mass p - a) + smooth (sum(w) p - w)``. With LOSS the two factors come from one upstream number a row;
    with OWN the logits of the labels come beside the rows, over which another program may have written. With MADE the
    gradient for an upstream 1 is there already."""
    if MADE:  # noqa: SIM102  (known beforehand, the other is not)
        if tl.load(hard_at).to(tl.float32) == 1.0:
            return
    o, i, live, n = place(inner, blocks, R, IU)
    x = load_tile(rows, o, i, live, so, sv, si, V, B, FAR, CU, IU, -_INFINITY)
    peak, rest = _facts(peak_at, rest_at, n, live)
    hard = tl.load(hard_at + o * ho + i * hi, mask=live, other=0.0).to(tl.float64)
    smooth = tl.zeros_like(hard)
    if LOSS:
        divisor = tl.load(divisor_at)
        share = tl.where(divisor != 0, hard / divisor, 0.0)
        hard, smooth = from_bits(ours) * share, from_bits(theirs) * share
    elif MIXED:
        smooth = tl.load(smooth_at + o * ho + i * hi, mask=live, other=0.0)
    if LABELS == 1:
        index, _, right = asked_class(target, n, live, ignore_index, V, False)
        at = tl.where(right, index, 0)
        spot = own_at + n if OWN else rows + o * so + i * si + at * sv
        logit = tl.load(spot, mask=right, other=0.0).to(tl.float64)
        mass = tl.where(right, 1.0, 0.0).to(tl.float64)
        if WEIGHTED:
            mass = tl.load(weight + at, mask=right, other=0.0).to(tl.float64)
        value = pull_of_labels(
            x, peak, rest, hard, smooth, at, right, logit, mass, weight, weight_sum, V,
            KIND, WEIGHTED, MIXED, R, B, FOLDS,
        )  # fmt: skip
    else:
        top, off = _halves(sums, n, live, tiles, count, R, T)
        x = x.to(tl.float64 if KIND == WIDE else tl.float32)
        value, at_peak, lifted = _push(
            x, peak, rest, hard, smooth, top + off, top, off, weight, weight_sum, V,
            KIND, WEIGHTED, MIXED, R, B, FOLDS,
        )  # fmt: skip
        a = load_tile(target, o, i, live, to, tv, ti, V, B, FAR, CU, IU, 0.0).to(x.dtype)
        a = a * load_weight(weight, V, B).to(x.dtype) if WEIGHTED else a
        value -= hard[:, None].to(x.dtype) * a
        value = tl.where(at_peak, (lifted / (1.0 + rest))[:, None].to(x.dtype), value)
    store_tile(out, value, o, i, live, oo, ov, oi, V, B, FAR, CU, IU)


@triton.jit(do_not_specialize=["V", "inner", "blocks", "so", "oo"])
def softmax(
    rows, peak_at, rest_at, out, V, inner, blocks, so, sv, si, oo, ov, oi,
    KIND: tl.constexpr, LOG: tl.constexpr, FAR: tl.constexpr, CU: tl.constexpr, IU: tl.constexpr,
    R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """``p``, or ``log p`` in float64 until it is rounded."""
    o, i, live, n = place(inner, blocks, R, IU)
    x = load_tile(rows, o, i, live, so, sv, si, V, B, FAR, CU, IU, -_INFINITY)
    peak, rest = _facts(peak_at, rest_at, n, live)
    if LOG:
        shifted = x.to(tl.float32).to(tl.float64) if KIND != WIDE else x.to(tl.float64)
        log_mass = log1p(rest)[:, None]
        high, low = shifted - peak[:, None], tl.zeros_like(shifted)
        if KIND == WIDE:
            back = high - shifted
            low = (shifted - (high - back)) - (peak[:, None] + back)
            low = tl.where(tl.abs(low) < _INFINITY, low, 0.0)
        value = (high - log_mass) + low
    else:
        x = x.to(tl.float64 if KIND == WIDE else tl.float32)
        value = scaled_probability(x, peak, 1.0 / (1.0 + rest), KIND)
    store_tile(out, value, o, i, live, oo, ov, oi, V, B, FAR, CU, IU)


@triton.jit(do_not_specialize=["V", "inner", "blocks", "so", "to", "oo", "tiles", "count"])
def softmax_slope(
    rows, slope, peak_at, rest_at, sums, out,
    V, inner, blocks, so, sv, si, to, tv, ti, oo, ov, oi, tiles, count,
    KIND: tl.constexpr, FAR: tl.constexpr, CU: tl.constexpr, IU: tl.constexpr,
    R: tl.constexpr, B: tl.constexpr, FOLDS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """``p (g - sum p g)``; at a peak with most of the mass ``(g rest - sum of the others) / (1 + rest)``."""
    o, i, live, n = place(inner, blocks, R, IU)
    x = load_tile(rows, o, i, live, so, sv, si, V, B, FAR, CU, IU, -_INFINITY)
    g = load_tile(slope, o, i, live, to, tv, ti, V, B, FAR, CU, IU, 0.0)
    peak, rest = _facts(peak_at, rest_at, n, live)
    top, off = _halves(sums, n, live, tiles, count, R, T)
    x = x.to(tl.float64 if KIND == WIDE else tl.float32)
    g = g.to(x.dtype)
    at_peak = (x == peak[:, None].to(x.dtype)) & (rest < 1.0)[:, None]
    p = scaled_probability(x, peak, 1.0 / (1.0 + rest), KIND)
    centred = g - (top + off)[:, None].to(x.dtype)
    of_peak = added(tl.where(at_peak, g, 0.0), R, B, FOLDS)
    lifted = of_peak * (rest / (1.0 + rest)) - off
    centred = tl.where(at_peak, lifted[:, None].to(x.dtype), centred)
    store_tile(out, tl.where(p != 0, p * centred, 0.0), o, i, live, oo, ov, oi, V, B, FAR, CU, IU)


@triton.jit(do_not_specialize=["count"])
def rescale(values, factor_at, count, B: tl.constexpr):
    """``values *= factor``, unless that is 1."""
    factor = tl.load(factor_at)
    if factor != 1.0:
        at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
        x = tl.load(values + at, mask=at < count, other=0.0)
        wide = x.to(tl.float64) if x.dtype == tl.float64 else x.to(tl.float32)
        tl.store(values + at, rounded(wide * factor.to(wide.dtype), values), mask=at < count)
