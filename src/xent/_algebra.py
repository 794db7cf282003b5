"""Summary and options -> loss. The only home of the loss options.

Write ``l_j = log1p(rest) - (x_j - peak) = -log p_j`` for the surprise at class `j`. Then

    hard   = sum_j a_j l_j = mass log1p(rest) - picked      what the target asks
    smooth = sum_j w_j l_j = sum(w) log1p(rest) - mix       what label smoothing asks
    loss   = (1 - e) hard + (e / V) smooth

Every term of a sum is >= 0, so nothing cancels and a small loss keeps all its digits. The gradient
is linear in the same two: ``d hard / d x_j = mass p_j - a_j``, ``d smooth / d x_j = sum(w) p_j - w_j``.
Only the two factors in front of them, one pair a row, depend on the options; kernels take the pair
and know no option (`docs/design/numerics.md`).
"""

import math

import torch
from torch import Tensor


def hard(mass: Tensor, rest: Tensor, picked: Tensor) -> Tensor:
    """Weighted surprise at the target, a row; exactly 0 for a row that asks nothing, nan logits or not."""
    return (mass * rest.log1p()).where(mass != 0, 0.0) - picked


def smooth(weight_sum: Tensor | float, rest: Tensor, mix: Tensor) -> Tensor:
    """Weighted surprise summed over all classes, a row."""
    return weight_sum * rest.log1p() - mix


def factors(smoothing: float, classes: int) -> tuple[float, float]:
    """What stands in front of `hard` and `smooth`."""
    return 1.0 - smoothing, smoothing / max(classes, 1)


def loss(hard: Tensor, smooth: Tensor | None, smoothing: float, classes: int) -> Tensor:
    """Loss of every row."""
    if smooth is None:
        return hard
    ours, theirs = factors(smoothing, classes)
    return ours * hard + theirs * smooth if ours else theirs * smooth  # a masked label's hard is inf


def shaped(logits: Tensor, softcap: float | None, scale: float | Tensor) -> Tensor:
    """``softcap tanh(scale x / softcap)`` in the next wider dtype, so that what is rounded is no wider than a logit."""
    wide = logits.to(torch.float32 if logits.itemsize == 2 else torch.float64) * scale
    return wide if softcap is None else softcap * torch.tanh(wide / softcap)


def shaped_slope(logits: Tensor, softcap: float | None, scale: float, like: Tensor) -> Tensor | float:
    """Its derivative, ``scale / cosh(scale x / softcap)**2``: ``1 - tanh**2`` would cancel far out."""
    return scale if softcap is None else scale / torch.cosh(logits.to(like.dtype) * (scale / softcap)).square()


def z(coefficient: float, lse: Tensor) -> Tensor:
    """What draws the log-sum-exp of a row to 0."""
    return coefficient * lse.square()


def lse(peak: Tensor, rest: Tensor) -> Tensor:
    """``log sum exp x_j``. The losses do without it: a small one would drown in a large peak."""
    return peak + rest.log1p()


def entropy(rest: Tensor, mean: Tensor) -> Tensor:
    """``-sum p_j log p_j`` with ``mean = sum p_j (x_j - peak)``: two terms >= 0."""
    return rest.log1p() - mean


FEW = 4096
"""Up to this many values on a CPU, math.fsum is faster than a dozen tensor operations (64 values: 4 us against 550)."""


def exact_sum(values: Tensor) -> Tensor:
    """Sum of float64 `values` over the last dimension, the same bits in whatever order they come.

    The error is one rounding of the result. An inf or nan anywhere gives what a plain sum gives.
    """
    if values.ndim == 1 and values.numel() <= FEW and values.device.type == "cpu":
        try:
            return values.new_tensor(math.fsum(values.tolist()))
        except (OverflowError, ValueError):  # a partial sum beyond the largest float64, or inf - inf
            pass
    return _sum_by_limbs(values)


def _sum_by_limbs(values: Tensor, block: int = 1 << 20) -> Tensor:
    """Every value is cut into whole numbers of a common scale, and whole numbers add without error in any
    order: a fixed-point form of Demmel and Nguyen, Parallel reproducible summation, IEEE Trans. Computers
    64 (2015). At least 110 bits below the largest magnitude are kept."""
    count = values.shape[-1]
    largest = values.new_zeros(values.shape[:-1]) if count == 0 else values.abs().amax(-1)
    bits = 62 - count.bit_length()  # count values of this many bits add up in int64
    _, exponent = torch.frexp(largest.where(largest.isfinite(), 1.0))
    up = bits - exponent.to(torch.int64)
    halves = power_of_two(up // 2), power_of_two(up - up // 2)  # 2**1100 is no float64, its halves are
    limbs = [values.new_zeros(values.shape[:-1], dtype=torch.int64) for _ in range(-(-110 // bits))]
    for part in values.split(block, -1) if count else ():
        part = part * halves[0].unsqueeze(-1) * halves[1].unsqueeze(-1)
        for limb in limbs:
            whole = part.trunc()
            limb += whole.to(torch.int64).sum(-1)
            part = (part - whole) * 2.0**bits
    low = torch.zeros_like(largest)
    for limb in reversed(limbs[1:]):
        low = (low + limb) * 2.0**-bits
    high = limbs[0].to(torch.float64)
    low = low + (limbs[0] - high.to(torch.int64))  # what the conversion of 62 bits to 53 dropped
    down = -up
    total = (high + low) * power_of_two(down // 2) * power_of_two(down - down // 2)
    return total.where(largest.isfinite(), values.sum(-1))


def power_of_two(exponent: Tensor) -> Tensor:
    """``2.0 ** exponent`` from its bits; torch.ldexp goes through float32 and overflows at 2**128."""
    return ((exponent.clamp(-1022, 1023) + 1023) << 52).view(torch.float64)
