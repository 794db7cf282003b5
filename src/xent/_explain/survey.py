"""The facts of every row in one lean pass, to find the rows worth a walk.

The native kernels sum float32 exponentials, good to 9 digits where the page shows 11; the reference keeps
promises that a survey need not make (the same bits for any layout, compensated float64) and takes longer.
The sums of this pass are good to about 14 digits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _algebra
from .._plan import Plan
from .call import Call

BLOCK = 1 << 19
"""Logits of a block: 4 MB in float64."""


@dataclass(frozen=True, slots=True)
class Survey:
    """One number a row, float64, in the order of the labels."""

    loss: Tensor
    mass: Tensor
    """What the row adds to the divisor of a mean over labels; 0 where ignored."""
    kept: Tensor
    """Neither ignored nor of token weight 0."""
    peak: Tensor
    logsumexp: Tensor
    low: Tensor
    """The smallest logit."""
    total: Tensor
    """Sum of the logits where they all lie in 0 ... 1, nan elsewhere."""
    asked_low: Tensor | None
    asked_total: Tensor | None
    """The smallest entry and the sum of a distribution."""

    def worst(self, count: int) -> list[int]:
        """The kept rows of highest loss, nan first; ignored rows where nothing else is left."""
        rank = self.loss.nan_to_num(nan=float("inf"), posinf=1.7e308).masked_fill(~self.kept, -1.0)
        return rank.sort(descending=True, stable=True).indices[:count].tolist()


def take(call: Call) -> Survey:
    """Survey every row of `call`."""
    plan = call.plan
    outer, classes, inner = plan.rows.shape
    index = None if call.index is None else call.index.reshape(outer, inner)
    facts = torch.zeros(9, outer, inner, dtype=torch.float64, device=plan.rows.device)
    if classes:
        scratch = torch.empty(0, dtype=torch.float64, device=plan.rows.device)
        for at in _blocks(plan):
            facts[:, at[0], at[1]] = _facts(plan, index, at, scratch)
    peak, rest, picked, mass, mix, low, total, asked_low, asked_total = facts
    factor = _factor(plan, mass)
    kept = factor != 0 if index is None else (index >= 0) & (factor != 0)
    loss = (_losses(plan, peak, rest, picked, mass, mix) * factor).where(kept, 0.0)
    rows = (loss, (mass * factor).where(kept, 0.0), kept, peak, peak + rest.log1p(), low, total)
    loss, mass, kept, peak, logsumexp, low, total = (fact.reshape(-1) for fact in rows)
    asked = (asked_low.reshape(-1), asked_total.reshape(-1)) if plan.soft else (None, None)
    return Survey(loss, mass, kept, peak, logsumexp, low, total, *asked)


def _factor(plan: Plan, like: Tensor) -> Tensor:
    token = plan.sums.token_weight
    return torch.ones_like(like) if token is None else token.to(torch.float64).reshape(like.shape)


def _losses(plan: Plan, peak: Tensor, rest: Tensor, picked: Tensor, mass: Tensor, mix: Tensor) -> Tensor:
    """Of every row, before its token weight."""
    classes = plan.classes
    weight_sum = classes if plan.class_weight is None else float(plan.class_weight.to(torch.float64).sum())
    smooth = _algebra.smooth(weight_sum, rest, mix) if plan.smoothing > 0 else None
    losses = _algebra.loss(_algebra.hard(mass, rest, picked), smooth, plan.smoothing, classes)
    z = plan.shaping.z_loss if plan.shaping else 0.0
    return losses + _algebra.z(z, _algebra.lse(peak, rest)) if z else losses


def _blocks(plan: Plan) -> Iterator[tuple[slice, slice]]:
    outer, classes, inner = plan.rows.shape
    wide = max(1, min(inner, BLOCK // classes))
    high = max(1, BLOCK // (classes * wide))
    for o in range(0, outer, high):
        for i in range(0, inner, wide):
            yield slice(o, o + high), slice(i, i + wide)


def _facts(plan: Plan, index: Tensor | None, at: tuple[slice, slice], scratch: Tensor) -> Tensor:
    """The nine facts of a block of rows, stacked."""
    rows, shaping = plan.rows[at[0], :, at[1]], plan.shaping
    moves = shaping is not None and shaping.moves
    if shaping is not None and moves:
        rows = _algebra.shaped(rows.double(), shaping.softcap, shaping.scale)
    weight = None if plan.class_weight is None else plan.class_weight.to(torch.float64).reshape(1, -1, 1)
    low, peak = rows.amin(1).double(), rows.amax(1).double()
    unit = not moves and bool(((low >= 0) & (peak <= 2)).any())
    total = rows.sum(1, dtype=torch.float64) if unit else torch.full_like(peak, float("nan"))
    shifted = torch.sub(rows, peak.unsqueeze(1), out=scratch.resize_(rows.shape))
    none = torch.zeros_like(peak)
    mix = _weighted_sum(weight, shifted) if plan.smoothing > 0 else none
    if index is None:
        q = plan.target[at[0], :, at[1]].to(torch.float64)
        asked = q if weight is None else q * weight
        picked, mass = _weighted_sum(asked, shifted), asked.sum(1)
        return torch.stack((peak, _rest(shifted), picked, mass, mix, low, total, q.amin(1), q.sum(1)))
    label = index[at].clamp_min(0)
    mass = torch.ones_like(peak) if weight is None else weight.reshape(-1)[label]
    mass = mass.where(index[at] >= 0, 0.0)
    picked = (mass * shifted.gather(1, label.unsqueeze(1)).squeeze(1)).where(mass != 0, 0.0)
    return torch.stack((peak, _rest(shifted), picked, mass, mix, low, total, none, none))


def _weighted_sum(factor: Tensor | None, values: Tensor) -> Tensor:
    if factor is None:
        return values.sum(1)
    return (factor * values).where(factor != 0, 0.0).sum(1)


def _rest(shifted: Tensor) -> Tensor:
    """``sum exp`` without one occurrence of the peak; consumes `shifted`. Taking 1 from the sum is
    free and costs digits only below 2: there the entries equal to 1 are left out of it instead."""
    exp = shifted.exp_()
    whole = exp.sum(1)
    if bool((whole >= 2).all()):
        return whole - 1
    top = exp == 1
    careful = exp.masked_fill_(top, 0.0).sum(1) + (top.sum(1) - 1)
    return careful.where(whole.isfinite(), whole)
