"""explain: the notebooks' walk on the caller's own tensors."""

from typing import Any

import torch

from .._plan import Shaping
from ..errors import ArgumentError, OptionError
from . import cautions, exact, head, names, routes, row, survey
from .call import Call, ask
from .derivation import Derivation
from .head import HeadCall
from .names import Name
from .parts import Exact, Reduction, Row
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
    linear_weight: Any = None,
    linear_bias: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    token_weight: Any = None,
    num_items: Any = None,
    all_ignored: str = "nan",
    dim: int | None = None,
    shift: int = 0,
    softcap: float | None = None,
    logit_scale: Any = 1.0,
    z_loss: float = 0.0,
    rows: Rows | None = None,
    top: int | None = None,
    labels: Any = None,
) -> Derivation:
    r"""How a cross-entropy comes about, step by step, on your own tensors.

    For each row shown: the peak :math:`m`, the exponentials :math:`e^{z_j - m}`, their sum :math:`1 + r`, the
    probabilities, the picked one, its surprise :math:`\log(1 + r) - (z_y - m)`, and the gradient

    .. math:: \frac{\partial L}{\partial z_j} = \frac{1}{D}\Big(p_j \sum_k a_k - a_j\Big), \qquad
              a_j = w_j\big((1 - e)\, q_j + e / V\big)

    with :math:`D` what the reduction divides by. Then the reduction, and the same number by every route. Each option of
    the loss that is given shows as a step or a term of its own.

    With `linear_weight` the first argument is hidden states: the loss is that of :func:`xent.linear_cross_entropy`, in
    a pass of its tiles, and logits are made of the rows shown alone. It is not called `weight`, which is one number a
    class here as everywhere in torch.

    Shape:
        `logits`, `target`, `weight` and the options as :func:`xent.cross_entropy`; with a head `logits`,
        `linear_weight`, `linear_bias` and `target` as :func:`xent.linear_cross_entropy`; arrays and lists are taken
        too. Beyond 5 rows the 3 of highest loss are shown, beyond 12 classes the 5 of highest logit and the target.
        `rows` is a position, a tuple that indexes the labels, a list of these, ``"all"`` or ``"worst"``; `top` a number
        of classes; `labels` the ``V`` names of the classes, or a tokenizer (``convert_ids_to_tokens`` or ``decode``).

    Dtypes: as :func:`xent.cross_entropy`. The numbers of a row are float64, in nats; the routes run in the
    dtype of the logits. Beyond 1,048,576 logits the routes are taken over the rows shown only; up to 65,536
    the exact value has 50 digits, beyond that it is float64 with compensated sums.

    Raises:
        OptionError: `rows` has no such row, `top` is negative, `labels` are not ``V``; `linear_bias` without
            `linear_weight`, `dim` with it; and what :func:`xent.cross_entropy` raises, for the same reasons.
        ArgumentError: `labels` are neither names nor a tokenizer.

    Source: both source notebooks.

    Example:
        >>> derivation = xent.explain(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))
        >>> derivation
        Derivation: loss 2.06115362e-09 nats (mean of 1 × 2 logits, float32)
          worst row shown: [0], target 0, loss 2.06115e-09
        >>> [(route.name, route.status) for route in derivation.routes][4::3]
        [('F.cross_entropy', 'underflow'), ('xent.cross_entropy', 'ok')]
    """
    options: dict[str, Any] = {"token_weight": token_weight, "num_items": num_items, "all_ignored": all_ignored}
    options |= {"shift": shift, "softcap": softcap, "logit_scale": logit_scale, "z_loss": z_loss}
    asked = (target, weight, ignore_index, reduction, label_smoothing)
    if linear_weight is None and linear_bias is None:
        call = ask(logits, *asked, dim=dim, **options)
        facts = survey.take(call)
    else:
        _head_options(linear_weight, dim)
        call = head.ask(logits, linear_weight, linear_bias, *asked, **options)
        facts = head.survey(call)
    return _derived(call, facts, rows, top, names.of(labels, call.plan.classes))


