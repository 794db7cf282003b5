"""Every question asked of the caller, once, at the door; below it, arguments are already true.

A question that only values can answer (is every label a class?) is asked where the values are
first read, inside the op, by :func:`labels`: so it is answered under torch.compile and vmap too.
"""

import math
import numbers
import operator
import warnings
from typing import Any

import torch
from torch import Tensor

from .errors import ArgumentError, DeviceError, DimError, DtypeError, LayoutError, OptionError, ShapeError, TargetError

LOGITS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
REDUCTIONS = ("mean", "sum", "none")


def tensor(name: str, value: Any) -> None:
    """`value` is a tensor."""
    if not isinstance(value, Tensor):
        raise ArgumentError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}.\n  Pass torch.as_tensor({name})."
        )


def logits(name: str, value: Any) -> None:
    """`value` is a dense tensor of a float dtype that the kernels read."""
    tensor(name, value)
    if value.dtype not in LOGITS:
        raise DtypeError(
            f"{name} has dtype {value.dtype}; the loss is defined for float64, float32, bfloat16 and float16.\n"
            f"  {_dtype_cure(name, value.dtype)}"
        )
    dense(name, value)


def dense(name: str, value: Tensor) -> None:
    """`value` is strided: not sparse, not nested."""
    if value.is_nested:
        raise LayoutError(
            f"{name} is a nested tensor ({value.layout}); expected a strided one.\n"
            f"  Pass {name}.values(), all rows in one."
        )
    if value.layout is not torch.strided:
        raise LayoutError(f"{name} has layout {value.layout}; expected a strided one.\n  Pass {name}.to_dense().")


