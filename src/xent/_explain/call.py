"""One call to explain: the caller's tensors after the door, whole or a few rows of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import _check, _plan
from .._plan import Plan


@dataclass(frozen=True, slots=True)
class Call:
    """Tensors in the caller's shape, and the plan made of them."""

    logits: Tensor
    target: Tensor
    weight: Tensor | None
    plan: Plan
    index: Tensor | None
    """Labels of all rows as int64, -1 where ignored; None for a distribution."""

    @property
    def count(self) -> int:
        """Rows."""
        return self.plan.rows.shape[0] * self.plan.rows.shape[2]

    def take(self, positions: Sequence[int], reduction: str) -> "Call":
        """The same call on these rows alone, as ``(n, V)``."""
        at = torch.as_tensor(positions, dtype=torch.int64, device=self.logits.device)
        inner = max(self.plan.rows.shape[2], 1)
        outer, inner = at // inner, at % inner
        logits = self.plan.rows[outer, :, inner]
        target = self.plan.target[outer, :, inner] if self.plan.soft else self.plan.target.reshape(-1)[at]
        plan = _plan.loss(
            logits, target, self.weight, self.plan.ignore_index, _plan.Sums(reduction), self.plan.smoothing
        )
        index = None if self.index is None else self.index.reshape(-1)[at]
        return Call(logits, target, self.weight, replace(plan, dtype=self.plan.dtype), index)


def ask(logits: Any, target: Any, weight: Any, ignore_index: Any, reduction: Any, label_smoothing: Any) -> Call:
    """Through the door of `xent.cross_entropy`, arrays and lists included."""
    logits, target = _detached(logits), _detached(target)
    weight = None if weight is None else _detached(weight)
    _check.loss(logits, target, weight, "logits")
    ignored = _check.ignore_index(ignore_index)
    soft = target.shape == logits.shape
    if soft:
        _check.probabilities(logits, target, ignored)
    else:
        _check.indices(logits, target)
    smoothing = _check.label_smoothing(label_smoothing)
    sums = _plan.Sums(_check.reduction(reduction))
    plan = _plan.loss(logits, target, weight, ignored, sums, smoothing)
    index = None if soft else _check.labels(target, plan.classes, ignored).reshape(plan.shape)
    return Call(logits, target, weight, plan, index)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)
