"""The loss in mpmath, 60 digits, one class after the other: slow, plain and independent."""

import mpmath


def loss(logits, asked):
    """``sum_j a_j (log sum_k exp(x_k) - x_j)`` of one row of floats, classes with a = 0 left out."""
    with mpmath.workdps(60):
        row = [mpmath.mpf(x) for x in logits]
        peak = max(row)
        top = row.index(peak)
        rest = mpmath.fsum(mpmath.exp(x - peak) for at, x in enumerate(row) if at != top)
        return mpmath.fsum(a * (mpmath.log1p(rest) + (peak - x)) for a, x in zip(asked, row, strict=True) if a)


def asked(share, weight, smoothing):
    """``w_j ((1 - e) q_j + e / V)``."""
    with mpmath.workdps(60):
        e = mpmath.mpf(smoothing)
        return [mpmath.mpf(w) * ((1 - e) * mpmath.mpf(q) + e / len(share)) for q, w in zip(share, weight, strict=True)]


def one_hot(label, classes):
    return [float(j == label) for j in range(classes)]
