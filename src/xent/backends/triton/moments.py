"""What rows tell beyond their loss, and its gradient. All of it in float64: it is asked for now and then, and a sum of
``p log p`` in float32 would lose what the entropy of a confident row is made of."""

# Triton compiles these functions: a constant may be given as a plain number, and a name bound under a constant.
# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from .arithmetic import added, distance, exp_wide
from .facts import classes_of, load_tile, place
from .writes import store_tile

_INFINITY = tl.constexpr(float("inf"))


@triton.jit(do_not_specialize=["V", "inner", "blocks", "so", "count"])
def spread(
    rows, peak_at, own_at, sums, V, inner, blocks, so, sv, si, count,
    FAR: tl.constexpr, CU: tl.constexpr, IU: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Of a tile: ``sum exp(x - peak) (x - peak)``, the number of ``x > own``, and the first class at the peak, or that
    is nan; inf where there is none."""
    o, i, live, n = place(inner, blocks, R, IU)
    x = load_tile(rows, o, i, live, so, sv, si, V, B, FAR, CU, IU, -_INFINITY).to(tl.float64)
    peak = tl.load(peak_at + n, mask=live, other=0.0)[:, None]
    own = tl.load(own_at + n, mask=live, other=0.0)[:, None]
    e = exp_wide(x, peak)
    apart, _ = distance(x, peak)
    moment = added(tl.where(e != 0, e * apart, 0.0), R, B, 0)
    above = tl.sum((x > own).to(tl.int32), 1)
    j, inside, _, _ = classes_of(V, 1, B, FAR)
    here = inside[None, :] & ((x == peak) | (x != x))
    first = tl.min(tl.where(here, j[None, :].to(tl.float64), _INFINITY), 1)
    spot = sums + n * tl.num_programs(1) + tl.program_id(1)
    tl.store(spot, moment, mask=live)
    tl.store(spot + count, above.to(tl.float64), mask=live)
    tl.store(spot + 2 * count, first, mask=live)


@triton.jit(do_not_specialize=["V", "inner", "blocks", "so", "oo"])
def spread_slope(
    rows, peak_at, rest_at, mean_at, lse_at, entropy_at, out, V, inner, blocks, so, sv, si, oo, ov, oi,
    FAR: tl.constexpr, CU: tl.constexpr, IU: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """``p (lse - entropy (x - peak - mean))``; a factor of 0 leaves its term out, an exp of 0 its class."""
    o, i, live, n = place(inner, blocks, R, IU)
    x = load_tile(rows, o, i, live, so, sv, si, V, B, FAR, CU, IU, -_INFINITY).to(tl.float64)
    peak = tl.load(peak_at + n, mask=live, other=0.0)[:, None]
    share = (1.0 / (1.0 + tl.load(rest_at + n, mask=live, other=0.0)))[:, None]
    mean = tl.load(mean_at + n, mask=live, other=0.0)[:, None]
    lse = tl.load(lse_at + n, mask=live, other=0.0)[:, None]
    entropy = tl.load(entropy_at + n, mask=live, other=0.0)[:, None]
    e = exp_wide(x, peak)
    apart, _ = distance(x, peak)
    slope = lse - tl.where(entropy != 0, entropy * (apart - mean), 0.0)
    asked = (lse != 0) | (entropy != 0)
    value = tl.where((e != 0) & asked, e * share * slope, 0.0)
    store_tile(out, value, o, i, live, oo, ov, oi, V, B, FAR, CU, IU)
