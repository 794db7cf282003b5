"""One implementation as data: what it is called, what it claims, and how it is loaded."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from ..errors import LoadError

SIGNATURES = ("logits", "linear", "hidden")
"""``loss(logits, target)`` · ``loss(hidden, head, target, linear_bias=)``, torch's names · the same three tensors, and
whatever options it names (``bias``, say)."""

OPTIONS = frozenset(
    (
        *("weight", "ignore_index", "reduction", "label_smoothing", "probabilities", "unnormalised"),
        *("bias", "dims", "gradient", "autograd"),
    )
)
"""What may be offered or not: torch's arguments, probability targets, those that do not sum to 1, a bias of the head,
logits of more than two dimensions, a gradient, and derivatives and memory that are torch's own, with no other framework
in between."""

DTYPES = ("float64", "float32", "bfloat16", "float16")

Loss = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Implementation:
    """A loss by name. `load` gives a callable of torch's signature: ``(input, target, **options)``, and for a head
    ``(hidden, head, target, **options)`` with torch's ``linear_bias``."""

    name: str
    make: Callable[[], Loss]
    packages: tuple[str, ...] = ()
    """Distributions that have to be installed; a slash is between two of which one will do."""
    signature: str = "logits"
    offers: frozenset[str] = OPTIONS - {"bias"}
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")
    dtypes: tuple[str, ...] = DTYPES
    interpreted: bool = False
    """Whether its Triton kernels run on a CPU in Triton's interpreter, where the environment has TRITON_INTERPRET=1."""
    at: str | None = None
    """``module:object`` where that is the callable itself, with nothing in between."""
    needs: Callable[[], str | None] = lambda: None
    """A reason of another kind for its absence, if there is one."""

    @property
    def head(self) -> bool:
        """Whether it takes hidden states and the weight of a linear head, not logits."""
        return self.signature != "logits"

    def missing(self) -> str | None:
        """Why it cannot be loaded here; None where it can."""
        for package in self.packages:
            if _version(package) is None:
                return f"{package.partition('/')[0]} is not installed"
        return self.needs()

    def refusal(self, device: str, dtype: str) -> str | None:
        """Why it is not asked for tensors of this device and dtype; None where it serves them."""
        kind = torch.device(device).type
        if kind == "cpu" and self.interpreted and os.environ.get("TRITON_INTERPRET") == "1":
            kind = "cuda"
        if kind not in self.devices:
            if self.devices != ("cuda",):
                return f"does not serve {kind}"
            return "needs a GPU" + " (or TRITON_INTERPRET=1)" * self.interpreted
        return None if dtype in self.dtypes else f"does not take {dtype}"

    def versions(self) -> dict[str, str]:
        """Of its packages, where they are installed."""
        found = {package.partition("/")[0]: _version(package) for package in self.packages}
        return {package: version for package, version in found.items() if version is not None}

    def load(self) -> Loss:
        """The callable; `LoadError` says why there is none."""
        reason = self.missing()
        if reason is not None:
            raise LoadError(
                f"{self.name}: {reason}. Install it beside xent: pip install {self.packages[0].partition('/')[0]}"
            )
        try:
            return self.make()
        except LoadError:
            raise
        except Exception as reason:  # a peer may raise anything while it is imported
            raise LoadError(f"{self.name} cannot be loaded: {type(reason).__name__}: {reason}") from reason

    def statement(self, name: str) -> str:
        """A line of Python that binds `name` to what `load` gives."""
        if self.at is not None:
            module, _, path = self.at.partition(":")
            return f"from {module} import {path} as {name}"
        if not self.packages and ":" not in self.name:
            return f"{name} = ...  # the loss that was audited, {self.name}: it has no name to import it by"
        asked = repr(self.name) if self.signature == "logits" else f"{self.name!r}, {self.signature!r}"
        return f"from xent._implementations import find; {name} = find({asked}).load()"


def _version(package: str) -> str | None:
    for name in package.split("/"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def torch_has(function: str) -> Callable[[], str | None]:
    """A `needs` for what a younger torch brought."""

    def reason() -> str | None:
        return None if hasattr(torch.nn.functional, function) else f"torch {torch.__version__} has no F.{function}"

    return reason


def only(options: dict[str, Any], **defaults: Any) -> list[Any]:
    """The values of named options, for an adapter that takes these and no others."""
    foreign = {name for name, value in options.items() if name not in defaults and value is not None}
    if foreign:
        raise NotImplementedError(f"not offered: {', '.join(sorted(foreign))}")
    return [options.get(name, default) for name, default in defaults.items()]
