"""explain: the notebooks' walk on the caller's own tensors."""

import math
from collections.abc import Sequence
from typing import Any

from ..errors import ArgumentError, OptionError
from . import cautions, exact, routes, row, survey
from .call import Call, ask
from .derivation import Derivation, Exact, Reduction, Row
from .survey import Survey

SHOWN_WHOLE = 5
"""Up to so many rows are all shown."""
WORST = 3
"""Of more rows, so many of highest loss."""
ROUTE_LIMIT = 1 << 20
"""Logits that the routes may be computed on: nine routes with a few copies each, under a second in all."""

Rows = int | tuple[int, ...] | list[int | tuple[int, ...]] | str


def explain(
    logits: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    rows: Rows | None = None,
    top: int | None = None,
    labels: Sequence[str] | None = None,
) -> Derivation:
    r"""How a cross-entropy comes about, step by step, on your own tensors.

    For each row shown: the peak :math:`m`, the exponentials :math:`e^{z_j - m}`, their sum :math:`1 + r`, the
    probabilities, the picked one, its surprise :math:`\log(1 + r) - (z_y - m)`, and the gradient

    .. math:: \frac{\partial L}{\partial z_j} = \frac{1}{D}\Big(p_j \sum_k a_k - a_j\Big), \qquad
              a_j = w_j\big((1 - e)\, q_j + e / V\big)

    with :math:`D` what the reduction divides by. Then the reduction, and the same number by every route.

    Shape:
        `logits`, `target`, `weight` as :func:`xent.cross_entropy`; arrays and lists are taken too. Beyond
        5 rows the 3 of highest loss are shown, beyond 12 classes the 5 of highest logit and the target.
        `rows` is a position, a tuple that indexes the labels, a list of these, ``"all"`` or ``"worst"``;
        `top` a number of classes; `labels` the ``V`` names of the classes.

    Dtypes: as :func:`xent.cross_entropy`. The numbers of a row are float64, in nats; the routes run in the
    dtype of the logits. Beyond 1,048,576 logits the routes are taken over the rows shown only; up to 65,536
    the exact value has 50 digits, beyond that it is float64 with compensated sums.

    Raises:
        OptionError: `rows` has no such row, `top` is negative, `labels` are not ``V``.
        XentError: what :func:`xent.cross_entropy` raises, for the same reasons.

    Source: both source notebooks.

    Example:
        >>> derivation = xent.explain(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))
        >>> derivation
        Derivation: loss 2.06115362e-09 nats (mean of 1 × 2 logits, float32)
          worst row shown: [0], target 0, loss 2.06115e-09
        >>> [(route.name, route.status) for route in derivation.routes][4::3]
        [('F.cross_entropy', 'underflow'), ('xent.cross_entropy', 'ok')]
    """
    call = ask(logits, target, weight, ignore_index, reduction, label_smoothing)
    _options(call, top, labels)
    facts = survey.take(call)
    positions, selection = _selected(rows, call, facts)
    judged, scope = _scope(call, facts, positions)
    truth = exact.evaluate(judged)
    settled = _reduction(call, facts, truth if judged is call else None)
    scale = 1.0 if reduction != "mean" else 1.0 / settled.divisor if settled.divisor else math.nan
    shown = tuple(_row(call, facts, at, scale, top, labels) for at in positions)
    return Derivation(
        loss=_loss(call, settled, truth if judged is call else None),
        shape=tuple(call.logits.shape),
        dtype=str(call.logits.dtype).removeprefix("torch."),
        classes=call.plan.classes,
        soft=call.plan.soft,
        weighted=call.weight is not None,
        label_smoothing=call.plan.smoothing,
        ignore_index=call.plan.ignore_index,
        rows=shown,
        selection=selection,
        reduction=settled,
        exact=truth,
        routes=routes.compare(judged, truth),
        scope=scope,
        cautions=cautions.look(call, facts),
    )


