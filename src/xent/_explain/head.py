"""A linear head to explain: every row's loss in a pass of tiles, logits for the rows asked for alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _check, _check_head, _plan
from .._plan import LinearPlan
from ..linear import linear_cross_entropy
from .call import Call, Product, detached, part, shaped
from .survey import Survey


@dataclass(frozen=True, slots=True)
class HeadCall:
    """As `Call`, before there are logits. Row ``n K + k`` is that of the hidden state ``n`` and the place ``k``."""

    target: Tensor
    """``(N, K)``, or ``(N, V, K)`` for a distribution."""
    weight: Tensor | None
    plan: LinearPlan
    index: Tensor | None

    @property
    def count(self) -> int:
        """Rows."""
        return self.plan.hidden.shape[0] * self.plan.weight.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the logits, were they there."""
        return (self.count, self.plan.classes)

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits."""
        return self.plan.hidden.dtype

    def take(self, positions: Sequence[int], reduction: str) -> Call:
        """The logits of these rows, as `torch.nn.functional.linear` makes them."""
        plan, places = self.plan, self.plan.weight.shape[1]
        at = torch.as_tensor(positions, dtype=torch.int64, device=plan.hidden.device)
        row, place = at // places, at % places
        hidden = plan.hidden[row]
        logits = hidden.new_empty(len(at), plan.classes)
        for k in place.unique().tolist():
            bias = None if plan.bias is None else plan.bias[:, k]
            logits[place == k] = F.linear(hidden[place == k], plan.weight[:, k], bias)
        target = plan.target[row, :, place] if plan.soft else plan.target[row, place]
        bias = None if plan.bias is None else plan.bias[:, 0]
        product = Product(hidden, plan.weight[:, 0], bias) if places == 1 else None
        return part(self, at, logits, target, reduction, product)


def ask(
    hidden: Any,
    linear_weight: Any,
    linear_bias: Any,
    target: Any,
    weight: Any,
    ignore_index: Any,
    reduction: Any,
    label_smoothing: Any,
    *,
    token_weight: Any,
    num_items: Any,
    all_ignored: Any,
    shift: Any,
    softcap: Any,
    logit_scale: Any,
    z_loss: Any,
) -> HeadCall:
    """Through the door of `xent.linear_cross_entropy`."""
    tensors = (hidden, linear_weight, linear_bias, target, weight, token_weight)
    hidden, linear_weight, linear_bias, target, weight, token_weight = map(detached, tensors)
    _check_head.linear(hidden, linear_weight, linear_bias, target, weight)
    ignored = _check.ignore_index(ignore_index)
    _check_head.linear_target(hidden, linear_weight, target, ignored)
    reduction, shift = _check.reduction(reduction), _check.shift(shift, target)
    shape = hidden.shape[:-1] + linear_weight.shape[1:-1]
    sums = _plan.sums(hidden, shape, reduction, token_weight, num_items, all_ignored, None, shift)
    target = _plan.moved(target, shift, ignored) if shift else target
    smoothing, shaping = _check.label_smoothing(label_smoothing), shaped(hidden, softcap, logit_scale, z_loss)
    plan = _plan.linear(hidden, linear_weight, linear_bias, target, weight, ignored, sums, smoothing, None, shaping)
    index = None if plan.soft else _check.labels(plan.target, plan.classes, ignored)
    return HeadCall(plan.target, weight, plan, index)


def survey(call: HeadCall) -> Survey:
    """The loss of every row; of the logits nothing else is known, so what a survey tells of them is nan."""
    plan, token = call.plan, call.plan.sums.token_weight
    losses = linear_cross_entropy(
        plan.hidden,
        plan.weight,
        plan.target,
        linear_bias=plan.bias,
        weight=call.weight,
        ignore_index=plan.ignore_index,
        reduction="none",
        label_smoothing=plan.smoothing,
        token_weight=None if token is None else token.reshape(len(plan.hidden), -1),
        dtype=torch.float64,
        softcap=plan.shaping.softcap if plan.shaping else None,
        logit_scale=plan.shaping.scale if plan.shaping else 1.0,
        z_loss=plan.shaping.z_loss if plan.shaping else 0.0,
    ).reshape(-1)
    spread = losses.new_ones(plan.classes) if call.weight is None else call.weight.to(torch.float64)
    factor = torch.ones_like(losses) if token is None else token.to(torch.float64).reshape(-1)
    unknown = torch.full_like(losses, float("nan"))
    if call.index is None:
        asked = plan.target.to(torch.float64).movedim(1, -1).reshape(len(losses), plan.classes)
        low = asked.amin(1) if plan.classes else unknown
        mass, kept, distribution = asked @ spread, factor != 0, (low, asked.sum(1))
    else:
        label = call.index.reshape(-1)
        mass, kept, distribution = spread[label.clamp_min(0)], (label >= 0) & (factor != 0), (None, None)
    mass = (mass * factor).where(kept, 0.0)
    return Survey(losses.where(kept, 0.0), mass, kept, unknown, unknown, unknown, unknown, *distribution)
