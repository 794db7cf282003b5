"""Who takes part: implementations by name, and the function that each brings to a case."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from .. import __version__
from .._implementations import CATALOGUE, Implementation, find
from ..errors import LoadError, OptionError
from ..functional import log_softmax, softmax
from .cases import Case

Function = Callable[..., Tensor]

THROUGH_NUMPY = {"optax", "sklearn", "tensorflow"}
"""Their adapters copy every tensor as float64: right for `xent audit`, no time to speak of."""
SOFTMAX: dict[str, dict[str, Function]] = {
    "softmax": {"xent": softmax, "torch": F.softmax},
    "log_softmax": {"xent": log_softmax, "torch": F.log_softmax},
}
"""The implementations that have more than a loss."""
PLAIN = {"xent", "xent-linear", "torch", "torch-linear"}
"""Those that surely compile nothing."""
ASKED = {
    "smoothing": "label_smoothing",
    "weights": "weight",
    "probabilities": "probabilities",
    "ignored": "ignore_index",
}
"""Task -> the option that it takes."""


class Contestant(NamedTuple):
    label: str
    target: str
    """A name of the catalogue, or ``package.module:object``."""
    implementation: Implementation | None
    reason: str | None = None
    """Why there is none."""

    @property
    def version(self) -> str | None:
        """That of its first package; None of an object of the caller's."""
        if self.implementation is None or self.implementation.missing() is not None:
            return None
        if self.implementation.name in ("xent", "xent-linear"):
            return __version__
        return next(iter(self.implementation.versions().values()), None)

    @property
    def compiles(self) -> bool:
        """Whether its first call compiles, or might."""
        return self.implementation is not None and self.implementation.name not in PLAIN

    @property
    def trusted(self) -> bool:
        """Whether it leaves its inputs alone: liger, for one, writes its gradient over the logits."""
        return self.implementation is not None and self.implementation.packages == ("torch",)

    def offers(self, what: str) -> bool:
        return self.implementation is not None and what in self.implementation.offers

    def refusal(self, case: Case) -> str | None:
        """Why it cannot take part in a case; None where it can."""
        found = self.implementation
        if found is None:
            return self.reason
        if found.name in THROUGH_NUMPY:
            return "not timed: its tensors go through NumPy (xent audit judges it)"
        if case.task in SOFTMAX:
            return None if self.target in SOFTMAX[case.task] else f"has no {case.task}"
        if found.head and case.task != "linear":
            return "takes a linear head, not logits"
        wanted = ASKED.get(case.task)
        if wanted is not None and wanted not in found.offers:
            return f"does not offer {wanted}"
        if len(case.shape) > 2 and case.task != "linear" and "dims" not in found.offers:
            return "takes logits of two dimensions"
        return found.missing() or found.refusal(case.device, case.dtype)

    def function(self, case: Case) -> Function:
        """What is called with the tensors of a case. A loss of logits is given those of `F.linear` for a head.

        Raises:
            LoadError: it is installed, but cannot be imported.
        """
        if case.task in SOFTMAX:
            return SOFTMAX[case.task][self.target]
        if self.implementation is None:
            raise LoadError(self.reason or "")
        loss = self.implementation.load()
        return _after_linear(loss) if case.task == "linear" and not self.implementation.head else loss


def contestants(names: Iterable[str] | None, task: str) -> list[Contestant]:
    """Of names of the catalogue and objects, ``package.module:object``; with a label, ``mine=package.module:object``.

    Raises:
        OptionError: a name that is neither; a label that stands twice.
    """
    found = [_contestant(name, task) for name in (_defaults(task) if names is None else names)]
    labels = [one.label for one in found]
    if not labels:
        raise OptionError(f"implementations is empty: expected some of {', '.join(CATALOGUE)}.")
    for label in labels:
        if labels.count(label) > 1:
            raise OptionError(f"implementations: {label} stands there twice; give one of them a label: other={label}.")
    return found


def _defaults(task: str) -> list[str]:
    """All that the catalogue has for the task; of a head, torch's two products besides."""
    if task in SOFTMAX:
        return list(SOFTMAX[task])
    if task == "linear":
        return [
            "xent-linear",
            "torch",
            *(name for name, one in CATALOGUE.items() if one.head and name != "xent-linear"),
        ]
    return [name for name, one in CATALOGUE.items() if not one.head and name not in THROUGH_NUMPY]


def _contestant(name: str, task: str) -> Contestant:
    label, _, target = name.rpartition("=")
    label = label or target
    try:
        return Contestant(label, target, find(target, "linear" if task == "linear" else "logits"))
    except LoadError as reason:
        return Contestant(label, target, None, str(reason))


def _after_linear(loss: Function) -> Function:
    def composed(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        return loss(F.linear(hidden, weight), target)

    return composed
