"""The table of names, and the way from ``package.module:object`` to a loss."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import torch

from ..errors import LoadError, OptionError
from . import peers
from .implementation import OPTIONS, SIGNATURES, Implementation, Loss, torch_has

CHOICES = frozenset(("weight", "ignore_index", "reduction", "label_smoothing"))
TORCHS = frozenset(("gradient", "autograd"))
HALF = ("bfloat16", "float16")

CATALOGUE: dict[str, Implementation] = {
    one.name: one
    for one in (
        Implementation("xent", peers.xent, ("torch",), at="xent:cross_entropy"),
        Implementation("xent-linear", peers.xent_linear, ("torch",), "linear", OPTIONS, at="xent:linear_cross_entropy"),
        Implementation("torch", peers.torch_eager, ("torch",), at="torch.nn.functional:cross_entropy"),
        Implementation("torch-compile", peers.torch_compile, ("torch",)),
        Implementation(
            "torch-linear",
            peers.torch_linear,
            ("torch",),
            "linear",
            OPTIONS - {"dims"},
            needs=torch_has("linear_cross_entropy"),
        ),
        Implementation(
            "liger",
            peers.liger,
            ("liger-kernel",),
            offers=CHOICES | TORCHS,
            devices=("cuda",),
            interpreted=True,
        ),
        Implementation(
            "liger-linear",
            peers.liger_linear,
            ("liger-kernel",),
            "linear",
            CHOICES | TORCHS | {"bias"},
            ("cuda",),
            interpreted=True,
        ),
        Implementation(
            "cce",
            peers.cce,
            ("cut-cross-entropy",),
            "linear",
            TORCHS | {"ignore_index", "reduction", "bias"},
            ("cuda",),
            HALF,
        ),
        Implementation("trl", peers.trl, ("trl",), "linear", TORCHS | {"reduction", "bias"}),
        Implementation(
            "optax",
            peers.optax,
            ("optax", "jax"),
            offers=frozenset(("reduction", "probabilities", "unnormalised", "gradient")),
            devices=("cpu",),
        ),
        Implementation(
            "keras",
            peers.keras,
            ("keras",),
            offers=TORCHS | {"ignore_index", "reduction", "label_smoothing", "probabilities", "unnormalised"},
        ),
        Implementation(
            "sklearn",
            peers.sklearn,
            ("scikit-learn",),
            offers=frozenset(),
            devices=("cpu",),
            dtypes=("float64", "float32"),
        ),
        Implementation(
            "tensorflow",
            peers.tensorflow,
            ("tensorflow/tensorflow-cpu",),
            offers=frozenset(("reduction", "probabilities", "gradient")),
            devices=("cpu",),
        ),
    )
}


def find(target: str, signature: str | None = None) -> Implementation:
    """The implementation called `target`: a name of the `CATALOGUE`, or ``package.module:object``.

    `signature` says what an object takes, ``'logits'`` where nothing is said; a name has its own.
    """
    if signature is not None and signature not in SIGNATURES:
        raise OptionError(f"signature is {signature!r}; it is one of {', '.join(SIGNATURES)}.")
    if target in CATALOGUE:
        return CATALOGUE[target]
    if ":" not in target:
        near = get_close_matches(target, CATALOGUE, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise OptionError(
            f"{target!r} is not a known implementation ({', '.join(CATALOGUE)}), nor package.module:object.{hint}"
        )
    return of(_object(target), target, signature or "logits")


def of(loss: Any, name: str, signature: str = "logits") -> Implementation:
    """An object of the caller's as an implementation: a function, a class or a module of torch's signature."""
    named = CHOICES if isinstance(loss, type) or inspect.isroutine(loss) else frozenset()
    takes = _arguments(loss)
    offers = named if takes is None else CHOICES & takes
    if takes is None or takes & {"bias", "linear_bias"}:
        offers |= {"bias"}
    plain = inspect.isfunction(loss) and signature != "hidden" and ":" in name
    return Implementation(
        name,
        lambda: _adapted(loss, signature),
        signature=signature,
        offers=offers | TORCHS | {"probabilities", "unnormalised", "dims"},
        at=name if plain else None,
    )


def _object(target: str) -> Any:
    module, _, path = target.partition(":")
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as reason:  # the module is the caller's, and may raise anything
        raise LoadError(f"{target} cannot be loaded: {type(reason).__name__}: {reason}") from reason
    if not callable(found):
        raise LoadError(f"{target} is a {type(found).__name__}; a function, a class or a module is wanted.")
    return found


def _arguments(loss: Any) -> set[str] | None:
    """Names of the arguments; None where every name may be one."""
    called = loss.forward if isinstance(loss, torch.nn.Module) else loss
    try:
        parameters = inspect.signature(called).parameters
    except ValueError:  # written in C
        return None
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return None
    return set(parameters)


def _adapted(loss: Any, signature: str) -> Loss:
    if isinstance(loss, type):
        if signature != "logits":
            raise LoadError(f"{loss.__name__} is a class with a head of its own; give the function that it calls.")
        return lambda input, target, **options: loss(**options)(input, target)
    return loss if signature != "hidden" else _with_bias(loss)


def _with_bias(loss: Callable[..., Any]) -> Loss:
    """torch's `linear_bias` under the name that `loss` has for it, and the loss alone where it returns more."""
    name = "bias" if "bias" in (_arguments(loss) or {"bias"}) else "linear_bias"

    def called(input: torch.Tensor, head: torch.Tensor, target: torch.Tensor, linear_bias=None, **options: Any):
        bias = {} if linear_bias is None else {name: linear_bias}
        result = loss(input, head, target, **bias, **options)
        return result[0] if isinstance(result, tuple) else result

    return called
