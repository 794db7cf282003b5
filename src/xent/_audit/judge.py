"""One case asked of one loss."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._truth import Exact, HeadTruth, Truth, Worst, worst
from .case import Case, HeadValues, Plan, Probe, Values, lines
from .report import FAIL, NOT_JUDGED, OK, REFUSED
from .setting import Setting, options_of

UNCLEAR = (UnicodeError, AttributeError, KeyError, ZeroDivisionError, UnboundLocalError, AssertionError)
"""Errors of an implementation's own making, which tell a caller nothing."""
LEAVES = {"hidden": "h", "head": "w", "bias": "b"}


@dataclass(frozen=True)
class Answer:
    """What came of asking: a status, what was off, and what an error or an `assert` said."""

    status: str
    off: dict[str, Worst]
    """By quantity: ``'loss'``, ``'gradient'``, ``'hidden'``, ``'head'``, ``'bias'``."""
    allowed: dict[str, float]
    detail: str = ""

    @property
    def failing(self) -> str | None:
        """The quantity that is furthest beyond what is allowed."""
        beyond = {name: off.ulp / self.allowed[name] for name, off in self.off.items()}
        name = max(beyond, key=lambda name: beyond[name], default=None)
        return name if name is not None and beyond[name] > 1 else None


def ask(case: Case, dtype: str, names: dict[str, Any], loss: Any, setting: Setting, graph: bool = True) -> Answer:
    """`loss` is what the case's lines call ``loss`` or ``head``; `graph` is whether it claims a gradient."""
    threads = torch.get_num_threads()
    try:
        if isinstance(case.plan, Probe):
            return _probed(case, names, loss, setting)
        return _measured(case, dtype, names, loss, setting, graph)
    except (PermissionError, FileNotFoundError) as reason:  # what a probe of memory reads
        return Answer(NOT_JUDGED, {}, {}, f"{type(reason).__name__}: {reason}")
    except Exception as reason:  # an implementation may raise anything
        return _raised(case, reason)
    finally:
        torch.set_num_threads(threads)


def honest(head: bool) -> Callable[..., Tensor]:
    """torch's loss, for comparison."""

    def linear(h: Tensor, w: Tensor, y: Tensor, linear_bias: Tensor | None = None, **options: Any) -> Tensor:
        return F.cross_entropy(F.linear(h, w, linear_bias), y, **options)

    return linear if head else F.cross_entropy


def _raised(case: Case, reason: Exception) -> Answer:
    said = f"{type(reason).__name__}: {_first_line(reason)}"
    clear = not isinstance(reason, UNCLEAR) and str(reason).strip()
    return Answer(REFUSED if case.refusable and clear else FAIL, {}, {}, said)


def _first_line(reason: Exception) -> str:
    text = str(reason).strip().split("\n")[0]
    return text if len(text) < 160 else text[:157] + "..."


def _probed(case: Case, names: dict[str, Any], loss: Any, setting: Setting) -> Answer:
    assert isinstance(case.plan, Probe)
    scope = {**names, "loss": loss, "head": loss}
    try:
        with torch.random.fork_rng(), torch.device(setting.device):
            torch.manual_seed(setting.seed)
            exec(compile("\n".join(lines(case.plan.check)), f"<{case.name}>", "exec"), scope)
    except AssertionError as reason:
        if reason.__traceback__ is not None and _raised_here(reason, case.name):
            return Answer(FAIL, {}, {}, str(reason))
        raise
    return Answer(OK, {}, {})


def _raised_here(reason: AssertionError, name: str) -> bool:
    """Whether the `assert` that fails is the case's, not one inside the implementation."""
    trace = reason.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename == f"<{name}>"


def _measured(case: Case, dtype: str, names: dict[str, Any], loss: Any, setting: Setting, graph: bool) -> Answer:
    plan = case.plan
    assert not isinstance(plan, Probe)
    true = setting.truth(case, dtype, names)
    wanted = [name for name in plan.judged if name != "loss"] if graph else []
    value, gradients = _called(plan, names, loss, wanted)
    exact = _repeated(true.loss, plan.times if value.ndim else 1)
    if value.shape != exact.high.shape:
        what = f"the loss has shape {tuple(value.shape)}, not {tuple(exact.high.shape)}"
        return Answer(FAIL, {}, {}, what)
    off = {"loss": worst(value, exact, subnormal=getattr(plan, "subnormal", False))} if "loss" in plan.judged else {}
    allowed = {"loss": plan.loss[str(value.dtype).removeprefix("torch.")]}
    for name, gradient in gradients.items():
        off[name] = _off(plan, name, gradient, true)
        allowed[name] = plan.gradient[dtype]
    answer = Answer(OK, off, allowed)
    return answer if answer.failing is None else Answer(FAIL, off, allowed)


def _called(plan: Values | HeadValues, names: dict[str, Any], loss: Any, wanted: list[str]) -> tuple[Tensor, dict]:
    """The loss, and the gradients asked for."""
    options, names = options_of(plan.options, names), dict(names)
    leaves = {name: LEAVES.get(name, "x") for name in wanted}
    for leaf in leaves.values():
        names[leaf] = names[leaf].detach().requires_grad_()
    if "b" in names and "linear_bias" in options:
        options["linear_bias"] = names["b"]
    inputs = [names[name] for name in ("xy" if isinstance(plan, Values) else "hwy")]
    under = getattr(plan, "under", "")
    with eval(under, dict(names)) if under else nullcontext():
        value = loss(*inputs, **options)
    if not wanted:
        return value.detach(), {}
    if not value.requires_grad:
        raise AttributeError("the loss of logits that ask for a gradient has no graph")
    above = names.get("g", torch.ones_like(value))
    above = above.to(value.dtype).reshape(value.shape) if above.numel() == value.numel() else above
    gradients = torch.autograd.grad(value, [names[leaf] for leaf in leaves.values()], above)
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def _off(plan: Plan, name: str, gradient: Tensor, true: Truth | HeadTruth) -> Worst:
    if isinstance(true, Truth):
        times = plan.times if isinstance(plan, Values) else 1
        exact, size = _repeated(true.gradient, times), true.size
        size = size.repeat(times, *[1] * (size.ndim - 1)) if times > 1 else size
        return worst(gradient, exact, size, getattr(plan, "subnormal", False))
    exact, size = true.gradients[name]
    return worst(gradient[: len(exact.high)], exact, size)


def _repeated(exact: Exact, times: int) -> Exact:
    if times == 1:
        return exact
    return Exact(*(part.repeat(times, *[1] * (part.ndim - 1)) for part in (exact.high, exact.low)))