def _dtype_cure(name: str, dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return f"Complex logits have no order, so no peak: pass {name}.real or {name}.abs()."
    if dtype.is_floating_point:
        return f"Eight bits and less are storage formats: pass {name}.to(torch.bfloat16)."
    return f"Were the arguments swapped? Otherwise pass {name}.float()."


def reduction(value: Any) -> str:
    """One of torch's three reductions, or its old name for the mean."""
    if value == "elementwise_mean":
        warnings.warn("reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.", stacklevel=3)
        return "mean"
    if value not in REDUCTIONS:
        raise OptionError(f"{value!r} is not a valid value for reduction; expected one of {', '.join(REDUCTIONS)}.")
    return value


def token_weight(value: Any, shape: torch.Size, input: Tensor) -> None:
    """A real number for each row, or none at all."""
    if value is None:
        return
    tensor("token_weight", value)
    dense("token_weight", value)
    if value.dtype.is_complex or (value.is_floating_point() and value.dtype not in LOGITS):
        raise DtypeError(f"token_weight has dtype {value.dtype}; expected real numbers of 16 bits or more.")
    if value.shape != shape:
        raise ShapeError(
            f"token_weight has shape {tuple(value.shape)}; expected {tuple(shape)}, that of the labels: one for each "
            "row.\n  One for each class is weight."
        )
    same_device(input, value, "token_weight")


def num_items(value: Any, reduction: str) -> float | Tensor | None:
    """A number that is at least 0, or a float64 tensor of one; it takes the place of a mean's divisor."""
    if value is None:
        return None
    if reduction != "mean":
        raise OptionError(
            f"num_items divides a mean; with reduction={reduction!r} nothing is divided.\n  Leave it out."
        )
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.dtype.is_complex:
            raise ShapeError(f"num_items has shape {tuple(value.shape)} and dtype {value.dtype}; expected one number.")
        return value.detach().reshape(()).to(torch.float64)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentError(f"num_items must be a number or a tensor of one, got {type(value).__name__} ({value!r}).")
    if not 0.0 <= float(value) < math.inf:
        raise OptionError(f"num_items is {value}; expected how many rows the mean is over, in all batches that add up.")
    return float(value)


def places(value: Any) -> int:
    """How far labels may move."""
    by = integer(value)
    if by is None or by < 0:
        raise ArgumentError(f"shift must be an int of at least 0, got {type(value).__name__} ({value!r}).")
    return by


def forward_limit(value: Any, default: int) -> float:
    """Bytes of logits whose gradient is made in the forward pass."""
    if value is None:
        return default
    if isinstance(value, bool):
        return math.inf if value else -1
    size = integer(value)
    if size is None:
        raise ArgumentError(
            f"limit must be an int, True, False or None, got {type(value).__name__} ({value!r}).\n"
            f"  It is a number of bytes: 64 * 2**20 for 64 MiB of logits, True for any."
        )
    if size < 0:
        raise OptionError(f"limit is {size} bytes; expected at least 0.\n  False turns it off, None is the default.")
    return size


def shift(value: Any, target: Tensor) -> int:
    """By how many places labels move to the front of their last dimension."""
    by = places(value)
    if by and (target.ndim == 0 or target.is_floating_point()):
        raise OptionError(
            f"shift={by} moves labels along their last dimension; target has shape {tuple(target.shape)} and dtype "
            f"{target.dtype}.\n  Class probabilities are moved by the caller."
        )
    return by


def softcap(value: Any) -> float | None:
    """A bound of the logits above 0, or none."""
    return None if value is None else number("softcap", value, above_zero=True)


def z_loss(value: Any) -> float:
    """A coefficient of at least 0."""
    return number("z_loss", value)


def logit_scale(value: Any, input: Tensor) -> float | Tensor:
    """A number above 0, or a tensor of one, which may have a gradient."""
    if not isinstance(value, Tensor):
        return number("logit_scale", value, above_zero=True)
    if value.numel() != 1 or value.dtype not in LOGITS:
        raise ShapeError(
            f"logit_scale has shape {tuple(value.shape)} and dtype {value.dtype}; expected one real number."
        )
    if value.ndim:
        same_device(input, value, "logit_scale")
    return value.reshape(())


def number(name: str, value: Any, above_zero: bool = False) -> float:
    """A finite number of at least 0, or above it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentError(f"{name} must be a number, got {type(value).__name__} ({value!r}).")
    real = float(value)
    if not 0.0 <= real < math.inf or (above_zero and real == 0.0):
        raise OptionError(f"{name} is {value}; expected a finite number {'above' if above_zero else 'of at least'} 0.")
    return real


def all_ignored(value: Any) -> float:
    """What a mean over no rows is: torch's nan, or 0."""
    if value not in ("nan", "zero"):
        raise OptionError(f"{value!r} is not a valid value for all_ignored; expected 'nan' (as torch) or 'zero'.")
    return math.nan if value == "nan" else 0.0


def result_dtype(value: Any) -> torch.dtype | None:
    """A float dtype for the loss, or None for torch's choice."""
    if value is not None:
        dtype(value)
        if value not in LOGITS:
            raise DtypeError(f"dtype={value} is none for a loss; expected float64, float32, bfloat16 or float16.")
    return value


def ignore_index(value: Any) -> int:
    """One integer; torch has no way to say "none", and neither have we."""
    index = integer(value)
    if index is None:
        raise ArgumentError(
            f"ignore_index must be an int, got {type(value).__name__} ({value!r}).\n"
            "  To ignore nothing, leave it at -100; to ignore several labels, map them to one first."
        )
    if not -(2**63) <= index < 2**63:
        raise OptionError(f"ignore_index={index} is no 64-bit integer, so no label can be equal to it.")
    return index


def integer(value: Any) -> int | None:
    """An int, a numpy integer or a tensor of one; a bool is none of these."""
    if type(value) is int:
        return value
    boolean = isinstance(value, bool) or (isinstance(value, Tensor) and (value.ndim > 0 or value.dtype not in INTEGERS))
    try:
        return None if boolean else operator.index(value)
    except TypeError:
        return None


def label_smoothing(value: Any) -> float:
    """A share of the target, 0 to 1; torch lets -0.1 and nan pass as 0."""
    if type(value) is float:
        share = value
    elif isinstance(value, numbers.Real) or (isinstance(value, Tensor) and value.ndim == 0):
        share = float(value)
    else:
        raise ArgumentError(f"label_smoothing must be a float, got {type(value).__name__} ({value!r}).")
    if not 0.0 <= share <= 1.0:  # nan is refused too
        raise OptionError(
            f"label_smoothing must be between 0.0 and 1.0, got {value}.\n"
            "  It is the share of the target spread evenly over all classes; 0.1 is usual."
        )
    return share


def dim_of_any(value: Any) -> int:
    """A dimension of a tensor that is not known yet."""
    at = integer(value)
    if at is None:
        raise ArgumentError(f"dim must be an int, got {type(value).__name__} ({value!r}).")
    return at


def dim(value: Any, ndim: int) -> int:
    """A dimension of the tensor, counted from the front."""
    at = dim_of_any(value)
    span = max(ndim, 1)
    if not -span <= at < span:
        raise DimError(f"dim {at} is out of range: a tensor of {ndim} dimensions has dims {-span} ... {span - 1}.")
    return at % span


def dtype(value: Any) -> None:
    """A torch.dtype."""
    if not isinstance(value, torch.dtype):
        raise ArgumentError(f"dtype must be a torch.dtype, got {type(value).__name__} ({value!r}).")


def weights(weight: Any, shape: str = "(V,)") -> None:
    """Real numbers in a row, or none at all; how many is known when the logits come."""
    if weight is None:
        return
    tensor("weight", weight)
    dense("weight", weight)
    if weight.dtype.is_complex or (weight.is_floating_point() and weight.dtype not in LOGITS):
        raise DtypeError(f"weight has dtype {weight.dtype}; expected real numbers of 16 bits or more, one a class.")
    if weight.ndim != 1:
        raise ShapeError(f"weight has shape {tuple(weight.shape)}; expected {shape}, one weight for each class.")


def weight_of(weight: Tensor | None, classes: int) -> None:
    """One weight a class of a head."""
    if weight is not None and weight.shape != (classes,):
        raise ShapeError(
            f"weight has shape {tuple(weight.shape)}; expected ({classes},), one for each class of the head."
        )


def class_weight(weight: Any, input: Tensor) -> None:
    """One weight a class, or none at all."""
    classes = input.shape[_class_dim(input)]
    weights(weight, f"({classes},)")
    if weight is None:
        return
    if weight.shape != (classes,):
        raise ShapeError(
            f"weight has shape {tuple(weight.shape)}; expected ({classes},), one for each class of logits of shape "
            f"{tuple(input.shape)}.\n  weight re-balances classes; to weight rows, take reduction='none' and multiply."
        )
    same_device(input, weight, "weight")


def same_device(input: Tensor, other: Tensor, name: str) -> None:
    """Both tensors live in the same place; torch reads garbage from a meta tensor it takes for a CPU one."""
    if other.device != input.device:
        raise DeviceError(
            f"input is on {input.device} and {name} on {other.device}; expected one device.\n"
            f"  Pass {name}.to(input.device)."
        )


def autocast(tensor: Tensor) -> bool:
    """Does torch narrow products there? It refuses to say so of the meta device."""
    return not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)


