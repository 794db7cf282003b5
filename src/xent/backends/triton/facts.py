"""Logits -> facts. A program reads a tile of some rows once; what it found is settled at once if the tile is the whole
row, and else left in float64 for `merge`, which joins the tiles of a row in their order."""

# Triton compiles these functions: a constant may be given as a plain number, and a name bound under a constant.
# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from .arithmetic import (
    HALF,
    LIFT,
    LIFT_HALF,
    WIDE,
    added,
    but_one_peak,
    deepest,
    distance,
    exp_wide,
    from_bits,
    log1p,
    near_peak,
    pivot,
    rounded,
    scale_of,
    scaled_exp,
    size_of_peak,
    widened,
)
from .targets import asked_class, note

_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def place(inner, blocks, R: tl.constexpr, IU: tl.constexpr):
    """Which rows this program has: the outer index, the inner ones, which of them exist, their numbers as facts."""
    at = tl.program_id(0)
    o = (at // blocks).to(tl.int64)
    i = (at % blocks).to(tl.int64) * R + tl.arange(0, R)
    return o, i, i < known(inner, IU), o * inner + i


@triton.jit
def classes_of(V, sv, B: tl.constexpr, FAR: tl.constexpr):
    """The classes of this program's tile: their numbers, which of them exist, how far they lie from the first."""
    j = tl.arange(0, B)
    first = tl.program_id(1).to(tl.int64) * B
    step = j.to(tl.int64) * sv if FAR else j * sv
    return first + j, first + j < V, first * sv, step[None, :]


@triton.jit
def known(n, UNIT: tl.constexpr):
    """`n`, a multiple of UNIT, as one that the compiler sees to be: that is what lets it load many bytes at once."""
    return n // UNIT * UNIT


@triton.jit
def load_tile(
    rows, o, i, live, so, sv, si, V, B: tl.constexpr, FAR: tl.constexpr, CU: tl.constexpr, IU: tl.constexpr, fill
):
    """A tile ``[R, B]``; `fill` where there is no such row or class."""
    so, sv, si, V = known(so, CU * IU), known(sv, IU), known(si, CU), known(V, CU)
    _, inside, first, step = classes_of(V, sv, B, FAR)
    at = (o * so + i * si + first)[:, None] + step
    return tl.load(rows + at, mask=live[:, None] & inside[None, :], other=fill)


@triton.jit
def load_weight(weight, V, B: tl.constexpr):
    """Class weights of the tile, ``[1, B]``, 0 beyond the last class."""
    j, inside, _, _ = classes_of(V, 1, B, False)
    return tl.load(weight + j, mask=inside, other=0.0)[None, :]


@triton.jit
def rest_of(x, peak, R: tl.constexpr, B: tl.constexpr, KIND: tl.constexpr, FOLDS: tl.constexpr):
    """``sum exp(x - peak)`` without one occurrence of the peak; 0 for nothing but masks, nan where nan or inf is."""
    if KIND == WIDE:
        safe = tl.where(peak == -_INFINITY, 0.0, peak)
        rest, more = but_one_peak(exp_wide(x, safe[:, None]), tl.zeros_like(peak) + 1.0, R, B, FOLDS)
    else:
        base = pivot(peak)
        scale = scale_of(peak, base, LIFT_HALF if KIND == HALF else LIFT, KIND)
        floor = deepest(peak, base)
        top = scaled_exp(peak, base, floor, scale, KIND)  # the very bits of the classes at the peak
        e = scaled_exp(x, base[:, None], floor[:, None], scale[:, None], KIND)
        rest, more = but_one_peak(e, top, R, B, FOLDS)
        rest = rest / size_of_peak(near_peak(peak, base), scale, KIND)
    rest = tl.where(peak == -_INFINITY, tl.where(rest == rest, 0.0, rest), rest + more)
    return tl.where(peak != _INFINITY, rest, float("nan"))


@triton.jit
def settle(
    rows, target, weight, weight_sum, flags, o, i, live, n, peak, rest, picked, mass, mix,
    ignore_index, ours, theirs, V, so, sv, si,
    out_peak, out_rest, out_picked, out_mass, out_mix,
    LABELS: tl.constexpr, UNSIGNED: tl.constexpr, WEIGHTED: tl.constexpr, MIXED: tl.constexpr, LOSS: tl.constexpr,
):  # fmt: skip
    """What the label says, and the facts into place; with LOSS the loss of the row where `picked` would be, and the
    label's logit, if there is a place for it, where `mix` would. Returned is what a gradient needs of them: of a row
    without a class, that of one class at 0."""
    right, at, logit = live, n, peak
    rest = tl.where(tl.abs(peak) < _INFINITY, rest, float("nan"))
    peak = tl.where((rest == rest) | (tl.abs(peak) == _INFINITY), peak, float("nan"))
    picked = tl.where((rest == rest) | (picked == 0), picked, float("nan"))
    mix = tl.where((rest == rest) | (mix == 0), mix, float("nan"))
    if LABELS == 1:
        index, kept, right = asked_class(target, n, live, ignore_index, V, UNSIGNED)
        wrong = kept & (right == 0)
        if flags is not None:
            note(flags, n, index, wrong, V)
        at = tl.where(right, index, 0)
        logit = tl.load(rows + o * so + i * si + at * sv, mask=right, other=0.0).to(tl.float64)
        mass = tl.where(right, 1.0, 0.0).to(tl.float64)
        if WEIGHTED:
            mass = tl.load(weight + at, mask=right, other=0.0).to(tl.float64)
        picked = tl.where(mass != 0, mass * (logit - peak), 0.0)
        picked = tl.where(wrong, float("nan"), picked)
        peak = tl.where(right, peak, 0.0)
        rest = tl.where(right, rest, 0.0)
        mix = tl.where(right, mix, 0.0)
    if LOSS:
        log_mass = log1p(rest)
        hard = tl.where(mass != 0, mass * log_mass, 0.0) - picked
        picked = hard
        if MIXED:
            whole = tl.load(weight_sum) if WEIGHTED else V.to(tl.float64)
            share = from_bits(ours)  # at 0 a masked label's hard, inf, counts for nothing
            picked = tl.where(share != 0, share * hard, 0.0) + from_bits(theirs) * (whole * log_mass - mix)
    tl.store(out_peak + n, peak, mask=live)
    tl.store(out_rest + n, rest, mask=live)
    if LABELS:
        tl.store(out_picked + n, rounded(picked, out_picked), mask=live)
        tl.store(out_mass + n, mass, mask=live)
        if not LOSS:
            tl.store(out_mix + n, mix, mask=live)
        elif out_mix is not None:
            tl.store(out_mix + n, logit, mask=live)
    return peak, rest, at, right, logit, mass


@triton.jit(do_not_specialize=["ignore_index", "ours", "theirs", "V", "inner", "blocks", "so", "to", "count"])
def summary(
    rows, target, weight, weight_sum, flags, partial, out_peak, out_rest, out_picked, out_mass, out_mix,
    ignore_index, ours, theirs, V, inner, blocks, so, sv, si, to, tv, ti, count,
    KIND: tl.constexpr, LABELS: tl.constexpr, UNSIGNED: tl.constexpr, WEIGHTED: tl.constexpr, MIXED: tl.constexpr,
    LOSS: tl.constexpr, WHOLE: tl.constexpr, FAR: tl.constexpr, CU: tl.constexpr, IU: tl.constexpr,
    R: tl.constexpr, B: tl.constexpr, FOLDS: tl.constexpr,
):  # fmt: skip
    """Facts of R rows from a tile of B classes. LABELS: 0 no target, 1 labels, 2 a distribution."""
    o, i, live, n = place(inner, blocks, R, IU)
    x = load_tile(rows, o, i, live, so, sv, si, V, B, FAR, CU, IU, -_INFINITY)
    x = widened(x, KIND)
    peak = tl.max(x, 1)
    rest = rest_of(x, peak, R, B, KIND, FOLDS)
    wide = peak.to(tl.float64)
    mass = tl.zeros_like(wide)
    picked, mix, spread = mass, mass, mass
    _, inside, _, _ = classes_of(V, sv, B, FAR)
    if (LABELS == 2) | MIXED:
        shifted = x - tl.where(peak == -_INFINITY, 0.0, peak)[:, None]
        w = load_weight(weight, V, B).to(x.dtype) if WEIGHTED else tl.where(inside, 1.0, 0.0)[None, :].to(x.dtype)
        if MIXED:
            w_all = w + tl.zeros_like(x)
            mix = added(tl.where(w_all != 0, w_all * shifted, 0.0), R, B, FOLDS)
            spread = added(w_all, R, B, FOLDS)
        if LABELS == 2:
            a = load_tile(target, o, i, live, to, tv, ti, V, B, FAR, CU, IU, 0.0).to(x.dtype) * w
            picked = added(tl.where(a != 0, a * shifted, 0.0), R, B, FOLDS)
            mass = added(a, R, B, FOLDS)
    if WHOLE:
        settle(
            rows, target, weight, weight_sum, flags, o, i, live, n, wide, rest, picked, mass, mix,
            ignore_index, ours, theirs, V, so, sv, si, out_peak, out_rest, out_picked, out_mass, out_mix,
            LABELS, UNSIGNED, WEIGHTED, MIXED, LOSS,
        )  # fmt: skip
    else:
        spot = partial + n * tl.num_programs(1) + tl.program_id(1)
        tl.store(spot, wide, mask=live)
        tl.store(spot + count, rest, mask=live)
        if LABELS == 2:
            tl.store(spot + 2 * count, picked, mask=live)
            tl.store(spot + 3 * count, mass, mask=live)
        if MIXED:
            tl.store(spot + 4 * count, mix, mask=live)
            tl.store(spot + 5 * count, spread, mask=live)


@triton.jit
def _joined(moment, amount, drop, R: tl.constexpr, T: tl.constexpr):
    """Sum over the tiles of ``moment + amount (peak of the tile - peak)``."""
    return added(moment + tl.where(amount != 0, amount * drop, 0.0), R, T, 0)


@triton.jit(do_not_specialize=["ignore_index", "ours", "theirs", "V", "inner", "blocks", "so", "tiles", "count"])
def merge(
    rows, target, weight, weight_sum, flags, partial, out_peak, out_rest, out_picked, out_mass, out_mix,
    ignore_index, ours, theirs, V, inner, blocks, so, sv, si, tiles, count,
    LABELS: tl.constexpr, UNSIGNED: tl.constexpr, WEIGHTED: tl.constexpr, MIXED: tl.constexpr, LOSS: tl.constexpr,
    R: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Facts of R rows from those of their tiles, at most T."""
    o, i, live, n = place(inner, blocks, R, 1)
    t = tl.arange(0, T)[None, :]
    spot = partial + (n * tiles)[:, None] + t
    there = live[:, None] & (t < tiles)
    peaks = tl.load(spot, mask=there, other=-_INFINITY)
    rests = tl.load(spot + count, mask=there, other=0.0)
    peak = tl.max(peaks, 1)
    safe = tl.where(peak == -_INFINITY, 0.0, peak)[:, None]
    e = exp_wide(peaks, safe)
    ones, more = but_one_peak(e, tl.zeros_like(peak) + 1.0, R, T, 0)
    rest = (ones + more) + added(tl.where(rests != 0, rests * e, 0.0), R, T, 0)
    drop, _ = distance(peaks, safe)
    mass = tl.zeros_like(peak)
    picked, mix = mass, mass
    if LABELS == 2:
        masses = tl.load(spot + 3 * count, mask=there, other=0.0)
        picked = _joined(tl.load(spot + 2 * count, mask=there, other=0.0), masses, drop, R, T)
        mass = added(masses, R, T, 0)
    if MIXED:
        spread = tl.load(spot + 5 * count, mask=there, other=0.0)
        mix = _joined(tl.load(spot + 4 * count, mask=there, other=0.0), spread, drop, R, T)
    settle(
        rows, target, weight, weight_sum, flags, o, i, live, n, peak, rest, picked, mass, mix,
        ignore_index, ours, theirs, V, so, sv, si, out_peak, out_rest, out_picked, out_mass, out_mix,
        LABELS, UNSIGNED, WEIGHTED, MIXED, LOSS,
    )  # fmt: skip
