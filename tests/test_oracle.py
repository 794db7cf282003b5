"""The judge is judged: 80-bit arithmetic against the textbook formula at 150 digits."""

import mpmath
import numpy as np
import pytest
import torch

from .cases import FAMILIES
from .oracle import LONG, Truth, attraction, long, ulp

pytestmark = pytest.mark.skipif(np.finfo(LONG).nmant < 63, reason="no 80-bit floats on this machine")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("classes", [1, 2, 7])
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_truth_against_150_digits(name, classes, smoothing):
    if smoothing and name == "masked":
        pytest.skip("smoothing puts weight on a masked class: the loss is infinite")
    logits, labels = FAMILIES[name](3, classes, torch.Generator().manual_seed(1))
    weight = torch.linspace(0.5, 2.0, classes, dtype=torch.float64)
    asked = attraction(labels, classes, weight, smoothing)
    truth = Truth(long(logits), asked)
    with mpmath.workdps(150):
        for i, row in enumerate(logits.tolist()):
            loss, grad = textbook(row, [mpmath.mpf(str(a)) for a in asked[i]])
            close(truth.loss[i], loss)
            for j in range(classes):
                close(truth.grad[i, j], grad[j], truth.grad_size[i, j])


def textbook(row, a):
    z = [mpmath.exp(mpmath.mpf(x) - mpmath.mpf(max(row))) for x in row]
    p = [e / mpmath.fsum(z) for e in z]
    loss = mpmath.fsum(-s * mpmath.log(q) for s, q in zip(a, p, strict=True) if s)
    total = mpmath.fsum(a)
    return loss, [total * q - s for s, q in zip(a, p, strict=True)]


def close(got, want, size=None):
    """Within 0.03 ulp of float64, far below what the library is held to."""
    size = abs(got) if size is None else size
    assert abs(mpmath.mpf(str(got)) - want) <= 0.03 * float(ulp(np.asarray(size), torch.float64)) + 1e-300
