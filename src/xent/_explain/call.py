"""One call to explain: the caller's tensors after the door, whole or a few rows of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import _check, _plan
from .._plan import Plan, Shaping, Sums
from ..functional import classes_to_torchs_place, shape_of_labels


@dataclass(frozen=True, slots=True)
class Product:
    """Rows of hidden states and the linear head that made logits of them."""

    hidden: Tensor
    """``(n, D)``."""
    weight: Tensor
    """``(V, D)``."""
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Call:
    """Tensors in the caller's shape, and the plan made of them."""

    logits: Tensor
    target: Tensor
    weight: Tensor | None
    plan: Plan
    index: Tensor | None
    """Labels of all rows as int64, -1 where ignored; None for a distribution."""
    product: Product | None = None
    """What the logits come from, where a linear head made them."""

    @property
    def count(self) -> int:
        """Rows."""
        return self.plan.rows.shape[0] * self.plan.rows.shape[2]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the logits."""
        return tuple(self.logits.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits."""
        return self.logits.dtype

    def take(self, positions: Sequence[int], reduction: str) -> "Call":
        """The same call on these rows alone, as ``(n, V)``."""
        at = torch.as_tensor(positions, dtype=torch.int64, device=self.logits.device)
        inner = max(self.plan.rows.shape[2], 1)
        outer, column = at // inner, at % inner
        logits = self.plan.rows[outer, :, column]
        target = self.plan.target[outer, :, column] if self.plan.soft else self.plan.target.reshape(-1)[at]
        return part(self, at, logits, target, reduction)


def part(whole: Any, at: Tensor, logits: Tensor, target: Tensor, reduction: str, product: Product | None = None):
    """The call on the rows at these positions of `whole`, with every option."""
    plan, token = whole.plan, whole.plan.sums.token_weight
    sums = Sums(
        reduction,
        None if token is None else token.reshape(-1)[at],
        plan.sums.num_items if reduction == "mean" else None,
        plan.sums.all_ignored,
    )
    settled = _plan.loss(logits, target, whole.weight, plan.ignore_index, sums, plan.smoothing, plan.shaping)
    index = None if whole.index is None else whole.index.reshape(-1)[at]
    return Call(logits, target, whole.weight, replace(settled, dtype=plan.dtype), index, product)


def ask(
    logits: Any,
    target: Any,
    weight: Any,
    ignore_index: Any,
    reduction: Any,
    label_smoothing: Any,
    *,
    token_weight: Any = None,
    num_items: Any = None,
    all_ignored: Any = "nan",
    dim: Any = None,
    shift: Any = 0,
    softcap: Any = None,
    logit_scale: Any = 1.0,
    z_loss: Any = 0.0,
) -> Call:
    """Through the door of `xent.cross_entropy`, arrays and lists included."""
    logits, target, weight, token_weight = (detached(value) for value in (logits, target, weight, token_weight))
    if dim is not None:
        logits, target = classes_to_torchs_place(logits, target, dim)
    _check.loss(logits, target, weight, "logits")
    ignored = _check.ignore_index(ignore_index)
    soft = target.shape == logits.shape
    if soft:
        _check.probabilities(logits, target, ignored)
    else:
        _check.indices(logits, target)
    shift = _check.shift(shift, target)
    smoothing = _check.label_smoothing(label_smoothing)
    labels = shape_of_labels(logits)
    sums = _plan.sums(logits, labels, _check.reduction(reduction), token_weight, num_items, all_ignored, None, shift)
    target = _plan.moved(target, shift, ignored) if shift else target
    shaping = shaped(logits, softcap, logit_scale, z_loss)
    plan = _plan.loss(logits, target, weight, ignored, sums, smoothing, shaping)
    index = None if soft else _check.labels(target, plan.classes, ignored).reshape(plan.shape)
    return Call(logits, target, weight, plan, index)


def shaped(logits: Tensor, softcap: Any, logit_scale: Any, z_loss: Any) -> Shaping:
    """What is done to the logits, with plain numbers."""
    scale = logit_scale.detach() if isinstance(logit_scale, Tensor) else logit_scale
    settled = _plan.shaping(logits, softcap, scale, z_loss) or Shaping()
    return replace(settled, scale=float(settled.scale))


def detached(value: Any) -> Any:
    """A tensor that no gradient flows through, of whatever an array is made of."""
    if value is None:
        return None
    return value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)
