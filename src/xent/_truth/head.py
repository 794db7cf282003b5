"""Loss and gradients of a linear head, where its logits are exact.

Rounded logits would be the larger error by far, and a matter of the matrix product. So hidden states, weights and
biases are multiples of 1/4096 so small that every product and every sum of them is a float64, and each logit a number
of the dtype.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .numbers import Arithmetic, Exact, arithmetic, paired
from .rows import truth

GRAIN = 4096


@dataclass(frozen=True)
class HeadTruth:
    """The loss, and by name (``'hidden'``, ``'head'``, ``'bias'``) each gradient with the sum of the magnitudes of
    what it adds up."""

    loss: Exact
    gradients: dict[str, tuple[Exact, Tensor]]
    bits: int | None
    by: str


def head_truth(
    hidden: Tensor,
    head: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    times: int = 1,
    using: Arithmetic | None = None,
    **options: Any,
) -> HeadTruth:
    """The truth of ``linear_cross_entropy`` with torch's arguments; `times` as in `truth`."""
    using = using or arithmetic()
    logits = _exact_logits(hidden, head, linear_bias)
    rows = truth(logits, target, times=times, using=using, **options)
    with using.at_work():
        g = _numbers(using, rows.gradient)
        h, w = (_numbers(using, Exact(t.detach().double(), t.double() * 0)) for t in (hidden, head))
        summed = {
            "hidden": (_product(using, g, w), hidden.shape),
            "head": (_product(using, _turned(g), h, times), head.shape),
        }
        if linear_bias is not None:
            ones = [[using.number(1)] for _ in g]
            summed["bias"] = (_product(using, _turned(g), ones, times), linear_bias.shape)
        gradients = {name: (paired(values).reshape(shape), _sizes(rows.gradient.high, hidden, head, name, times))
                     for name, (values, shape) in summed.items()}  # fmt: skip
    return HeadTruth(rows.loss, gradients, rows.bits, rows.by)


def _exact_logits(hidden: Tensor, head: Tensor, bias: Tensor | None) -> Tensor:
    parts = [tensor.detach().double() for tensor in (hidden, head, bias) if tensor is not None]
    if any(not torch.equal((part * GRAIN).round(), part * GRAIN) for part in parts):
        raise ValueError(f"the truth of a head wants multiples of 1/{GRAIN}, whose products are exact")
    if parts[0].abs().amax() * parts[1].abs().amax() * hidden.shape[-1] * GRAIN**2 >= 2**52:
        raise ValueError("the truth of a head wants smaller numbers, whose sums are exact")
    logits = parts[0] @ parts[1].T + (parts[2] if bias is not None else 0.0)
    if not torch.equal(logits.to(hidden.dtype).double(), logits):
        raise ValueError(f"the truth of a head wants logits that are numbers of {hidden.dtype}")
    return logits


def _numbers(using: Arithmetic, matrix: Exact) -> list[list[Any]]:
    pairs = zip(matrix.high.tolist(), matrix.low.tolist(), strict=True)
    return [[using.number(a) + b for a, b in zip(*pair, strict=True)] for pair in pairs]


def _turned(matrix: list[list[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def _product(using: Arithmetic, left: list[list[Any]], right: list[list[Any]], times: int = 1) -> list[Any]:
    columns, zero = _turned(right), using.number(0)
    return [sum((a * b for a, b in zip(row, column, strict=True)), zero) * times for row in left for column in columns]


def _sizes(g: Tensor, hidden: Tensor, head: Tensor, name: str, times: int) -> Tensor:
    if name == "hidden":
        return g.abs() @ head.detach().double().abs()
    if name == "bias":
        return g.abs().sum(0) * times
    return g.abs().T @ hidden.detach().double().abs() * times