def _class_dim(input: Tensor) -> int:
    return 0 if input.ndim == 1 else 1


def loss(input: Any, target: Any, weight: Any, name: str = "input") -> None:
    """Logits or log-probabilities, target and class weights belong together."""
    logits(name, input)
    tensor("target", target)
    if input.ndim == 0:
        raise ShapeError(f"{name} has no dimensions; expected (V,), (N, V) or (N, V, d1, ..., dK).")
    same_device(input, target, "target")
    class_weight(weight, input)


def probabilities(input: Tensor, target: Tensor, ignored: int) -> None:
    """A target of the logits' own shape is a distribution over the classes."""
    if not target.dtype.is_floating_point:
        raise DtypeError(
            f"target has the shape of the logits, {tuple(target.shape)}, and dtype {target.dtype}: class probabilities "
            f"must be floats.\n  If it is one-hot, pass target.argmax({_class_dim(input)}) (labels, faster) or "
            "target.float() (probabilities)."
        )
    if target.dtype not in LOGITS:
        raise DtypeError(
            f"target has dtype {target.dtype}; class probabilities are read as float64, float32, bfloat16 or float16.\n"
            "  Pass target.to(input.dtype)."
        )
    if ignored >= 0:
        raise OptionError(
            f"ignore_index={ignored} has no meaning for class probabilities, which carry no label to compare with.\n"
            "  Leave it out, and give the rows to ignore a target of zeros."
        )


