"""What a case is: a few lines of Python that make tensors, and what is asked of the loss of them.

The lines are text because they are the reproducer too: what the audit ran is what it prints, so neither can drift from
the other. A case is one function with the decorator `case`; its name is the
case's, and `breaks` says what breaks there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from textwrap import dedent

EVERY = ("float32", "float64", "bfloat16", "float16")
WIDE = ("float32", "float64")
HALF = ("float16", "bfloat16")
"""The first is the one taken where none is asked for."""

LOSS_ULP = {"float64": 1024.0, "float32": 128.0, "bfloat16": 1.0, "float16": 1.0}
"""A difference of d nats, rounded before exp, costs d / 2 ulp, up to some 50 (float32) and 370 (float64) before exp
underflows; twice that for the additions. In 16 bits: computed in float32 and rounded once."""
GRADIENT_ULP = {"float64": 2048.0, "float32": 256.0, "bfloat16": 1.0, "float16": 1.0}
"""Twice the loss's: x - peak is rounded, and so is its difference from the logarithm of the sum."""


@dataclass(frozen=True)
class Values:
    """Loss and gradient of ``loss(x, y, **options)``, judged by the truth."""

    recipe: str
    """Makes `x`, `y`, and whatever `options` name; `g`, if there is one, is the gradient from above."""
    options: str = ""
    needs: tuple[str, ...] = ()
    """What a target has to offer, beside the names among the options."""
    judged: tuple[str, ...] = ("loss", "gradient")
    loss: dict[str, float] = field(default_factory=lambda: LOSS_ULP)
    gradient: dict[str, float] = field(default_factory=lambda: GRADIENT_ULP)
    times: int = 1
    """All rows are there so many times over."""
    under: str = ""
    """A context that the call is made in."""
    subnormal: bool = False
    """Whether numbers below the smallest normal one are judged too; elsewhere a loss may flush them to zero."""
    refusable: bool = False
    """Whether an error that says what is not served will do, though only logits and labels are asked for."""


@dataclass(frozen=True)
class HeadValues:
    """Loss and gradients of ``head(h, w, y, **options)``, judged by the truth of a linear head."""

    recipe: str
    """Makes `h`, `w`, `y`, and `b` if there is a bias: multiples of 1/4096."""
    options: str = ""
    needs: tuple[str, ...] = ()
    judged: tuple[str, ...] = ("loss", "hidden", "head")
    loss: dict[str, float] = field(default_factory=lambda: LOSS_ULP)
    gradient: dict[str, float] = field(
        default_factory=lambda: {"float64": 2048.0, "float32": 256.0, "bfloat16": 2.0, "float16": 2.0}
    )
    """In ulp of the sum of magnitudes that the matrix product adds up."""
    times: int = 1
    refusable: bool = False


@dataclass(frozen=True)
class Probe:
    """Lines that say with `assert` what has to hold of `loss` (or of `head`)."""

    recipe: str
    check: str
    needs: tuple[str, ...] = ()
    refusable: bool = False
    compared: bool = True
    """Whether torch is asked the same, for comparison."""


Plan = Values | HeadValues | Probe


@dataclass(frozen=True)
class Case:
    """A named case: what it breaks, for which signatures and dtypes, and what it asks."""

    name: str
    breaks: str
    plan: Plan
    signatures: tuple[str, ...]
    dtypes: tuple[str, ...]
    group: str
    """The module it is written in."""

    @property
    def about_heads(self) -> bool:
        """Whether its lines call ``head(h, w, y)``; others call ``loss(x, y)``."""
        return self.group == "heads"

    @property
    def recipe(self) -> tuple[str, ...]:
        """The lines that make the tensors."""
        return lines(self.plan.recipe)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that the call is given."""
        return tuple(re.findall(r"(\w+)=", getattr(self.plan, "options", "")))

    @property
    def needs(self) -> set[str]:
        """What a target has to offer."""
        return {name.replace("linear_bias", "bias") for name in (*self.options, *self.plan.needs)}

    @property
    def refusable(self) -> bool:
        """Whether a clear error is an answer: where more is asked for than the loss of logits and labels."""
        return self.plan.refusable or bool(self.needs - {"reduction", "gradient", "autograd", "linux"})


CASES: dict[str, Case] = {}


def case(
    breaks: str,
    signatures: tuple[str, ...] = ("logits", "linear", "hidden"),
    dtypes: tuple[str, ...] = EVERY,
) -> Callable[[Callable[[], Plan]], Callable[[], Plan]]:
    """Makes a case of the function below it."""

    def register(make: Callable[[], Plan]) -> Callable[[], Plan]:
        if make.__name__ in CASES:
            raise ValueError(f"there are two cases called {make.__name__}")
        group = make.__module__.rpartition(".")[2]
        CASES[make.__name__] = Case(make.__name__, breaks, make(), signatures, dtypes, group)
        return make

    return register


def lines(text: str) -> tuple[str, ...]:
    return tuple(line for line in dedent(text).strip("\n").splitlines() if line.strip())
