"""The row summary: the handful of facts that a row of logits is boiled down to."""

from typing import NamedTuple

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