def _options(call: Call, top: int | None, labels: Sequence[str] | None) -> None:
    if top is not None and (not isinstance(top, int) or top < 0):
        raise OptionError(f"top must be a number of classes, 0 or more, got {top!r}.")
    if labels is not None and len(labels) != call.plan.classes:
        raise OptionError(
            f"labels has {len(labels):,} names; the logits have {call.plan.classes:,} classes.\n"
            "  Give one name a class, in their order."
        )


def _selected(rows: Rows | None, call: Call, facts: Survey) -> tuple[list[int], str]:
    """Positions of the rows to show, and which these are in words."""
    count = call.count if call.plan.classes else 0
    if rows == "all" or (rows is None and count <= SHOWN_WHOLE):
        return list(range(count)), "all rows"
    if rows is None or rows == "worst":
        positions = facts.worst(min(WORST, count))
        return positions, f"the {len(positions)} of highest loss, of {count:,} rows"
    if isinstance(rows, str):
        raise OptionError(f"rows={rows!r} is not a selection; expected 'all', 'worst', a row or a list of rows.")
    wanted = [rows] if isinstance(rows, (int, tuple)) else list(rows)
    return [_position(at, call) for at in wanted], f"{len(wanted)} asked for, of {count:,} rows"


def _position(at: int | tuple[int, ...], call: Call) -> int:
    shape = tuple(call.plan.shape)
    if isinstance(at, int):
        if -call.count <= at < call.count:
            return at % call.count
        raise OptionError(f"row {at} does not exist: there are {call.count:,} rows.")
    if not isinstance(at, tuple):
        raise ArgumentError(f"a row is a position or a tuple, got {type(at).__name__} ({at!r}).")
    if len(at) != len(shape) or any(not -size <= i < size for i, size in zip(at, shape, strict=True)):
        raise OptionError(f"row {at} does not exist: the labels have shape {shape}.")
    position = 0
    for i, size in zip(at, shape, strict=True):
        position = position * size + i % size
    return position


def _scope(call: Call, facts: Survey, positions: list[int]) -> tuple[Call, str]:
    """What the routes are compared on: one number, and not too much work."""
    plan = call.plan
    if plan.reduction == "none":
        worst = facts.worst(1)
        return call.take(worst, "sum"), f"row {worst[0]} alone" if worst else "no rows"
    if plan.rows.numel() <= ROUTE_LIMIT:
        return call, "all rows"
    fitting = max(1, ROUTE_LIMIT // plan.classes)
    chosen = positions[:fitting] or facts.worst(min(WORST, fitting))
    return call.take(chosen, plan.reduction), f"{len(chosen)} of the rows shown"


def _reduction(call: Call, facts: Survey, truth: Exact | None) -> Reduction:
    plan = call.plan
    kept = int(facts.kept.sum())
    mean = plan.reduction == "mean"
    if not mean:
        divisor, formula = 1.0, "a sum divides by nothing" if plan.reduction == "sum" else "nothing is reduced"
    elif plan.soft:
        divisor, formula = float(call.count), "the number of rows, whatever their weights"
    else:
        divisor = float(facts.mass.sum())
        formula = "Σ w[target] over the rows kept" if call.weight is not None else "the number of rows kept"
    total = truth.value * divisor if truth is not None and divisor else float(facts.loss.sum())
    return Reduction(plan.reduction, call.count, call.count - kept, total, divisor, formula)


def _loss(call: Call, reduction: Reduction, truth: Exact | None) -> float | None:
    if call.plan.reduction == "none":
        return None
    if truth is not None:
        return truth.value
    return reduction.total / reduction.divisor if reduction.divisor else math.nan


def _row(call: Call, facts: Survey, at: int, scale: float, top: int | None, labels: Sequence[str] | None) -> Row:
    if not bool(facts.kept[at]):
        return row.ignored(call, at)
    return row.explained(call, at, scale, top, labels)
