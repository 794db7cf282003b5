"""One row in full: its facts from the backend, its classes, its gradient in closed form."""

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .. import _algebra, backends
from .._plan import Plan, Shaping
from ..functional import log_softmax, softmax
from ..summary import RowSummary
from .call import Call
from .head import HeadCall
from .names import Name
from .parts import Crowd, Entry, Others, Row
from .steps import Facts, head_step, steps_of, terms_of

FEW = 12
"""Up to this many classes a row is shown whole, in the order of the classes."""
TOP = 5
"""Classes of highest logit shown of a longer row."""
TEMPERATURES = tuple(2.0 ** (k / 4) for k in range(-8, 9))
"""A quarter to 4, at which the classes not shown are summed up, for whoever wants to see another temperature."""


def ignored(call: Call | HeadCall, position: int) -> Row:
    """A row that adds nothing and is not looked at."""
    plan, index = call.plan, _index(call, position)
    label = None if call.index is None else int(call.index.reshape(-1)[position])
    token = _token(call, position)
    target = plan.ignore_index if label == -1 else label
    terms = terms_of(None, plan.ignore_index if label == -1 else None)
    return Row(position, index, target, True, plan.classes, 0.0, 0.0, 0.0, 0.0, token, (), None, (), terms)


def explained(call: Call | HeadCall, position: int, scale: float, top: int | None, name: Name | None) -> Row:
    """The row at `position`; its gradient is `scale` times that of its own loss."""
    one, token = call.take([position], "sum"), _token(call, position)
    columns, facts = _columns(one, one.logits.to(torch.float64), scale, token)
    label = None if one.index is None else int(one.index)
    target = label if label is not None else _favourite(columns["asked"])
    shown = _shown(columns["logit"], target, top)
    entries = tuple(_entry(columns, j, target, name) for j in shown)
    picked = next((entry for entry in entries if entry.target), None)
    return Row(
        position,
        _index(call, position),
        target,
        False,
        facts.classes,
        facts.peak,
        facts.rest,
        facts.peak + math.log1p(facts.rest) if facts.rest > -1 else math.nan,
        facts.loss,
        token,
        entries,
        _others(columns, shown, facts),
        (*head_step(one.product, picked), *steps_of(facts, picked)),
        terms_of(facts, None),
    )


def _token(call: Call | HeadCall, position: int) -> float:
    token = call.plan.sums.token_weight
    return 1.0 if token is None else float(token.reshape(-1)[position])


def _columns(one: Call, z: Tensor, scale: float, token: float) -> tuple[dict[str, Tensor], Facts]:
    """Everything there is to say about each class, ``(V,)`` each, and about the row."""
    plan, shaping = one.plan, one.plan.shaping or Shaping()
    target = one.target.reshape(1, -1, 1).double() if plan.soft else one.target
    weight = None if one.weight is None else one.weight.to(torch.float64)
    x, slope = z, torch.ones_like(z)
    if shaping.moves:
        x = _algebra.shaped(z, shaping.softcap, shaping.scale)
        slope = slope * _algebra.shaped_slope(z, shaping.softcap, float(shaping.scale), z)
    rows = x.unsqueeze(2)
    summary = backends.choose(x.device).row_summary(rows, target, weight, plan.ignore_index, plan.smoothing > 0)
    facts = _facts(one, summary, weight, scale, token)
    spread = torch.ones_like(x[0]) if weight is None else weight
    own = target.reshape(-1) if one.index is None else one_hot(one.index.reshape(-1), plan.classes)[0].double()
    probability = softmax(x, dim=1)[0]
    gradient = _gradient(rows, target, weight, plan, summary, scale * token)
    if shaping.z_loss:
        gradient = gradient + 2 * shaping.z_loss * facts.logsumexp * scale * token * probability
    columns = {
        "logit": z[0],
        "shaped": x[0],
        "exponential": (x[0] - facts.peak).exp(),
        "probability": probability,
        "log_probability": log_softmax(x, dim=1)[0],
        "share": own,
        "weight": spread,
        "asked": _algebra.loss(own * spread, spread, plan.smoothing, plan.classes),
        "gradient": gradient * slope[0],
    }
    return columns, facts


