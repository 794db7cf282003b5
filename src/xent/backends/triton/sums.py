"""Sums over rows: float64 numbers as whole numbers of a common scale, which add in any order, rounded once.

A block becomes six float64 numbers that hold its sum to 147 bits below its largest magnitude; they are summed the same
way, until one block is left (a fixed-point form of Demmel and Nguyen, Parallel reproducible summation, 2015).
"""

import triton
import triton.language as tl

from .arithmetic import rounded

BLOCK = 4096
PARTS = 6
_BITS = tl.constexpr(49)
"""Of a limb: 4096 of them add up in 61."""


@triton.jit
def _power(n):
    return ((n + 1023).to(tl.int64) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _scaled(x, n):
    """``x 2**n``, the power in two halves, for 2**1100 is no float64."""
    half = n >> 1
    return x * _power(half) * _power(n - half)


@triton.jit
def _limbs(values, N, B: tl.constexpr):
    """The sum of a block as three limbs, the power of two they are scaled by, and a plain sum if it is not finite."""
    at = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.load(values + at, mask=at < N, other=0.0)
    wild = tl.max(tl.where(v - v == 0.0, 0, 1), 0)
    plain = tl.sum(v, 0)
    v = tl.where(v - v == 0.0, v, 0.0)
    top = tl.max(tl.abs(v), 0)
    up = _BITS - 1 - (((top.to(tl.int64, bitcast=True) >> 52) & 2047) - 1023)
    part = _scaled(v, up)
    whole = part.to(tl.int64)
    first = tl.sum(whole, 0)
    part = (part - whole.to(tl.float64)) * 562949953421312.0  # 2**49
    whole = part.to(tl.int64)
    second = tl.sum(whole, 0)
    part = (part - whole.to(tl.float64)) * 562949953421312.0
    return first, second, tl.sum(part.to(tl.int64), 0), up, wild, plain


@triton.jit
def _rounded(values, N, B: tl.constexpr):
    """The sum of one block."""
    first, second, third, up, wild, plain = _limbs(values, N, B)
    down = 1.7763568394002505e-15  # 2**-49
    high = first.to(tl.float64)
    low = (third.to(tl.float64) * down + second.to(tl.float64)) * down + (first - high.to(tl.int64)).to(tl.float64)
    return tl.where(wild != 0, plain, _scaled(high + low, -up))


@triton.jit
def shrink(values, out, N, stride, B: tl.constexpr):
    """Each block of a row of numbers becomes six of the same sum."""
    row = tl.program_id(1).to(tl.int64)
    first, second, third, up, wild, plain = _limbs(values + row * stride, N, B)
    spot = out + (row * tl.num_programs(0) + tl.program_id(0)) * 6
    for k in tl.static_range(3):
        limb = first if k == 0 else second if k == 1 else third
        high = limb.to(tl.float64)
        low = (limb - high.to(tl.int64)).to(tl.float64)
        over = tl.where(k == 0, plain, 0.0)
        tl.store(spot + 2 * k, tl.where(wild != 0, over, _scaled(high, -up - _BITS * k)))
        tl.store(spot + 2 * k + 1, tl.where(wild != 0, 0.0, _scaled(low, -up - _BITS * k)))


@triton.jit
def total(values, out, N, stride, B: tl.constexpr):
    """The sum of one block of each row of numbers."""
    row = tl.program_id(1).to(tl.int64)
    tl.store(out + row, _rounded(values + row * stride, N, B))


@triton.jit
def reduce(values, out, divisor_at, N, stride, count, B: tl.constexpr, MEAN: tl.constexpr, COUNTED: tl.constexpr):
    """Sum or mean of the losses in the first row of numbers; a mean divides by the sum of the second, or by `count`."""
    value = _rounded(values, N, B)
    divisor = tl.zeros_like(value) + 1.0
    if MEAN:
        divisor = tl.zeros_like(value) + count if COUNTED else _rounded(values + stride, N, B)
        value = tl.where(divisor != 0, value / tl.where(divisor != 0, divisor, 1.0), float("nan"))
    tl.store(out, rounded(value, out))
    tl.store(divisor_at, divisor)
