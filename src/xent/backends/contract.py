"""The functions a backend owes, and their meaning. `reference` is the definition of right.

Shapes: rows are ``(outer, V, inner)`` of float64, float32, bfloat16 or float16, any strides; facts
and factors are float64, ``(outer, inner)``. A target is either labels, of any integer dtype with
``outer * inner`` elements in any shape, or an attraction of the shape of the rows, any float dtype.

A backend keeps these promises, and `tests/backends` holds it to them:

* the numbers of `docs/design/numerics.md`, as `reference` gives them;
* the same bits for any number of threads, for a row alone or in a batch, for any strides;
* a label that is not a class raises TargetError, at once or, on a GPU, later;
* a zero factor or attraction leaves its term out;
* nothing is written but what is returned, and `out`.
"""

from typing import Protocol

import torch
from torch import Tensor

from ..summary import RowSummary

IGNORED, NO_CLASS = -1, -2
"""What `labels` has in place of a class."""


class Backend(Protocol):
    """What a backend module has."""

    name: str

    def serves(self, device: torch.device) -> str | None:
        """None if tensors on `device` can be served here, else why not."""
        ...

    def row_summary(
        self, rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, mixed: bool
    ) -> RowSummary:
        """Facts about each row; `mix` only when `mixed`."""
        ...

    def row_grad(
        self,
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
        """``hard (mass p_j - a_j) + smooth (sum(w) p_j - w_j)``, in the dtype of the rows; into `out`, if there
        is one, which may be `rows` itself where the caller needs them no more."""
        ...

    def softmax(self, rows: Tensor, log: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """``p`` or ``log p`` in `dtype`, and the facts `peak` and `rest`."""
        ...

    def exact_sum(self, values: Tensor) -> Tensor:
        """Sum of float64 `values` over the last dimension, one rounding off at most, in any order the same."""
        ...

    def row_spread(self, rows: Tensor, peak: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``sum exp(x_j - peak) (x_j - peak)``, the number of ``x_j > own``, float64; and the first class at the peak,
        or that is nan, -1 where there is none, int64. Each ``(outer, inner)``; `own` is of any float dtype."""
        ...

    def row_spread_grad(
        self, rows: Tensor, peak: Tensor, rest: Tensor, mean: Tensor, lse: Tensor, entropy: Tensor
    ) -> Tensor:
        """``p_j (lse - entropy (x_j - peak - mean))``, in the dtype of the rows: the gradient of the log-sum-exp and of
        the entropy with these factors, where ``mean = sum p_j (x_j - peak)``; 0 in a row whose factors are 0."""
        ...

    def labels(self, target: Tensor, classes: int, ignore_index: int) -> Tensor:
        """Labels of any integer dtype as int64 classes: `IGNORED` where one is, `NO_CLASS` where an error follows."""
        ...

    def rescale(self, values: Tensor, factor: Tensor) -> None:
        """``values *= factor``, one number, in place; where it is 1 nothing is read or written."""
        ...

    def softmax_grad(self, rows: Tensor, peak: Tensor, rest: Tensor, grad: Tensor) -> Tensor:
        """``p_j (g_j - sum_k p_k g_k)``, in the dtype of the rows."""
        ...
