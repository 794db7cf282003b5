"""Kernels in Triton for GPUs: one read of the logits for the loss, one read and one write for the gradient.

Triton is imported with the first tensor that is served here, not before. Bits follow from V and the dtypes; AMD and
Intel GPUs are served by the same code, untested. `docs/design/gpu.md` has the design and the figures.
"""

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ...summary import RowSummary
from .. import reference

name = "triton"


def serves(device: torch.device) -> str | None:
    """CUDA, ROCm and XPU tensors where Triton is installed; CPU tensors in its interpreter."""
    if device.type not in ("cuda", "xpu") and not (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"serves GPU tensors, not {device.type}"
    return _missing()


@cache
def _missing() -> str | None:
    return None if find_spec("triton") else "Triton is not installed: pip install triton"


@cache
def _calls() -> Any:
    return import_module(".calls", __package__)


@cache
def _losses() -> Any:
    return import_module(".losses", __package__)


def row_summary(
    rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, mixed: bool
) -> RowSummary:
    """See `xent.backends.contract`."""
    home = _calls() if rows.numel() else reference
    return home.row_summary(rows, target, class_weight, ignore_index, mixed)


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
    home = _calls() if rows.numel() else reference
    return home.row_grad(rows, target, class_weight, ignore_index, peak, rest, hard, smooth, out)


def softmax(rows: Tensor, log: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """See `xent.backends.contract`."""
    return (_calls() if rows.numel() else reference).softmax(rows, log, dtype)


def softmax_grad(rows: Tensor, peak: Tensor, rest: Tensor, grad: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    return (_calls() if rows.numel() else reference).softmax_grad(rows, peak, rest, grad)


def row_spread(rows: Tensor, peak: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `xent.backends.contract`."""
    return (_calls() if rows.numel() else reference).row_spread(rows, peak, own)


def row_spread_grad(rows: Tensor, peak: Tensor, rest: Tensor, mean: Tensor, lse: Tensor, entropy: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    return (_calls() if rows.numel() else reference).row_spread_grad(rows, peak, rest, mean, lse, entropy)


def labels(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """See `xent.backends.contract`."""
    return (_calls() if target.numel() else reference).labels(target, classes, ignore_index)


def rescale(values: Tensor, factor: Tensor) -> None:
    """See `xent.backends.contract`."""
    if values.numel():
        _calls().rescale(values, factor)


def exact_sum(values: Tensor) -> Tensor:
    """See `xent.backends.contract`."""
    return (_calls() if values.numel() else reference).exact_sum(values)


def loss(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `losses.loss`."""
    return _losses().loss(*args)


def loss_and_gradient(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None:
    """See `losses.loss_and_gradient`."""
    return _losses().loss_and_gradient(*args)


def tiled(*args: Any) -> Any:
    """See `losses.Tiled`."""
    return _losses().Tiled(*args)


def step(*args: Any, **how: Any) -> Tensor:
    """The gradient of :func:`loss`: see `calls.row_grad`."""
    return _calls().row_grad(*args, **how)
