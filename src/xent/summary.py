"""The row summary: the handful of facts that a row of logits is boiled down to."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class RowSummary(NamedTuple):
    """Facts about rows `x` of `V` logits, one number a row each, float64, shape ``(outer, inner)``.

    The attraction `a` of a row is what the target asks of each class: `w_y` at the label `y` and
    nothing elsewhere, or `q_j w_j` for a distribution `q`. An ignored row has an attraction of
    zero, is not looked at, and its facts are those of a row of one class: all zero.
    """

    peak: Tensor
    """``max_j x_j``: constant under differentiation, since every loss is blind to a common offset."""
    rest: Tensor
    """``sum exp(x_j - peak)`` over every class but one that holds the peak. The row's mass is ``1 + rest``,
    and the 1 is never added before ``log1p``: that is what keeps a confident row's loss from becoming 0."""
    picked: Tensor
    """``sum_j a_j (x_j - peak)``; classes with ``a_j = 0`` are left out, so no ``0 * inf``."""
    mass: Tensor
    """``sum_j a_j``."""
    mix: Tensor
    """``sum_j w_j (x_j - peak)``, what label smoothing asks for; zero where it was not asked."""


def merge(parts: Sequence[RowSummary], spans: Sequence[Tensor | float] | None) -> RowSummary:
    """One summary of rows from those of their parts, in the order given; `spans` are the parts' sums of class weights,
    None where `mix` was not asked.

    Each part shifts to the largest peak and is added. The first part that holds this peak gives its `rest`, every
    other one its whole mass, so the 1 that `rest` leaves out stays left out. A part masked throughout adds nothing.
    """
    peak = parts[0].peak
    for part in parts[1:]:
        peak = torch.maximum(peak, part.peak)  # nan stays nan
    rest, picked, mass, mix = (torch.zeros_like(peak) for _ in range(4))
    vacant = torch.ones_like(peak, dtype=torch.bool)  # the peak's place
    for part, span in zip(parts, spans or [None] * len(parts), strict=True):
        shift, scale = _shift(part.peak, peak)
        holds = vacant & ~(part.peak < peak)
        vacant &= ~holds
        whole = ((1.0 + part.rest) * scale).where(part.peak != -float("inf"), 0.0)
        rest = rest + part.rest.where(holds, whole)
        picked = picked + _moved(part.picked, part.mass, part.peak, shift)
        if span is not None:
            span = span if isinstance(span, Tensor) else peak.new_full((), span)
            mix = mix + _moved(part.mix, span, part.peak, shift)
        mass = mass + part.mass
    return RowSummary(peak, rest, picked, mass, mix)


def _shift(part: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
    """``part - peak`` and its exp, with what the rounding of the difference dropped (TwoSum)."""
    high = part - peak
    back = high - part
    low = (part - (high - back)) - (peak + back)
    exp = high.exp()
    return high, exp + exp * low.where(low.isfinite(), 0.0)


def _moved(moment: Tensor, mass: Tensor, part: Tensor, shift: Tensor) -> Tensor:
    """``sum a_j (x_j - peak)`` from that with the part's own peak; without mass, no term."""
    own = moment.where(part != -float("inf"), 0.0)
    return (own + mass * shift).where(mass != 0, 0.0)
