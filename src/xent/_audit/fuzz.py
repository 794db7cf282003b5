"""A search for a call that fails, by hypothesis, which makes it as small as it can."""

from collections.abc import Callable
from typing import Any

from .._implementations import Implementation
from ..errors import OptionError
from .case import WIDE, Case, Values
from .judge import Answer, ask
from .report import FAIL, OK, Finding, Outcome
from .reproducer import reproducer
from .run import sentence
from .setting import Setting
from .target import NotOfferedError, way

BREAKS = "found by search, and made small"
ROWS, CLASSES = 3, 5


class _FoundError(Exception):
    """What stops hypothesis, and tells it which calls to shrink."""


def fuzz(one: Implementation, loss: Any, setting: Setting, examples: int) -> Outcome:
    """Asks so many random calls of a loss; the smallest that fails, if one does."""
    hypothesis = _hypothesis()
    dtype, failed = setting.dtype or "float32", {}

    def check(case: Case) -> None:
        asked = _asked(case, dtype, one, loss, setting)
        if asked is not None and asked[0].status == FAIL:
            failed["last"] = (case, *asked)
            raise _FoundError

    run = hypothesis.given(_calls(hypothesis.strategies, one, dtype))(check)
    run = hypothesis.seed(setting.seed)(run)
    everything = list(hypothesis.HealthCheck)
    phases = (hypothesis.Phase.generate, hypothesis.Phase.shrink)
    how = hypothesis.settings(
        max_examples=examples, database=None, deadline=None, suppress_health_check=everything, phases=phases
    )
    try:
        how(run)()
    except _FoundError:
        case, answer, around = failed["last"]
        finding = Finding(sentence(case, answer), reproducer(case, dtype, answer, one, around, setting))
        return Outcome("fuzz", BREAKS, dtype, FAIL, finding=finding)
    return Outcome("fuzz", BREAKS, dtype, OK, detail=f"{examples} calls")


def _hypothesis() -> Any:
    try:
        import hypothesis
    except ModuleNotFoundError:
        raise OptionError(
            "--fuzz searches with hypothesis, which is not installed: pip install 'xent[audit]'."
        ) from None
    return hypothesis


def _asked(case: Case, dtype: str, one: Implementation, loss: Any, setting: Setting) -> tuple[Answer, Any] | None:
    names, options = setting.tensors(case, dtype), getattr(case.plan, "options", "")
    try:
        around = way(one, options, names["x"])
    except NotOfferedError:
        return None
    return ask(case, dtype, names, around.loss(loss), setting, "gradient" in one.offers), around


def _calls(st: Any, one: Implementation, dtype: str) -> Any:
    """Small logits of every kind, and the options that are offered. Numbers are drawn for the largest call and cut to
    the size of this one, so that making it smaller moves nothing else."""
    usual = st.floats(-100, 100, width=16 if dtype == "float16" else 32)
    number = st.one_of(st.integers(-8, 8).map(float), usual, st.just(-float("inf")))
    factor = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0])

    @st.composite
    def call(draw: Callable[[Any], Any]) -> Case:
        rows, classes = draw(st.integers(1, ROWS)), draw(st.integers(1, CLASSES))
        x = _drawn(draw, st, number, rows, classes)
        y: Any = [draw(st.integers(0, CLASSES - 1)) % classes for _ in range(ROWS)][:rows]
        options, extra = [], ""
        if draw(st.booleans()):
            options.append('reduction="none"')
        if "weight" in one.offers and draw(st.booleans()):
            options.append("weight=w")
            extra = f"\nw = torch.tensor({_drawn(draw, st, factor, 1, classes)[0]})"
        if "label_smoothing" in one.offers and draw(st.booleans()):
            options.append(f"label_smoothing={draw(st.sampled_from([0.1, 0.5, 1.0]))}")
        if "probabilities" in one.offers and draw(st.booleans()):
            y = _drawn(draw, st, factor, rows, classes)
        elif "ignore_index" in one.offers and draw(st.booleans()):
            options.append(f"ignore_index={draw(st.integers(0, CLASSES - 1)) % classes}")
        recipe = f"x, y = torch.tensor({x}), torch.tensor({y}){extra}".replace("inf", "torch.inf")
        return Case("fuzz", BREAKS, Values(recipe, ", ".join(options), judged=_judged(x)), (), WIDE, "fuzz")

    return call()


def _drawn(draw: Callable[[Any], Any], st: Any, number: Any, rows: int, classes: int) -> list[list[float]]:
    whole = [draw(st.lists(number, min_size=CLASSES, max_size=CLASSES)) for _ in range(ROWS)]
    return [row[:classes] for row in whole[:rows]]


def _judged(x: list[list[float]]) -> tuple[str, ...]:
    """A loss of inf has no gradient to speak of, and a mask may make one."""
    return ("loss",) if any(number == -float("inf") for row in x for number in row) else ("loss", "gradient")