def _gradient(
    rows: Tensor, target: Tensor, weight: Tensor | None, plan: Plan, summary: RowSummary, upstream: float
) -> Tensor:
    """Of the surprise with respect to the logits that it is of."""
    ours, none = torch.full_like(summary.peak, upstream), torch.zeros_like(summary.peak)
    return (
        backends.choose(rows.device)
        .row_grad(
            rows,
            target,
            weight,
            plan.ignore_index,
            summary.peak,
            summary.rest,
            _algebra.loss(ours, none, plan.smoothing, plan.classes),
            _algebra.loss(none, ours, plan.smoothing, plan.classes) if plan.smoothing > 0 else None,
        )
        .reshape(-1)
    )


def _facts(one: Call, summary: RowSummary, weight: Tensor | None, scale: float, token: float) -> Facts:
    plan, shaping = one.plan, one.plan.shaping or Shaping()
    weight_sum = plan.classes if weight is None else _algebra.exact_sum(weight)
    hard = _algebra.hard(summary.mass, summary.rest, summary.picked)
    smooth = _algebra.smooth(weight_sum, summary.rest, summary.mix)
    loss = _algebra.loss(hard, smooth if plan.smoothing > 0 else None, plan.smoothing, plan.classes)
    z_loss = _algebra.z(shaping.z_loss, _algebra.lse(summary.peak, summary.rest)) if shaping.z_loss else 0.0
    return Facts(
        peak=float(summary.peak),
        rest=float(summary.rest),
        hard=float(hard),
        smooth=float(smooth),
        loss=float((loss + z_loss) * token),
        weight=None if weight is None or one.index is None else float(weight[one.index]),
        smoothing=plan.smoothing,
        classes=plan.classes,
        soft=plan.soft,
        shaping=shaping,
        z_loss=float(z_loss),
        token=token,
        weighted_rows=plan.sums.token_weight is not None,
        scale=scale,
    )


def _favourite(asked: Tensor) -> int | None:
    """The class that a distribution asks most of."""
    return int(asked.argmax()) if bool((asked != 0).any()) else None


def _shown(x: Tensor, target: int | None, top: int | None) -> list[int]:
    """All classes in their own order, or the highest by logit and the target."""
    count = min(TOP if x.numel() > FEW else FEW, x.numel()) if top is None else min(top, x.numel())
    if count == x.numel():
        return list(range(count))
    shown = x.sort(descending=True, stable=True).indices[:count].tolist()
    return shown if target is None or target in shown else [*shown, target]


def _entry(columns: dict[str, Tensor], j: int, target: int | None, name: Name | None) -> Entry:
    values = {column: float(of_class[j]) for column, of_class in columns.items()}
    rank = 1 + int((columns["logit"] > values["logit"]).sum())
    return Entry(index=j, label=name(j) if name else None, rank=rank, target=j == target, **values)


def _others(columns: dict[str, Tensor], shown: list[int], facts: Facts) -> Others | None:
    hidden = torch.ones_like(columns["logit"], dtype=torch.bool)
    hidden[shown] = False
    count = int(hidden.sum())
    if count == 0:
        return None
    part = {name: column[hidden] for name, column in columns.items()}
    pull = part["share"] * part["weight"]
    sums = {name: float(part[name].sum()) for name in ("exponential", "probability", "asked", "gradient", "weight")}
    return Others(
        count=count,
        max_logit=float(part["logit"].amax()),
        max_shaped=float(part["shaped"].amax()),
        exponentials=sums["exponential"],
        logsumexp=float(torch.logsumexp(part["shaped"], 0)),
        probability=sums["probability"],
        asked=sums["asked"],
        gradient=sums["gradient"],
        weights=sums["weight"],
        shares=float(pull.sum()),
        crowds=tuple(_crowd(part, pull, facts.shaping, temperature) for temperature in TEMPERATURES),
    )


def _crowd(part: dict[str, Tensor], pull: Tensor, shaping: Shaping, temperature: float) -> Crowd:
    x = part["shaped"]
    if temperature != 1.0:
        x = _algebra.shaped(part["logit"], shaping.softcap, float(shaping.scale) / temperature)
    logsumexp = torch.logsumexp(x, 0)
    below = torch.where(x == logsumexp, 0.0, logsumexp - x)  # -inf less -inf
    exponentials = (x - x.amax()).exp()
    exponentials[x.argmax()] = 0.0
    weighted, shared = (float((a * below).where(a != 0, 0.0).sum()) for a in (part["weight"], pull))
    return Crowd(temperature, float(logsumexp), float(exponentials.sum()), weighted, shared)


def _index(call: Call | HeadCall, position: int) -> tuple[int, ...]:
    index = []
    for size in reversed(call.plan.shape):
        position, at = divmod(position, size)
        index.append(at)
    return tuple(reversed(index))