def _derived(call: Call | HeadCall, facts: Survey, rows: Rows | None, top: int | None, name: Name | None) -> Derivation:
    if top is not None and (not isinstance(top, int) or top < 0):
        raise OptionError(f"top must be a number of classes, 0 or more, got {top!r}.")
    plan, shaping = call.plan, call.plan.shaping or Shaping()
    positions, selection = _selected(rows, call, facts)
    judged, scope = _scope(call, facts, positions)
    truth = exact.evaluate(judged)
    whole = truth if scope == "all rows" and plan.sums.reduction != "none" else None
    settled = _reduction(call, facts, whole)
    scale = 1.0 / settled.divisor if settled.divisor else 0.0  # a mean over nothing moves nothing
    shown = tuple(_row(call, facts, at, scale, top, name) for at in positions)
    return Derivation(
        loss=_loss(call, settled, whole),
        shape=call.shape,
        dtype=str(call.dtype).removeprefix("torch."),
        classes=plan.classes,
        soft=plan.soft,
        weighted=call.weight is not None,
        label_smoothing=plan.smoothing,
        ignore_index=plan.ignore_index,
        softcap=shaping.softcap,
        logit_scale=float(shaping.scale),
        z_loss=shaping.z_loss,
        token_weighted=plan.sums.token_weight is not None,
        temperatures=row.TEMPERATURES,
        rows=shown,
        selection=selection,
        reduction=settled,
        exact=truth,
        routes=routes.compare(judged, truth),
        scope=scope,
        cautions=cautions.look(call, facts),
    )


def _head_options(linear_weight: Any, dim: Any) -> None:
    if linear_weight is None:
        raise OptionError("linear_bias belongs to a head.\n  Pass linear_weight, or logits that have the bias in them.")
    if dim is not None:
        raise OptionError(f"dim={dim} says where logits have their classes; a head has them first.\n  Leave it out.")


def _selected(rows: Rows | None, call: Call | HeadCall, facts: Survey) -> tuple[list[int], str]:
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


def _position(at: int | tuple[int, ...], call: Call | HeadCall) -> int:
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


def _scope(call: Call | HeadCall, facts: Survey, positions: list[int]) -> tuple[Call, str]:
    """What the routes are compared on: one number, and not too much work."""
    plan, reduction = call.plan, call.plan.sums.reduction
    if reduction == "none":
        worst = facts.worst(1)
        return call.take(worst, "sum"), f"row {worst[0]} alone" if worst else "no rows"
    if call.count * plan.classes <= ROUTE_LIMIT:
        return call if isinstance(call, Call) else call.take(range(call.count), reduction), "all rows"
    fitting = max(1, ROUTE_LIMIT // plan.classes)
    chosen = positions[:fitting] or facts.worst(min(WORST, fitting))
    return call.take(chosen, reduction), f"{len(chosen)} of the rows shown"


def _reduction(call: Call | HeadCall, facts: Survey, truth: Exact | None) -> Reduction:
    sums, kept = call.plan.sums, int(facts.kept.sum())
    divisor, formula = _divisor(call, facts)
    total = truth.value * divisor if truth is not None and divisor else float(facts.loss.sum())
    return Reduction(sums.reduction, call.count, call.count - kept, total, divisor, formula)


def _divisor(call: Call | HeadCall, facts: Survey) -> tuple[float, str]:
    """What the losses' sum is divided by, and what that is made of."""
    sums, token = call.plan.sums, call.plan.sums.token_weight
    if sums.reduction != "mean":
        return 1.0, "a sum divides by nothing" if sums.reduction == "sum" else "nothing is reduced"
    if sums.num_items is not None:
        return float(sums.num_items), "num_items, as given"
    if call.plan.soft:
        if token is not None:
            return float(token.to(torch.float64).sum()), "Σ t over the rows"
        return float(call.count), "the number of rows, whatever their weights"
    factors = "t " * (token is not None) + "w[target] " * (call.weight is not None)
    return float(facts.mass.sum()), f"Σ {factors}over the rows kept" if factors else "the number of rows kept"


def _loss(call: Call | HeadCall, reduction: Reduction, truth: Exact | None) -> float | None:
    if reduction.name == "none":
        return None
    if truth is not None:
        return truth.value
    return reduction.total / reduction.divisor if reduction.divisor else call.plan.sums.all_ignored


def _row(call: Call | HeadCall, facts: Survey, at: int, scale: float, top: int | None, name: Name | None) -> Row:
    if not bool(facts.kept[at]):
        return row.ignored(call, at)
    return row.explained(call, at, scale, top, name)
