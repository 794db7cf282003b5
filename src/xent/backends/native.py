"""Kernels in C++ for the CPU (csrc/): the facts of a row in two passes over its logits, nothing written but the result.

They keep the contract within 2 ulp (a loss) and 3 ulp (a gradient entry) of float32, the definition being
`reference`, which also serves what has no kernel: a distribution whose dtype is not that of the logits.
Threads are torch's: `torch.set_num_threads` is obeyed. `docs/design/cpu.md` has the design and the figures.
"""

import ctypes
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _check
from ..errors import ShapeError
from ..summary import RowSummary
from . import pages, reference

_native: Any = None
_missing: str | None = None
try:
    _native = import_module("._native", __package__)
except ImportError as reason:
    _missing = f"not compiled ({reason}); reinstall where there is a C++ compiler"

name = "native"

_KINDS = ("row_summary", "row_grad", "softmax", "log_softmax", "softmax_grad", "row_spread", "row_spread_grad")
_LOSS = 7
_TYPES = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
_LABELS = {
    torch.int64: 0,
    torch.int32: 1,
    torch.int16: 2,
    torch.int8: 3,
    torch.uint64: 4,
    torch.uint32: 5,
    torch.uint16: 6,
    torch.uint8: 7,
}
_DISTRIBUTION = 8
_TOGETHER = 4096
"""Up to this many classes a group of rows is written before the odd ones among them are read again: not in place."""
_NOTHING = (0, 0, 0, 0)


def serves(device: torch.device) -> str | None:
    """CPU tensors, where the module was compiled."""
    return _missing if device.type == "cpu" else f"serves CPU tensors, not {device.type}"


def row_summary(
    rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, mixed: bool
) -> RowSummary:
    """See `xent.backends.contract`."""
    if not _fits(rows, target):
        return reference.row_summary(rows, target, class_weight, ignore_index, mixed)
    facts = [rows.new_empty((rows.shape[0], rows.shape[2]), dtype=torch.float64) for _ in range(5)]
    _run("row_summary", rows, target, class_weight, ignore_index, mixed, facts=facts)
    return RowSummary(*facts)


