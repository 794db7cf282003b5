"""Rows that are one tile each, asked for a class: loss and gradient from one read of the logits, where the factor of a
row is known before its loss is."""

# Triton compiles these functions: a constant may be given as a plain number, and a name bound under a constant.
# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from .arithmetic import added, from_bits, widened
from .facts import classes_of, load_tile, load_weight, place, rest_of, settle
from .targets import asked_class
from .writes import pull_of_labels, store_tile

_INFINITY = tl.constexpr(float("inf"))


@triton.jit(do_not_specialize=["ignore_index", "V", "count"])
def masses(
    target, weight, out, ignore_index, V, count, UNSIGNED: tl.constexpr, WEIGHTED: tl.constexpr, B: tl.constexpr
):
    """What each label counts in a mean."""
    n = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    index, _, right = asked_class(target, n, n < count, ignore_index, V, UNSIGNED)
    mass = tl.where(right, 1.0, 0.0).to(tl.float64)
    if WEIGHTED:
        mass = tl.load(weight + tl.where(right, index, 0), mask=right, other=0.0).to(tl.float64)
    tl.store(out + n, mass, mask=n < count)


@triton.jit(do_not_specialize=["ignore_index", "ours", "theirs", "V", "inner", "blocks", "so", "oo"])
def step(
    rows, target, weight, weight_sum, flags, divisor_at, out_peak, out_rest, out_loss, out_mass, out,
    ignore_index, ours, theirs, V, inner, blocks, so, sv, si, oo, ov, oi,
    KIND: tl.constexpr, BACK: tl.constexpr, UNSIGNED: tl.constexpr, WEIGHTED: tl.constexpr, MIXED: tl.constexpr,
    FAR: tl.constexpr, CU: tl.constexpr, IU: tl.constexpr, R: tl.constexpr, B: tl.constexpr, FOLDS: tl.constexpr,
):  # fmt: skip
    """`facts.summary` and then `writes.gradient` for an upstream 1, with the arithmetic that each of them has: KIND for
    the loss, which may be wider than the logits, and BACK."""
    o, i, live, n = place(inner, blocks, R, IU)
    x = widened(load_tile(rows, o, i, live, so, sv, si, V, B, FAR, CU, IU, -_INFINITY), KIND)
    peak = tl.max(x, 1)
    rest = rest_of(x, peak, R, B, KIND, FOLDS)
    wide = peak.to(tl.float64)
    none = tl.zeros_like(wide)
    mix = none
    if MIXED:
        _, inside, _, _ = classes_of(V, sv, B, FAR)
        shifted = x - tl.where(peak == -_INFINITY, 0.0, peak)[:, None]
        w = load_weight(weight, V, B).to(x.dtype) if WEIGHTED else tl.where(inside, 1.0, 0.0)[None, :].to(x.dtype)
        mix = added(tl.where(w + tl.zeros_like(x) != 0, w * shifted, 0.0), R, B, FOLDS)
    peak, rest, at, right, logit, mass = settle(
        rows, target, weight, weight_sum, flags, o, i, live, n, wide, rest, none, none, mix,
        ignore_index, ours, theirs, V, so, sv, si, out_peak, out_rest, out_loss, out_mass, None,
        1, UNSIGNED, WEIGHTED, MIXED, True,
    )  # fmt: skip
    divisor = tl.load(divisor_at)
    share = none + tl.where(divisor != 0, 1.0 / divisor, 0.0)
    value = pull_of_labels(
        x, peak, rest, from_bits(ours) * share, from_bits(theirs) * share, at, right, logit, mass, weight, weight_sum,
        V, BACK, WEIGHTED, MIXED, R, B, FOLDS,
    )  # fmt: skip
    store_tile(out, value, o, i, live, oo, ov, oi, V, B, FAR, CU, IU)
