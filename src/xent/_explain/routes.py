"""The same number by every route: by hand as in the source notebooks, by torch, by xent.

Hand-written routes subtract no maximum, as most notebooks do not: they are here to be seen failing.
A route runs in the dtype of the input, on detached tensors; the exact value judges it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import functional, modules
from . import exact as _exact
from .call import Call
from .derivation import Exact, Route

OK_ULPS = 4.0
"""A route within so many units of the last place is called ok: its own rounding, a few additions."""


class NotApplicable(Exception):
    """The route cannot say what the call asks; the text says why."""


@dataclass(frozen=True, slots=True)
class _Found:
    value: Tensor
    trouble: str = ""
    """What went wrong on the way: overflow or underflow of an intermediate result."""


def compare(call: Call, exact: Exact) -> tuple[Route, ...]:
    """Every route on `call`, judged."""
    return tuple(_judged(name, route, call, exact) for name, route in ROUTES.items())


def _judged(name: str, route: Callable[[Call], _Found], call: Call, exact: Exact) -> Route:
    try:
        found = route(call)
    except NotApplicable as reason:
        return Route(name, None, None, None, "not applicable", str(reason))
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as refusal:
        text = str(refusal).splitlines()[0] if str(refusal) else type(refusal).__name__
        return Route(name, None, None, None, "not applicable", f"refused: {text}")
    value = float(found.value)
    if math.isfinite(value) and math.isfinite(exact.value):
        error = _exact.error(value, exact)
        ulps = abs(error) / _ulp(exact.value, found.value.dtype)
        if value == 0 and exact.value != 0 and ulps > 1:
            return Route(name, value, error, ulps, "underflow", "a small loss became 0: 1 + rest was rounded to 1")
        return Route(name, value, error, ulps, "ok" if ulps <= OK_ULPS else "inaccurate", "")
    same = value == exact.value or (math.isnan(value) and math.isnan(exact.value))
    status, reason = ("ok", "") if same else _failure(value, exact, found)
    return Route(name, value, None, None, status, reason)


def _failure(value: float, exact: Exact, found: _Found) -> tuple[str, str]:
    if found.trouble == "overflow":
        return "overflow", "exp(z) is inf: no maximum was subtracted"
    if found.trouble == "underflow":
        return "underflow", "p[target] is 0, and −log 0 is inf"
    if math.isnan(value):
        return "nan", "0 × inf on the way"
    if abs(exact.value) > torch.finfo(found.value.dtype).max:
        return "overflow", f"the loss itself is larger than {found.value.dtype} holds"
    return "overflow", "a sum on the way is too large for the dtype"


def _ulp(value: float, dtype: torch.dtype) -> float:
    limits = torch.finfo(dtype)
    magnitude = max(abs(value), limits.smallest_normal)
    return limits.eps * 2.0 ** (math.frexp(magnitude)[1] - 1)


# -- by hand --------------------------------------------------------------------------------------


def _softmax_by_hand(call: Call) -> _Found:
    x = _rows(call, call.logits)
    exp = x.exp()
    p = exp / exp.sum(-1).unsqueeze(-1)
    return _Found(_likelihood(call, p.log()), _trouble(call, x, exp, p))


def _log_softmax_by_hand(call: Call) -> _Found:
    x = _rows(call, call.logits)
    exp = x.exp()
    return _Found(_likelihood(call, x - exp.sum(-1).log().unsqueeze(-1)), _trouble(call, x, exp, None))


def _softmax_then_log(call: Call) -> _Found:
    x = _rows(call, call.logits)
    p = F.softmax(x, dim=-1)
    return _Found(_likelihood(call, torch.log(p)), _trouble(call, x, None, p))


def _trouble(call: Call, x: Tensor, exp: Tensor | None, p: Tensor | None) -> str:
    kept = slice(None) if call.index is None else call.index.reshape(-1) >= 0
    if exp is not None and bool((exp.sum(-1).isinf() & x.isfinite().any(-1))[kept].any()):
        return "overflow"
    return "underflow" if p is not None and bool(((p == 0) & x.isfinite())[kept].any()) else ""


def _likelihood(call: Call, log_p: Tensor) -> Tensor:
    """Pick, minus, mean; with a distribution or smoothing the one-hot formula and its double sum."""
    plan = call.plan
    weight = log_p.new_ones(plan.classes) if call.weight is None else call.weight
    rows = torch.arange(log_p.shape[0], device=log_p.device)
    if plan.soft:
        rows_loss = -(_rows(call, call.target) * weight * log_p).sum(-1)
        share, divisor = torch.ones_like(rows_loss), rows_loss.shape[0]
    else:
        label = call.index.reshape(-1) if call.index is not None else rows
        rows, label = rows[label >= 0], label[label >= 0]
        log_p, share = log_p[rows], weight[label]
        rows_loss = -share * log_p[range(len(rows)), label]
        divisor = share.sum()
    if plan.smoothing > 0:
        spread = -(weight * log_p).sum(-1)
        rows_loss = (1 - plan.smoothing) * rows_loss + plan.smoothing / plan.classes * spread
    return rows_loss.sum() / divisor if plan.reduction == "mean" else rows_loss.sum()


def _rows(call: Call, tensor: Tensor) -> Tensor:
    """``(N, V)``, classes last."""
    return tensor.reshape(1, -1) if tensor.ndim == 1 else tensor.movedim(1, -1).reshape(-1, call.plan.classes)


# -- by library -----------------------------------------------------------------------------------


def _by_nll(log_softmax: Callable[..., Tensor], nll_loss: Callable[..., Tensor]) -> Callable[[Call], _Found]:
    def route(call: Call) -> _Found:
        if call.plan.soft:
            raise NotApplicable("nll_loss takes labels, not probabilities")
        if call.plan.smoothing > 0:
            raise NotApplicable("nll_loss has no label smoothing")
        dim = 0 if call.logits.ndim == 1 else 1
        return _Found(nll_loss(log_softmax(call.logits, dim=dim), call.target, call.weight, **_options(call)))

    return route


def _by_function(cross_entropy: Callable[..., Tensor]) -> Callable[[Call], _Found]:
    def route(call: Call) -> _Found:
        smoothing = call.plan.smoothing
        return _Found(cross_entropy(call.logits, call.target, call.weight, label_smoothing=smoothing, **_options(call)))

    return route


def _by_module(module: Callable[..., Callable[..., Tensor]]) -> Callable[[Call], _Found]:
    def route(call: Call) -> _Found:
        loss = module(call.weight, label_smoothing=call.plan.smoothing, **_options(call))
        return _Found(loss(call.logits, call.target))

    return route


def _options(call: Call) -> dict[str, Any]:
    return {"ignore_index": call.plan.ignore_index, "reduction": call.plan.reduction}


ROUTES: dict[str, Callable[[Call], _Found]] = {
    "softmax → pick → −log → mean": _softmax_by_hand,
    "log_softmax → pick → −mean": _log_softmax_by_hand,
    "F.softmax → log → pick → −mean": _softmax_then_log,
    "F.log_softmax + F.nll_loss": _by_nll(F.log_softmax, F.nll_loss),
    "F.cross_entropy": _by_function(F.cross_entropy),
    "torch.nn.CrossEntropyLoss": _by_module(torch.nn.CrossEntropyLoss),
    "xent.log_softmax + xent.nll_loss": _by_nll(functional.log_softmax, functional.nll_loss),
    "xent.cross_entropy": _by_function(functional.cross_entropy),
    "xent.CrossEntropyLoss": _by_module(modules.CrossEntropyLoss),
}