def row_grad(
    rows: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    peak: Tensor,
    rest: Tensor,
    hard: Tensor,
    smooth: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """See `xent.backends.contract`."""
    if not _fits(rows, target):
        return reference.row_grad(rows, target, class_weight, ignore_index, peak, rest, hard, smooth, out)
    if out is not None and out is rows and rows.shape[1] <= _TOGETHER:
        return out.copy_(row_grad(rows, target, class_weight, ignore_index, peak, rest, hard, smooth))
    out = pages.empty_like(rows) if out is None else out
    one = hard.numel() == 1 or (not any(hard.stride()) and (smooth is None or not any(smooth.stride())))
    factors = (hard, smooth) if one else (hard.contiguous(), None if smooth is None else smooth.contiguous())
    facts = (peak.contiguous(), rest.contiguous(), None, None, None)
    _run("row_grad", rows, target, class_weight, ignore_index, facts=facts, factors=factors, step=not one, out=out)
    return out


def softmax(rows: Tensor, log: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """See `xent.backends.contract`."""
    if torch.promote_types(rows.dtype, dtype) is dtype:
        rows = rows.to(dtype)  # exact
    if dtype is not rows.dtype or rows.shape[1] == 0:
        return reference.softmax(rows, log, dtype)
    peak, rest = (rows.new_empty((rows.shape[0], rows.shape[2]), dtype=torch.float64) for _ in range(2))
    out = pages.empty_like(rows)
    _run("log_softmax" if log else "softmax", rows, facts=(peak, rest, None, None, None), out=out)
    return out, peak, rest


def softmax_grad(rows: Tensor, peak: Tensor, rest: Tensor, grad: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    if grad.dtype is not rows.dtype or rows.shape[1] == 0:
        return reference.softmax_grad(rows, peak, rest, grad)
    out = pages.empty_like(rows)
    _run("softmax_grad", rows, facts=(peak.contiguous(), rest.contiguous(), None, None, None), out=out, slope=grad)
    return out


def row_spread(rows: Tensor, peak: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `xent.backends.contract`."""
    if rows.shape[1] == 0:
        return reference.row_spread(rows, peak, own)
    moment, above, first = (torch.empty_like(peak, memory_format=torch.contiguous_format) for _ in range(3))
    given = peak.contiguous(), own.to(torch.float64).contiguous()
    _run("row_spread", rows, facts=(*given, moment, above, first))
    return moment, above, first.to(torch.int64)


def row_spread_grad(rows: Tensor, peak: Tensor, rest: Tensor, mean: Tensor, lse: Tensor, entropy: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    if rows.shape[1] == 0:
        return reference.row_spread_grad(rows, peak, rest, mean, lse, entropy)
    out = pages.empty_like(rows)
    facts = (peak.contiguous(), rest.contiguous(), mean.contiguous(), None, None)
    _run("row_spread_grad", rows, facts=facts, factors=(lse.contiguous(), entropy.contiguous()), out=out)
    return out


def loss(
    rows: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    factors: tuple[float, float],
    mean: bool,
    *,
    losses: Tensor | None = None,
    facts: tuple[Tensor, Tensor] | None = None,
    gradient: Tensor | None = None,
) -> tuple[float, float]:
    """The sum or mean of ``factors[0] hard + factors[1] smooth`` over the rows, and what a mean divides by.

    On the way, where there is room for it: the loss of each row (float64), its facts `peak` and `rest`, and the
    gradient of what is returned. All tensors are known to fit; a gradient lies as the rows do.
    """
    weight = weight_sum = None
    if class_weight is not None:
        weight = class_weight.to(torch.float64).contiguous()
        weight_sum = exact_sum(weight)
    kind = _LABELS.get(target.dtype, _DISTRIBUTION)
    if kind is _DISTRIBUTION:
        place = _view(target)
    else:
        target = target.contiguous()
        place = target.data_ptr(), 0, 0, 0
    peak, rest = facts or (None, None)
    ours, theirs = factors
    wrong, value, divisor = _native.loss(
        *(_LOSS, _TYPES[rows.dtype]),
        *_layout(rows),
        kind,
        *place,
        ignore_index,
        *(_address(weight), _address(weight_sum), theirs != 0),
        *(_address(peak), _address(rest), 0, 0, 0),
        *(0, 0, 0),  # factors of the gradient: those of the loss
        *_view(gradient),
        *_NOTHING,
        *(ours, theirs, _address(losses), mean),
    )
    if wrong:
        _check.labels(target, rows.shape[1], ignore_index)  # raises, with the words
    return value, divisor


labels, rescale = reference.labels, reference.rescale


def exact_sum(values: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    if values.ndim != 1 or values.dtype is not torch.float64:
        return reference.exact_sum(values)
    values = values.contiguous()
    return values.new_tensor(_native.exact_sum(values.data_ptr(), values.numel()))


def _fits(rows: Tensor, target: Tensor) -> bool:
    return rows.shape[1] > 0 and (target.dtype in _LABELS or target.dtype is rows.dtype)


def _run(
    kind: str,
    rows: Tensor,
    target: Tensor | None = None,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    mixed: bool = False,
    *,
    facts,
    factors=(None, None),
    step: bool = True,
    out: Tensor | None = None,
    slope: Tensor | None = None,
) -> None:
    """Hand the call over as numbers and addresses; every tensor named here outlives it."""
    _fit(rows, target, class_weight, facts, factors, slope)
    place = 0, 0, 0, 0
    if target is not None and target.is_floating_point():
        place = _view(target)
    elif target is not None:
        target = target.contiguous()
        place = target.data_ptr(), 0, 0, 0
    weight = weight_sum = None
    if class_weight is not None:
        weight = class_weight.to(torch.float64).contiguous()
        weight_sum = exact_sum(weight)
    wrong = _native.run(
        _KINDS.index(kind),
        _TYPES[rows.dtype],
        *_layout(rows),
        -1 if target is None else _LABELS.get(target.dtype, _DISTRIBUTION),
        *place,
        ignore_index,
        _address(weight),
        _address(weight_sum),
        int(mixed),
        *map(_address, facts),
        *map(_address, factors),
        step,
        *_view(out),
        *_view(slope),
        0,
        0,
        0,
    )
    if wrong:
        assert target is not None
        _check.labels(target, rows.shape[1], ignore_index)  # raises, with the words


def _fit(
    rows: Tensor, target: Tensor | None, class_weight: Tensor | None, facts, factors, slope: Tensor | None
) -> None:
    """Addresses carry no sizes: whoever calls an op by its bare name is told here, not by a fault."""
    outer, classes, inner = rows.shape
    for fact in (*facts, *factors):
        if fact is not None and (fact.shape != (outer, inner) or fact.dtype is not torch.float64):
            raise ShapeError(
                f"a fact of rows {tuple(rows.shape)} is float64 of shape {(outer, inner)}, got {_of(fact)}."
            )
    soft = target is not None and target.is_floating_point()
    if target is not None and not soft and target.numel() != outer * inner:
        raise ShapeError(f"rows {tuple(rows.shape)} take {outer * inner} labels, got {_of(target)}.")
    for other in (slope, target if soft else None):
        if other is not None and other.shape != rows.shape:
            raise ShapeError(f"rows have shape {tuple(rows.shape)}; expected the same, got {_of(other)}.")
    if class_weight is not None and class_weight.shape != (classes,):
        raise ShapeError(f"{classes} classes take as many weights, got {_of(class_weight)}.")


def _of(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def _layout(rows: Tensor) -> tuple[int, ...]:
    """Shape, address and strides of ``(N, V)`` or ``(outer, V, inner)``."""
    shape = rows.shape
    return (*shape, 1, *_view(rows)) if len(shape) == 2 else (*shape, *_view(rows))


def _view(tensor: Tensor | None) -> tuple[int, ...]:
    """Address and strides. A dimension of one has no stride that matters, so the classes may call theirs 1."""
    if tensor is None:
        return _NOTHING
    strides = tensor.stride()
    outer, classes, inner = strides if len(strides) == 3 else (*strides, 1)
    return tensor.data_ptr(), outer, 1 if tensor.shape[1] == 1 else classes, inner


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _borrow_threads() -> None:
    """torch's parallel_for, by its address: no second pool, no torch header."""
    library = next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"), None)
    found = None if library is None else getattr(ctypes.CDLL(str(library)), "torch_parallel_for", None)
    if found is not None:
        _native.set_parallel_for(ctypes.cast(found, ctypes.c_void_p).value)


if _native is not None:
    _borrow_threads()
