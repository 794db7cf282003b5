"""What is asked of a linear head: hidden states, weight, bias, target and budget belong together."""

from typing import Any

from torch import Tensor

from . import _check
from .errors import ArgumentError, DtypeError, OptionError, ShapeError


def linear(input: Any, linear_weight: Any, linear_bias: Any, target: Any, weight: Any) -> None:
    """Hidden states, a head and a target belong together."""
    head(input, linear_weight)
    _check.tensor("target", target)
    for name, other in (("linear_weight", linear_weight), ("target", target)):
        _check.same_device(input, other, name)
    _bias(input, linear_weight, linear_bias)
    for name, other in (("linear_weight", linear_weight), ("linear_bias", linear_bias)):
        if other is not None and other.dtype != input.dtype and not _check.autocast(input):
            raise DtypeError(
                f"input has dtype {input.dtype} and {name} {other.dtype}; expected one dtype outside torch.autocast.\n"
                f"  Pass {name}.to(input.dtype), or call under torch.autocast."
            )
    _check.weights(weight, f"({linear_weight.shape[0]},)")
    _check.weight_of(weight, linear_weight.shape[0])
    if weight is not None:
        _check.same_device(input, weight, "weight")


def head(input: Any, linear_weight: Any) -> None:
    """Hidden states as wide as the head."""
    _check.logits("input", input)
    _check.logits("linear_weight", linear_weight)
    if input.ndim == 0 or linear_weight.ndim < 2:
        raise ShapeError(
            f"input has shape {tuple(input.shape)} and linear_weight {tuple(linear_weight.shape)}; expected (..., D) "
            "and (V, D), or (V, d1, ..., dK, D).\n  A head without classes or width has no logits."
        )
    if input.shape[-1] != linear_weight.shape[-1]:
        cure = "input.shape[-1] is the width of linear_weight.shape[-1]"
        if input.shape[-1] == linear_weight.shape[0] and linear_weight.ndim == 2:
            cure = "Is the head the other way round? Pass linear_weight.T"
        raise ShapeError(
            f"input of shape {tuple(input.shape)} is {input.shape[-1]} wide and linear_weight of shape "
            f"{tuple(linear_weight.shape)} {linear_weight.shape[-1]}; expected the same.\n  {cure}."
        )


def _bias(input: Tensor, linear_weight: Tensor, bias: Any) -> None:
    if bias is None:
        return
    _check.logits("linear_bias", bias)
    _check.same_device(input, bias, "linear_bias")
    if bias.shape != linear_weight.shape[:-1]:
        raise ShapeError(
            f"linear_bias has shape {tuple(bias.shape)}; expected {tuple(linear_weight.shape[:-1])}, one for each "
            f"class of linear_weight of shape {tuple(linear_weight.shape)}.\n  Leave it out if the head has none."
        )


def linear_target(input: Tensor, linear_weight: Tensor, target: Tensor, ignored: int) -> None:
    """Labels of the shape of `input` without its width, or probabilities with the classes in its place; the further
    dimensions of the head come last."""
    lead, (classes, *places) = tuple(input.shape[:-1]), linear_weight.shape[:-1]
    labels, soft = (*lead, *places), (*lead, classes, *places)
    if tuple(target.shape) == soft and (soft != labels or target.is_floating_point()):
        return _check.probabilities(target, target, ignored)
    if tuple(target.shape) != labels:
        got = tuple(target.shape)
        longer = f"The target has {got[-1] - labels[-1]} rows too many" if _longer(got, labels) else ""
        raise ShapeError(
            f"target of shape {got} does not fit input of shape {tuple(input.shape)} and linear_weight of shape "
            f"{tuple(linear_weight.shape)}.\n  Labels need {labels}; class probabilities need {soft}.\n  "
            + (f"{longer}: for the next token pass target[..., 1:] with input[..., :-1, :]." if longer else _RESHAPE)
        )
    if target.dtype not in _check.INTEGERS:
        raise DtypeError(
            f"target has dtype {target.dtype}; labels must be integers (any width, signed or not).\n"
            f"  Pass target.long(); class probabilities need the shape {soft}."
        )
    _check.dense("target", target)


_RESHAPE = "The target has the shape of input, with the classes of the head, or nothing, in place of the width."


def _longer(got: tuple[int, ...], want: tuple[int, ...]) -> bool:
    return len(got) == len(want) > 0 and got[:-1] == want[:-1] and got[-1] > want[-1]


def memory_budget(value: Any) -> int | None:
    """Bytes, or None for the default."""
    if value is None:
        return None
    size = _check.integer(value)
    if size is None:
        raise ArgumentError(
            f"memory_budget must be an int, got {type(value).__name__} ({value!r}).\n"
            f"  It is a number of bytes: 64 * 2**20 for 64 MB, None for the default."
        )
    if size <= 0:
        raise OptionError(f"memory_budget is {size} bytes; expected at least 1.\n  None is the default.")
    return size
