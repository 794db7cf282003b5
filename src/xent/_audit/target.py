"""The loss under audit, and what is put around it so that it can be asked every case.

What is put around is a line of Python, run as it is printed in a reproducer.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._implementations import Implementation

PER_ROW = (
    'loss = lambda x, y, reduction="mean", **o: mean(x, y, **o) if reduction == "mean" '
    "else torch.stack([mean(x[n:n + 1], y[n:n + 1], **o).reshape(()) for n in range(len(x))])"
)
OVER_CLASSES = "loss = lambda x, y, **o: head(x, torch.eye(x.shape[1]).to(x), y, **o)"
OVER_SHORTER = (
    "loss = lambda x, y, **o: head(torch.eye(len(x)).to(x), x.T, y, **o) if len(x) <= x.shape[1] "
    "else head(x, torch.eye(x.shape[1]).to(x), y, **o)"
)
OVER_MASK = (
    "loss = lambda x, y, **o: head(torch.eye(len(x)).to(x), x.masked_fill(x.isinf(), 0).T, y, "
    "linear_bias=torch.zeros_like(x[0]).masked_fill(x[0].isinf(), -torch.inf), **o)"
)


class NotOfferedError(Exception):
    """A case that the target has no way of being asked."""


@dataclass(frozen=True)
class Way:
    """How a case reaches the target: the name that its callable has, and a line around it."""

    name: str
    around: str | None = None

    def loss(self, called: Any) -> Any:
        """The callable that the case's lines call `loss`."""
        namespace = {"torch": torch, self.name: called}
        if self.around is not None:
            exec(self.around, namespace)
        return namespace["loss"]


def way(one: Implementation, options: str, logits: Tensor | None) -> Way:
    """To the loss of `logits`, called with these options; a probe makes its own, few and finite."""
    if one.head:
        return Way("head", _around_a_head(one, logits))
    if "reduction=" in options and "reduction" not in one.offers:
        if 'reduction="none"' not in options or "weight=" in options or logits is None or logits.ndim != 2:
            raise NotOfferedError("reduction")
        return Way("mean", PER_ROW)
    return Way("loss")


def _around_a_head(one: Implementation, logits: Tensor | None) -> str:
    """Logits as a product with the identity, which is exact. -inf is the bias's: 0 * inf would be nan."""
    if logits is None:
        return OVER_SHORTER
    if logits.ndim != 2:
        raise NotOfferedError("more than two dimensions")
    masked = logits == -torch.inf
    if masked.any():
        if "bias" not in one.offers or not (masked == masked[0]).all():
            raise NotOfferedError("-inf, which takes a bias")
        return OVER_MASK
    return OVER_SHORTER if logits.isfinite().all() else OVER_CLASSES
