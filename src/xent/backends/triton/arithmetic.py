"""What the kernels compute with: exp on a power-of-two scale, sums whose bits no layout can change, log1p.

A tile is ``[R, B]``, R rows of B classes. The compiler hands a tile out to threads by the alignment of the rows, and
would add it up in that order: so floats are added here in pairs written out, or where the sum is exact.
"""

# Triton compiles these functions: a constant may be given as a plain number, and a name bound under a constant.
# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import os

import torch
import triton
import triton.language as tl

WIDE = tl.constexpr(0)
"""float64 logits."""
SINGLE = tl.constexpr(1)
"""float32 logits."""
HALF = tl.constexpr(2)
"""bfloat16 and float16 logits: exp from the special function unit, 2 ulp of float32, is far below their resolution."""

_INFINITY = tl.constexpr(float("inf"))
_LOG2E = tl.constexpr(1.4426950216293335)
_LOG2E_LOW = tl.constexpr(1.925963033500011e-08)
_MAGIC = tl.constexpr(12582912.0)
"""1.5 * 2**23: adding it rounds to a whole number, which then stands in the low bits, on top of 0x4B400000."""
_FAR = tl.constexpr(131072.0)
"""2**17. Logits of one row beyond it differ by multiples of 2**-6: their difference from the peak is exact."""
LIFT = tl.constexpr(64)
"""float32 exponentials carry 2**64, so that those of 88 to 131 nats below the peak keep their digits."""
LIFT_HALF = tl.constexpr(24)
"""Those of 16-bit logits 2**24: enough for the smallest bfloat16, and rounded to 2**-21 where they matter."""
_PTX = tl.constexpr(torch.version.cuda is not None and os.environ.get("TRITON_INTERPRET") != "1")


@triton.jit
def pivot(peak):
    """What is subtracted from the logits before all else: nothing, or the peak where it is too large for `_MAGIC`."""
    return tl.where((tl.abs(peak) < _FAR) | (tl.abs(peak) == _INFINITY), 0.0, peak)


@triton.jit
def near_peak(peak, base):
    """``peak - base``, exact; 0 for a row of masks."""
    return tl.where(tl.abs(peak) == _INFINITY, 0.0, peak - base)


@triton.jit
def deepest(peak, base):
    """Where logits may be cut off: 2**64 times exp of what lies 170 nats below the peak is no float32."""
    return near_peak(peak, base) - 170.0


@triton.jit
def binade(peak, base):
    """The whole K with ``exp(peak - base)`` near ``2**K``."""
    return tl.fma(near_peak(peak, base), _LOG2E, _MAGIC) - _MAGIC


@triton.jit
def scale_of(peak, base, lift, KIND: tl.constexpr):
    """What exp is scaled down by: the binade of the peak less `lift`."""
    scale = binade(peak, base) - lift
    if KIND == HALF:
        scale = tl.where(base != 0, 0.0, scale)
    return scale


@triton.jit
def exp2_part(f):
    """``2**f`` for f in [-1/2, 1/2]: minimax of degree 6, error 2**-28.9 before and 0.94 ulp after rounding."""
    p = tl.fma(f, 0.00015353360504377633, 0.0013398875016719103)
    p = tl.fma(p, f, 0.00961843691766262)
    p = tl.fma(p, f, 0.055503323674201965)
    p = tl.fma(p, f, 0.24022647738456726)
    p = tl.fma(p, f, 0.6931471824645996)
    return tl.fma(p, f, 1.0)


@triton.jit
def exp2_unit(t):
    """``2**t`` from the special function unit, 0 for what is no normal number; Triton's own takes three operations more
    to keep denormals, a fifth of all that a 16-bit logit costs."""
    if _PTX:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [t], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.exp2(t)


@triton.jit
def widened(x, KIND: tl.constexpr):
    """In float32, or in float64. Of a pair of bfloat16 numbers the upper one costs an `and`; the compiler takes it out
    and shifts it back."""
    if KIND == WIDE:
        return x.to(tl.float64)
    elif _PTX and x.dtype == tl.bfloat16:
        return tl.inline_asm_elementwise(
            "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;",
            "=r,=r,r",
            [x],
            dtype=tl.float32,
            is_pure=True,
            pack=2,
        )
    else:
        return x.to(tl.float32)


@triton.jit
def scaled_exp(x, base, floor, scale, KIND: tl.constexpr):
    """``exp(x - base) 2**-scale`` of float32 numbers, `scale` a whole number.

    The logit is reduced itself, not its distance from the peak, whose rounding would have to be carried: the
    product with log2(e) goes into a fused multiply-add with the whole number that it is near.
    """
    if KIND == HALF:  # 16-bit logits with a base differ by 512 or not at all: 1 or 0, so the slope may be 1
        far = base != 0
        return exp2_unit(tl.fma(x, tl.where(far, 1.0, _LOG2E), -tl.where(far, base, scale)))
    x = tl.maximum(x - base, floor, propagate_nan=tl.PropagateNan.ALL)
    whole = tl.fma(x, _LOG2E, _MAGIC)
    f = tl.fma(x, _LOG2E_LOW, tl.fma(x, _LOG2E, -(whole - _MAGIC)))
    biased = whole.to(tl.int32, bitcast=True) - (scale.to(tl.int32) + (0x4B400000 - 127))
    power = (tl.maximum(biased, 0) << 23).to(tl.float32, bitcast=True)  # 0 where it would be no normal number
    return exp2_part(f) * power


