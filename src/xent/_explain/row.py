"""One row in full: its facts from the backend, its classes, its gradient in closed form."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .. import _algebra, backends
from ..functional import log_softmax, softmax
from ..summary import RowSummary
from .call import Call
from .derivation import Entry, Others, Row
from .steps import Facts, steps_of, terms_of

FEW = 12
"""Up to this many classes a row is shown whole, in the order of the classes."""
TOP = 5
"""Classes of highest logit shown of a longer row."""


def ignored(call: Call, position: int) -> Row:
    """A row that adds nothing and is not looked at."""
    index = _index(call, position)
    ignore = call.plan.ignore_index
    terms = terms_of(None, ignore)
    return Row(position, index, ignore, True, call.plan.classes, 0.0, 0.0, 0.0, 0.0, (), None, (), terms)


def explained(call: Call, position: int, scale: float, top: int | None, labels: Sequence[str] | None) -> Row:
    """The row at `position`; its gradient is `scale` times that of its own loss."""
    one = call.take([position], "sum")
    x = one.logits.to(torch.float64)
    columns, facts = _columns(one, x, scale)
    label = None if one.index is None else int(one.index)
    target = label if label is not None else _favourite(columns["asked"])
    shown = _shown(x[0], target, top)
    entries = tuple(_entry(columns, j, target, labels) for j in shown)
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
        entries,
        _others(columns, shown, facts.peak),
        steps_of(facts, picked),
        terms_of(facts, None),
    )


def _columns(one: Call, x: Tensor, scale: float) -> tuple[dict[str, Tensor], Facts]:
    """Everything there is to say about each class, ``(V,)`` each, and about the row."""
    plan = one.plan
    target = one.target.reshape(1, -1, 1).double() if plan.soft else one.target
    weight = None if one.weight is None else one.weight.to(torch.float64)
    backend = backends.choose(x.device)
    rows = x.unsqueeze(2)
    summary = backend.row_summary(rows, target, weight, plan.ignore_index, plan.smoothing > 0)
    facts = _facts(one, summary, weight, scale)
    spread = torch.ones_like(x[0]) if weight is None else weight
    own = target.reshape(-1) if one.index is None else one_hot(one.index, plan.classes)[0].double()
    upstream, none = torch.full_like(summary.peak, scale), torch.zeros_like(summary.peak)
    gradient = backend.row_grad(
        rows,
        target,
        weight,
        plan.ignore_index,
        summary.peak,
        summary.rest,
        _algebra.loss(upstream, none, plan.smoothing, plan.classes),
        _algebra.loss(none, upstream, plan.smoothing, plan.classes) if plan.smoothing > 0 else None,
    )
    columns = {
        "logit": x[0],
        "exponential": (x[0] - facts.peak).exp(),
        "probability": softmax(x, dim=1)[0],
        "log_probability": log_softmax(x, dim=1)[0],
        "asked": _algebra.loss(own * spread, spread, plan.smoothing, plan.classes),
        "gradient": gradient.reshape(-1),
    }
    return columns, facts


def _facts(one: Call, summary: RowSummary, weight: Tensor | None, scale: float) -> Facts:
    plan = one.plan
    weight_sum = plan.classes if weight is None else _algebra.exact_sum(weight)
    hard = _algebra.hard(summary.mass, summary.rest, summary.picked)
    smooth = _algebra.smooth(weight_sum, summary.rest, summary.mix)
    loss = _algebra.loss(hard, smooth if plan.smoothing > 0 else None, plan.smoothing, plan.classes)
    return Facts(
        peak=float(summary.peak),
        rest=float(summary.rest),
        hard=float(hard),
        smooth=float(smooth),
        loss=float(loss),
        weight=None if weight is None or one.index is None else float(weight[one.index]),
        smoothing=plan.smoothing,
        classes=plan.classes,
        soft=plan.soft,
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


def _entry(columns: dict[str, Tensor], j: int, target: int | None, labels: Sequence[str] | None) -> Entry:
    values = {name: float(column[j]) for name, column in columns.items()}
    rank = 1 + int((columns["logit"] > values["logit"]).sum())
    return Entry(index=j, label=labels[j] if labels else None, rank=rank, target=j == target, **values)


def _others(columns: dict[str, Tensor], shown: list[int], peak: float) -> Others | None:
    hidden = torch.ones_like(columns["logit"], dtype=torch.bool)
    hidden[shown] = False
    count = int(hidden.sum())
    if count == 0:
        return None
    part = {name: column[hidden] for name, column in columns.items()}
    sums = {name: float(part[name].sum()) for name in ("exponential", "probability", "asked", "gradient")}
    return Others(
        count=count,
        max_logit=float(part["logit"].amax()),
        exponentials=sums["exponential"],
        logsumexp=float(torch.logsumexp(part["logit"], 0)),
        probability=sums["probability"],
        asked=sums["asked"],
        gradient=sums["gradient"],
    )


def _index(call: Call, position: int) -> tuple[int, ...]:
    index = []
    for size in reversed(call.plan.shape):
        position, at = divmod(position, size)
        index.append(at)
    return tuple(reversed(index))
