"""Sums over rows: float64 numbers as whole numbers of a common scale, which add in any order, rounded once.

A block becomes six float64 numbers that hold its sum to 147 bits below its largest magnitude; they are summed the same
way, until one block is left (a fixed-point form of Demmel and Nguyen, Parallel reproducible summation, 2015).
"""

# Triton compiles these functions: a constant may be given as a plain number, and a name bound under a constant.
# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from .arithmetic import joined, limbs, rounded, times_power

BLOCK = 4096
PARTS = 6


@triton.jit
def _block(values, N, B: tl.constexpr):
    """This program's numbers, ``[1, B]``."""
    at = tl.program_id(0) * B + tl.arange(0, B)
    return tl.load(values + at, mask=at < N, other=0.0)[None, :]


@triton.jit
def _sum(values, N, B: tl.constexpr):
    """Of one block."""
    return tl.max(joined(limbs(_block(values, N, B))), 0)


@triton.jit(do_not_specialize=["N", "stride"])
def shrink(values, out, N, stride, B: tl.constexpr):
    """Each block of a row of numbers becomes six of the same sum."""
    row = tl.program_id(1).to(tl.int64)
    first, second, third, up, odd = limbs(_block(values + row * stride, N, B))
    spot = out + (row * tl.num_programs(0) + tl.program_id(0)) * 6 + tl.arange(0, 1)
    for k in tl.static_range(3):
        limb = first if k == 0 else second if k == 1 else third
        high = limb.to(tl.float64)
        low = (limb - high.to(tl.int64)).to(tl.float64)
        over = odd if k == 0 else tl.zeros_like(odd)
        tl.store(spot + 2 * k, tl.where(odd == 0, times_power(high, -up - 49 * k), over))
        tl.store(spot + 2 * k + 1, tl.where(odd == 0, times_power(low, -up - 49 * k), 0.0))


@triton.jit(do_not_specialize=["N", "stride"])
def total(values, out, N, stride, B: tl.constexpr):
    """The sum of one block of each row of numbers."""
    row = tl.program_id(1).to(tl.int64)
    tl.store(out + row, _sum(values + row * stride, N, B))


@triton.jit(do_not_specialize=["N", "stride", "count"])
def reduce(values, out, divisor_at, N, stride, count, B: tl.constexpr, MEAN: tl.constexpr, COUNTED: tl.constexpr):
    """Sum or mean of the losses in the first row of numbers; a mean divides by the sum of the second, or by `count`."""
    value = _sum(values, N, B)
    divisor = tl.zeros_like(value) + 1.0
    if MEAN:
        divisor = tl.zeros_like(value) + count if COUNTED else _sum(values + stride, N, B)
        value = tl.where(divisor != 0, value / tl.where(divisor != 0, divisor, 1.0), float("nan"))
    tl.store(out, rounded(value, out))
    tl.store(divisor_at, divisor)
