"""The truth, and the yardstick.

`Truth` evaluates a row in 80-bit arithmetic with the rounding of ``x - peak`` carried along, which leaves an
error of about 1e-19; `test_oracle.py` holds it to a textbook evaluation at 150 digits. Nothing here is
shared with the library. Errors are in ulp of the dtype that was returned.
"""

from dataclasses import dataclass

import numpy as np
import torch

LONG = np.longdouble
MANTISSA = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
SMALLEST = {torch.float64: -1074, torch.float32: -149, torch.float16: -24, torch.bfloat16: -133}


def ulp(value: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Distance of neighbouring floats of `dtype` at `value`."""
    _, exponent = np.frexp(np.abs(value))
    return np.ldexp(LONG(1), np.maximum(exponent - MANTISSA[dtype], SMALLEST[dtype]))


def long(tensor: torch.Tensor) -> np.ndarray:
    """The exact values of a tensor."""
    return tensor.detach().to(torch.float64).numpy().astype(LONG)


@dataclass
class Truth:
    """Rows ``(N, V)`` and an attraction ``(N, V)``: loss, gradient of the sum of losses, log_softmax, softmax."""

    logits: np.ndarray
    attraction: np.ndarray

    def __post_init__(self):
        x, a = self.logits, self.attraction
        rows = np.arange(len(x))
        self.top = x.argmax(1)
        peak = x[rows, self.top][:, None]
        d = x - peak
        with np.errstate(invalid="ignore"):
            back = d - x
            low = (x - (d - back)) - (peak + back)
        self.d, low = d, np.where(np.isfinite(low), low, 0)
        e = np.exp(d) * (1 + low)
        others = e.copy()
        others[rows, self.top] = 0
        self.rest = others.sum(1)[:, None]
        self.log_mass = np.log1p(self.rest)
        self.p = e / (1 + self.rest)
        self.log_p = d - self.log_mass + low
        self.asked = np.where(a != 0, a, 0)
        with np.errstate(invalid="ignore"):
            self.loss = np.where(a != 0, -a * self.log_p, 0).sum(1)

    @property
    def grad(self) -> np.ndarray:
        """``A p - a``, without cancellation at the peak."""
        plus, minus = self._halves()
        return plus - minus

    @property
    def grad_size(self) -> np.ndarray:
        """The larger of the two terms that the gradient is the difference of: ``p (A - a)`` and ``a (1 - p)``."""
        return np.maximum(*map(np.abs, self._halves()))

    def _halves(self):
        rows, a = np.arange(len(self.p)), self.asked
        elsewhere = a.sum(1)[:, None] - a
        off = a.copy()
        off[rows, self.top] = 0
        elsewhere[rows, self.top] = off.sum(1)
        rest_of = 1 - self.p
        rest_of[rows, self.top] = (self.rest / (1 + self.rest))[:, 0]
        return self.p * elsewhere, a * rest_of


def attraction(target: torch.Tensor, classes: int, weight=None, smoothing=0.0) -> np.ndarray:
    """What labels ``(N,)`` or probabilities ``(N, V)`` ask of each class."""
    w = np.ones(classes, LONG) if weight is None else long(weight)
    if target.is_floating_point():
        q = long(target)
    else:
        q = np.zeros((len(target), classes), LONG)
        q[np.arange(len(target)), target.numpy()] = 1
    e = LONG(smoothing)
    return w * (q * (1 - e) + e / classes)


def error(got: torch.Tensor, truth: np.ndarray, size: np.ndarray | None = None) -> float:
    """Largest error in ulp; infinities must agree."""
    have, size = long(got), truth if size is None else size
    limit = torch.finfo(got.dtype).max
    beyond = np.abs(truth) > limit
    assert (have[beyond] == np.sign(truth[beyond]) * np.inf).all(), "an infinity is missing"
    fine = ~beyond
    assert np.isfinite(have[fine]).all(), "not finite where the truth is"
    wrong = np.abs(have[fine] - truth[fine]) / ulp(size[fine], got.dtype)
    return float(wrong.max(initial=0))
