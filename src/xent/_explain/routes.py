"""The same number by every route: by hand as in the source notebooks, by torch, by xent.

Hand-written routes subtract no maximum, as most notebooks do not: they are here to be seen failing.
A route runs in the dtype of the input, on detached tensors; the exact value judges it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import functional, linear, modules
from .._plan import Shaping
from . import exact as _exact
from .call import Call, Product
from .parts import Exact, Route

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
    """Every route on `call`, judged; those of a linear head where there is one."""
    ways = ROUTES if call.product is None else ROUTES | HEAD_ROUTES
    return tuple(_judged(name, route, call, exact) for name, route in ways.items())


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
    x = _rows(call, _shaped(call))
    exp = x.exp()
    p = exp / exp.sum(-1).unsqueeze(-1)
    return _Found(_likelihood(call, p.log()), _trouble(call, x, exp, p))


def _log_softmax_by_hand(call: Call) -> _Found:
    x = _rows(call, _shaped(call))
    exp = x.exp()
    return _Found(_likelihood(call, x - exp.sum(-1).log().unsqueeze(-1)), _trouble(call, x, exp, None))


def _softmax_then_log(call: Call) -> _Found:
    x = _rows(call, _shaped(call))
    p = F.softmax(x, dim=-1)
    return _Found(_likelihood(call, torch.log(p)), _trouble(call, x, None, p))


def _shaped(call: Call) -> Tensor:
    """The logits as torch's losses want them, a softcap and a scale written out; other options they do not have."""
    shaping, sums = call.plan.shaping or Shaping(), call.plan.sums
    options = {
        "token_weight": sums.token_weight is not None,
        "num_items": sums.num_items is not None,
        "all_ignored": not math.isnan(sums.all_ignored),
        "z_loss": shaping.z_loss,
    }
    lacking = [name for name, given in options.items() if given]
    if lacking:
        raise NotApplicable(f"torch has no {', '.join(lacking)}")
    x = call.logits if shaping.scale == 1 else call.logits * float(shaping.scale)
    return x if shaping.softcap is None else shaping.softcap * torch.tanh(x / shaping.softcap)


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


def _torchs_nll(call: Call) -> _Found:
    _nll_serves(call)
    log_p = F.log_softmax(_shaped(call), dim=_classes(call))
    return _Found(F.nll_loss(log_p, call.target, call.weight, **_options(call)))


def _torchs_function(call: Call) -> _Found:
    x, smoothing = _shaped(call), call.plan.smoothing
    return _Found(F.cross_entropy(x, call.target, call.weight, label_smoothing=smoothing, **_options(call)))


def _torchs_module(call: Call) -> _Found:
    x = _shaped(call)
    loss = torch.nn.CrossEntropyLoss(call.weight, label_smoothing=call.plan.smoothing, **_options(call))
    return _Found(loss(x, call.target))


def _our_nll(call: Call) -> _Found:
    _nll_serves(call)
    log_p = functional.log_softmax(_shaped(call), dim=_classes(call))
    return _Found(functional.nll_loss(log_p, call.target, call.weight, **_options(call)))


def _our_function(call: Call) -> _Found:
    options = _options(call) | _more_options(call) | _sums(call)
    return _Found(functional.cross_entropy(call.logits, call.target, call.weight, **options))


def _our_module(call: Call) -> _Found:
    loss = modules.CrossEntropyLoss(call.weight, **_options(call), **_more_options(call))
    return _Found(loss(call.logits, call.target, **_sums(call)))


def _nll_serves(call: Call) -> None:
    if call.plan.soft:
        raise NotApplicable("nll_loss takes labels, not probabilities")
    if call.plan.smoothing > 0:
        raise NotApplicable("nll_loss has no label smoothing")


def _classes(call: Call) -> int:
    return 0 if call.logits.ndim == 1 else 1


def _options(call: Call) -> dict[str, Any]:
    return {"ignore_index": call.plan.ignore_index, "reduction": call.plan.reduction}


def _more_options(call: Call) -> dict[str, Any]:
    """What torch's losses have not, but for `_sums`; and label smoothing."""
    shaping = call.plan.shaping or Shaping()
    return {
        "label_smoothing": call.plan.smoothing,
        "all_ignored": "nan" if math.isnan(call.plan.sums.all_ignored) else "zero",
        "softcap": shaping.softcap,
        "logit_scale": shaping.scale,
        "z_loss": shaping.z_loss,
    }


def _sums(call: Call) -> dict[str, Any]:
    return {"token_weight": call.plan.sums.token_weight, "num_items": call.plan.sums.num_items}


# -- from a linear head ---------------------------------------------------------------------------


def _torchs_head(call: Call) -> _Found:
    product = _product(call)
    x = F.linear(product.hidden, product.weight, product.bias)
    return _torchs_function(replace(call, logits=x))


def _our_head(call: Call) -> _Found:
    product = _product(call)
    options: dict[str, Any] = {**_options(call), **_more_options(call), **_sums(call), "weight": call.weight}
    loss = linear.linear_cross_entropy(product.hidden, product.weight, call.target, linear_bias=product.bias, **options)
    return _Found(loss)


def _product(call: Call) -> Product:
    if call.product is None:
        raise NotApplicable("there is no head")
    return call.product


ROUTES: dict[str, Callable[[Call], _Found]] = {
    "softmax → pick → −log → mean": _softmax_by_hand,
    "log_softmax → pick → −mean": _log_softmax_by_hand,
    "F.softmax → log → pick → −mean": _softmax_then_log,
    "F.log_softmax + F.nll_loss": _torchs_nll,
    "F.cross_entropy": _torchs_function,
    "torch.nn.CrossEntropyLoss": _torchs_module,
    "xent.log_softmax + xent.nll_loss": _our_nll,
    "xent.cross_entropy": _our_function,
    "xent.CrossEntropyLoss": _our_module,
}
HEAD_ROUTES: dict[str, Callable[[Call], _Found]] = {
    "F.linear + F.cross_entropy": _torchs_head,
    "xent.linear_cross_entropy": _our_head,
}
"""Each makes the logits anew, and may round them otherwise than those that the exact value is of."""