@triton.jit
def size_of_peak(near, scale, KIND: tl.constexpr):
    """`scaled_exp` of the peak, by which all others are divided, as float64."""
    if KIND == HALF:  # as the others: what log2(e) lost by rounding is then lost by both
        return exp2_unit(tl.fma(near, _LOG2E, -scale)).to(tl.float64)
    return tl.exp2(near.to(tl.float64) * 1.4426950408889634 - scale.to(tl.float64))


@triton.jit
def distance(x, peak):
    """``x - peak`` and what its rounding dropped (TwoSum), 0 where there is nothing to drop."""
    high = x - peak
    back = high - x
    low = (x - (high - back)) - (peak + back)
    return high, tl.where(tl.abs(low) < _INFINITY, low, 0.0)


@triton.jit
def exp_wide(x, peak):
    """``exp(x - peak)`` in float64, whatever the difference was rounded to."""
    high, low = distance(x, peak)
    e = tl.exp(high)
    return e + e * low


@triton.jit
def log1p(x):
    """float64, from log alone: the rounding of 1 + x is divided out (W. Kahan; HP-15C handbook, 1982)."""
    one = 1.0 + x
    return tl.where(one == 1.0, x, tl.log(one) * (x / (one - 1.0)))


@triton.jit
def added(x, R: tl.constexpr, B: tl.constexpr, FOLDS: tl.constexpr):
    """Sum over the classes in float64: neighbours in pairs FOLDS times, then in any order."""
    for level in tl.static_range(FOLDS):
        left, right = tl.split(tl.reshape(x, [R, B >> (level + 1), 2]))
        x = left + right
    return _lanes(x, R, B >> FOLDS)


@triton.jit
def but_one_peak(e, peak, R: tl.constexpr, B: tl.constexpr, FOLDS: tl.constexpr):
    """The sum in float64 of B numbers but those that are `peak`, the largest, and how many of these there are but one.
    Neighbours that both are `peak` stand in the sum, which is at least one then."""
    top, rest = e, e
    for level in tl.static_range(FOLDS):
        t0, t1 = tl.split(tl.reshape(top, [R, B >> (level + 1), 2]))
        smaller = tl.minimum(t0, t1, propagate_nan=tl.PropagateNan.ALL)
        if level == 0:
            rest = smaller
        else:
            r0, r1 = tl.split(tl.reshape(rest, [R, B >> (level + 1), 2]))
            rest = (r0 + r1) + smaller
        top = tl.maximum(t0, t1, propagate_nan=tl.PropagateNan.ALL)
    LANES: tl.constexpr = B >> FOLDS
    here = top == peak[:, None]
    below = tl.where(here, 0.0, top)
    if FOLDS > 0:
        below = rest + below
    return _lanes(below, R, LANES), tl.maximum(tl.sum(here.to(tl.int32), 1) - 1, 0).to(tl.float64)


@triton.jit
def _lanes(x, R: tl.constexpr, N: tl.constexpr):
    """Sum of N <= 4096 lanes in any order. Float32 ones are cut to multiples of 2**-39 of the largest's power of two,
    which float64 adds exactly."""
    tl.static_assert(N <= 4096)
    if N == 1:
        total = tl.reshape(x, [R]).to(tl.float64)
    elif x.dtype == tl.float64:
        total = joined(limbs(x))
    else:
        top = tl.max(tl.abs(x), 1)
        binade = (top.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        magic = tl.where(top < _INFINITY, binade.to(tl.float64) * 12288.0, 0.0)[:, None]  # 1.5 * 2**52 quanta
        total = tl.sum((x.to(tl.float64) + magic) - magic, 1)
    return total


@triton.jit
def power_of_two(n):
    """``2**n`` as float64, for a normal one."""
    return ((n + 1023).to(tl.int64) << 52).to(tl.float64, bitcast=True)


@triton.jit
def times_power(x, n):
    """``x 2**n``, the power in two halves, for 2**1100 is no float64."""
    half = n >> 1
    return x * power_of_two(half) * power_of_two(n - half)


@triton.jit
def limbs(x):
    """Sums of at most 4096 float64 numbers a row: three whole numbers, of which each next one counts 2**-49 of the one
    before, the power of two they are all multiplied by, and the sum of what is not finite, or else 0."""
    finite = tl.abs(x) < _INFINITY
    odd = tl.sum(tl.where(finite, 0.0, x), 1)
    x = tl.where(finite, x, 0.0)
    top = tl.max(tl.abs(x), 1)
    up = 48 - (((top.to(tl.int64, bitcast=True) >> 52) & 2047) - 1023)
    part = times_power(x, up[:, None])
    whole = part.to(tl.int64)
    first = tl.sum(whole, 1)
    part = (part - whole.to(tl.float64)) * 562949953421312.0  # 2**49
    whole = part.to(tl.int64)
    second = tl.sum(whole, 1)
    part = (part - whole.to(tl.float64)) * 562949953421312.0
    return first, second, tl.sum(part.to(tl.int64), 1), up, odd


@triton.jit
def joined(parts):
    """The sum that `limbs` found, rounded once."""
    first, second, third, up, odd = parts
    down = 1.7763568394002505e-15  # 2**-49
    high = first.to(tl.float64)
    low = (third.to(tl.float64) * down + second.to(tl.float64)) * down + (first - high.to(tl.int64)).to(tl.float64)
    return tl.where(odd == 0, times_power(high + low, -up), odd)


@triton.jit
def rounded(value, like):
    """`value` in the dtype that the pointer `like` points at, 16 bits by way of float32."""
    if like.dtype.element_ty.primitive_bitwidth < 32:
        value = value.to(tl.float32)
    return value.to(like.dtype.element_ty)


@triton.jit
def from_bits(bits):
    """A float64 that came as an integer: Triton rounds float arguments to float32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True)
