"""The audit: every case asked of a loss, and of torch for comparison."""

import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from .._implementations import DTYPES, Implementation, find
from .._implementations.catalogue import of
from .._truth import arithmetic
from ..errors import OptionError
from .case import Case, Probe
from .cases import CASES
from .judge import Answer, ask, honest
from .report import FAIL, NOT_JUDGED, NOT_OFFERED, Finding, Measured, Outcome, Report
from .reproducer import reproducer
from .setting import Setting
from .target import NotOfferedError, Way, way


def audit(
    loss: str | Callable[..., torch.Tensor],
    *,
    signature: str | None = None,
    cases: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    dtype: str | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Report:
    r"""Ask a cross-entropy every case that breaks one, and judge it by the truth.

    .. math:: \text{error in ulp} = \frac{|\text{got} - \text{true}|}{\text{ulp of the dtype returned, at true}}

    The truth is python-flint's ball arithmetic, with a proven bound, or mpmath's where that is not installed; it shares
    no code with any loss. Each case is named after what it breaks, with an error that is allowed, and torch's own
    beside it. What a loss does not take (no `weight`, say) is not offered; what it refuses with a clear error is
    refused.

    `loss` is a callable of torch's signature, a name (``'torch'``, ``'optax'``; the error of a wrong one lists them) or
    ``'package.module:object'``. `signature` is ``'logits'``, ``'linear'`` (``loss(hidden, head, target)``, torch's
    names for options) or ``'hidden'`` (the same tensors, ``bias``). `cases` are the names of those to ask, all unless
    said, and `skip` of those to leave out. `dtype` is one of float64, float32, bfloat16 and float16; without it
    float32, or what a case is about.

    Raises:
        OptionError: an unknown name, case, signature or dtype.
        LoadError: the loss cannot be loaded.

    Example:
        >>> report = xent.audit("torch", cases=["random", "log_of_one_plus_tiny"])
        >>> report.verdict
        'torch: fails 1 of 2 cases: log_of_one_plus_tiny'
        >>> print(report.failures[0].finding.what)
        log_of_one_plus_tiny: ... and should be 1.62...e-34 (1.41e+07 ulp off, 128 allowed).

    torch has no twin of it.
    """
    one = _implementation(loss, signature)
    chosen = chosen_cases(cases, skip)
    if dtype is not None and dtype not in DTYPES:
        raise OptionError(f"dtype is {dtype!r}; it is one of {', '.join(DTYPES)}.")
    return report(one, chosen, Setting(dtype, device, seed), one.load())


def chosen_cases(names: Iterable[str] | None, skip: Iterable[str] = ()) -> list[Case]:
    """By name; all of them where none is named, but those to `skip`."""
    wanted, unwanted = list(CASES) if names is None else list(names), list(skip)
    unknown = [name for name in wanted + unwanted if name not in CASES]
    if unknown:
        raise OptionError(f"there is no case {unknown[0]!r}; the cases are {', '.join(CASES)}.")
    return [CASES[name] for name in wanted if name not in unwanted]


def _implementation(loss: Any, signature: str | None) -> Implementation:
    if isinstance(loss, str):
        return find(loss, signature)
    return of(loss, _address(loss), signature or "logits")


def _address(loss: Any) -> str:
    """``module:object`` where that leads back to the loss; a name of its own otherwise."""
    name = getattr(loss, "__qualname__", type(loss).__qualname__)
    found: Any = sys.modules.get(getattr(loss, "__module__", None) or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{loss.__module__}:{name}" if found is loss else name


def report(one: Implementation, cases: list[Case], setting: Setting, loss: Any) -> Report:
    """The report on a loss that is loaded."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a peer warns of what it falls back from; the outcome says what came of it
        outcomes = [_outcome(case, one, loss, setting) for case in cases]
    asked = tuple(outcome for outcome in outcomes if outcome is not None)
    return _report(one, setting, asked, time.perf_counter() - start)


def missing(one: Implementation, setting: Setting, reason: str) -> Report:
    """The report on one that is not here."""
    return _report(one, setting, (), 0.0, reason)


def _report(
    one: Implementation, setting: Setting, outcomes: tuple[Outcome, ...], seconds: float, reason=None
) -> Report:
    from .. import __version__

    versions = {"xent": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return Report(
        target=one.name,
        signature=one.signature,
        dtype=setting.dtype,
        device=setting.device,
        seed=setting.seed,
        versions={**one.versions(), **versions},
        truth=arithmetic().name,
        seconds=round(seconds, 1),
        outcomes=outcomes,
        missing=reason,
    )


def _outcome(case: Case, one: Implementation, loss: Any, setting: Setting) -> Outcome | None:
    """None for a case that is about another signature or dtype."""
    dtype = setting.dtype_of(case)
    if one.signature not in case.signatures or dtype is None:
        return None
    refusal = _not_asked(case, one, dtype, setting)
    if refusal is not None:
        return Outcome(case.name, case.breaks, dtype, refusal[0], detail=refusal[1])
    names = setting.tensors(case, dtype)
    try:
        around = Way("head") if case.about_heads else way(one, getattr(case.plan, "options", ""), names.get("x"))
    except NotOfferedError as reason:
        return Outcome(case.name, case.breaks, dtype, NOT_OFFERED, detail=str(reason))
    called = loss if case.about_heads else around.loss(loss)
    answer = ask(case, dtype, names, called, setting, "gradient" in one.offers)
    finding = None
    if answer.status == FAIL:
        finding = Finding(sentence(case, answer), reproducer(case, dtype, answer, one, around, setting))
    return _told(case, dtype, answer, _torchs(case, dtype, names, setting), finding)


def _told(case: Case, dtype: str, answer: Answer, torchs: Answer | None, finding: Finding | None) -> Outcome:
    gradient = max((n for n in answer.off if n != "loss"), key=lambda n: answer.off[n].ulp, default="gradient")
    return Outcome(
        case=case.name,
        breaks=case.breaks,
        dtype=dtype,
        status=answer.status,
        loss=_measured("loss", answer, torchs),
        gradient=_measured(gradient, answer, torchs),
        torch="" if answer.off or torchs is None else torchs.status,
        detail=answer.detail,
        finding=finding,
    )


def _not_asked(case: Case, one: Implementation, dtype: str, setting: Setting) -> tuple[str, str] | None:
    reason = one.refusal(setting.device, dtype)
    if reason is not None:
        return NOT_OFFERED, reason
    absent = sorted(case.needs - one.offers - {"linux"})
    if absent == ["reduction"] and not one.head and not isinstance(case.plan, Probe):
        absent = []  # a mean of one row at a time will do
    if absent:
        return NOT_OFFERED, ", ".join(absent)
    if "linux" in case.needs and (platform.system() != "Linux" or setting.device != "cpu"):
        return NOT_JUDGED, "reads the memory of a process on Linux"
    return None


def _torchs(case: Case, dtype: str, names: dict[str, Any], setting: Setting) -> Answer | None:
    if isinstance(case.plan, Probe) and not case.plan.compared:
        return None
    return setting.remembered(case, dtype, lambda: ask(case, dtype, names, honest(case.about_heads), setting))


def _measured(name: str, answer: Answer, torchs: Answer | None) -> Measured | None:
    if name not in answer.off:
        return None
    theirs = torchs.off.get(name) if torchs is not None else None
    return Measured(answer.off[name].ulp, answer.allowed[name], None if theirs is None else theirs.ulp)


def sentence(case: Case, answer: Answer) -> str:
    """What is wrong, where."""
    name = answer.failing
    if name is None:
        return f"{case.name}: {case.breaks}. {answer.detail}."
    off, place = answer.off[name], {"loss": "loss", "gradient": "gradient"}.get(name, f"gradient of {name}")
    at = f"[{', '.join(map(str, off.at))}]" if off.at else ""
    error = f"{off.ulp:.3g} ulp off, {answer.allowed[name]:g} allowed"
    return f"{case.name}: {case.breaks}. {place}{at} is {off.got!r} and should be {off.true!r} ({error})."
