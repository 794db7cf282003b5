"""A failure as at most eight lines of Python that run by themselves, and end in an `assert` that fails."""

import math

from .._implementations import Implementation
from .._truth import Worst
from .case import Case, HeadValues, Plan, Probe, Values, lines
from .judge import LEAVES, Answer
from .setting import Setting
from .target import Way

LINES = 8


def reproducer(case: Case, dtype: str, answer: Answer, one: Implementation, way: Way, setting: Setting) -> str:
    """The case's own lines between an import of the target and the `assert`."""
    text = [setting.first_line(case, dtype), one.statement(way.name)]
    text += [way.around] if way.around is not None else []
    text += case.recipe
    first, *rest = _end(case.plan, answer)
    if dtype != "float32" and case.recipe:
        text, first = _reset(text, first)
    return "\n".join([*text, first, *rest])


def _reset(text: list[str], first: str) -> tuple[list[str], str]:
    """The default dtype is the recipe's alone; a compound statement cannot follow on its line."""
    reset = "torch.set_default_dtype(torch.float32)"
    if first.split()[0] in ("with", "try:", "for", "def"):
        return [*text, reset], first
    return text, f"{reset}; {first}"


def _end(plan: Plan, answer: Answer) -> list[str]:
    if isinstance(plan, Probe):
        return list(lines(plan.check))
    name = answer.failing
    if name is None:
        return [_call(plan)]
    off = answer.off[name]
    place = f"[{', '.join(map(str, off.at))}]" if off.at else ""
    if name == "loss":
        return [f"{_under(plan)}got = {_call(plan)}{place}.item()", _assertion(off, answer.allowed[name])]
    leaf = LEAVES.get(name, "x")
    first = f"{leaf}.requires_grad_(); value = {_call(plan)}"
    above = "g" if " g = " in plan.recipe or ", g = " in plan.recipe else "torch.ones_like(value)"
    above = f"{above}.to(value)" if above == "g" else above
    got = f"got = torch.autograd.grad(value, {leaf}, {above})[0]{place}.item()"
    return [f"{_under(plan)}{first}", got, _assertion(off, answer.allowed[name])]


def _under(plan: Values | HeadValues) -> str:
    return f"with {plan.under}: " if isinstance(plan, Values) and plan.under else ""


def _call(plan: Values | HeadValues) -> str:
    start = "loss(x, y" if isinstance(plan, Values) else "head(h, w, y"
    return f"{start}, {plan.options})" if plan.options else f"{start})"


def _assertion(off: Worst, allowed: float) -> str:
    if math.isinf(off.true):
        return f'assert got == float("{off.true}"), f"{{got}}, but the true number is {off.true}"'
    room = allowed * off.unit + off.slack
    return f'assert abs(got - {off.true!r}) <= {room:.3g}, f"{{got}}, but the true number is {off.true!r}"'