def indices(input: Tensor, target: Tensor) -> None:
    """Labels: integers, one for each row of the logits."""
    at = _class_dim(input)
    want = input.shape[:at] + input.shape[at + 1 :]
    if target.shape != want and not (input.ndim == 1 and target.shape == (1,)):
        raise ShapeError(_shape_complaint(input, target, tuple(want)))
    if target.dtype not in INTEGERS:
        raise DtypeError(
            f"target has dtype {target.dtype}; labels must be integers (any width, signed or not).\n"
            f"  Pass target.long(); class probabilities need the shape of the logits, {tuple(input.shape)}."
        )
    dense("target", target)


def labels_only(target: Tensor) -> None:
    """By-products ask where a label stands among the classes."""
    if target.is_floating_point():
        raise DtypeError(
            f"target has dtype {target.dtype}; the rank, and whether the row is correct, are asked of labels: integers."
            "\n  Pass target.argmax over the classes, or take the loss alone of class probabilities."
        )


def _shape_complaint(input: Tensor, target: Tensor, want: tuple[int, ...]) -> str:
    got, whole, at = tuple(target.shape), tuple(input.shape), _class_dim(input)
    text = (
        f"target of shape {got} does not fit logits of shape {whole}.\n"
        f"  Labels need {want}; class probabilities need {whole}.\n  "
    )
    if got == (*whole[:1], 1, *whole[2:]):
        return text + f"One dimension too many: pass target.squeeze({at})."
    if input.ndim > 2 and got == whole[:-1]:
        return text + f"The classes are on dim {at}; if yours come last, pass input.movedim(-1, 1)."
    if input.ndim > 2 and math.prod(got) == math.prod(want):
        return text + f"The number of labels is right: pass target.reshape({want})."
    if got[:1] != want[:1]:
        return text + f"The batches differ: {want[0] if want else 1} rows of logits, {got[0] if got else 1} of labels."
    return text + f"The classes are on dim {at}; every other dimension of the target is that of the logits."


def labels(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """The labels as int64, with -1 where one is ignored; refuses what is not a class.

    The comparison with `ignore_index` is made on the values, never after a wrap-around: a uint8 label
    156 is not -100, and a uint64 label 2**64 - 100 is not either.
    """
    index = target.to(torch.int64)
    kept = index != ignore_index
    wrong = kept & ((index < 0) | (index >= classes))
    if target.dtype is torch.uint64:  # beyond 2**63 - 1 the conversion wraps
        wrong, kept = wrong | (index < 0), kept | (index < 0)
    if wrong.any():
        raise TargetError(_label_complaint(target, wrong, classes))
    return index.where(kept, -1)


def _label_complaint(target: Tensor, wrong: Tensor, classes: int) -> str:
    where = wrong.nonzero()
    values = target.to("cpu")[tuple(where.to("cpu").T)].tolist() if target.ndim else [target.item()]
    first = [f"target[{', '.join(map(str, at))}] = {v}" for at, v in zip(where[:5].tolist(), values, strict=False)]
    shown = ", ".join(first) + (", ..." if len(values) > 5 else "") if target.ndim else f"target = {values[0]}"
    count, total = len(values), target.numel()
    span = f"classes are 0 ... {classes - 1}" if classes else "there are no classes"
    if classes == 0:
        cure = "The class dimension of the logits is empty: was a layer left without outputs?"
    elif all(v == classes for v in values):
        cure = f"Every one is {classes}: are the labels counted from 1? Pass target - 1, or one more logit."
    elif all(v == 255 for v in values):
        cure = "Every one is 255, the usual void label of segmentation maps: pass ignore_index=255."
    elif all(v < 0 for v in values):
        cure = f"Negative labels mark padding: pass ignore_index={values[0]}, or fix the labels."
    else:
        cure = "A tokenizer larger than the model, or a padding id? Pass ignore_index=..., or fix the labels."
    return f"{shown}: not a class ({span}); {count:,} of {total:,} targets out of range.\n  {cure}"
