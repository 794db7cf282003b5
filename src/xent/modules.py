"""The losses as modules: subclasses of torch.nn's own, so that ``isinstance`` tests elsewhere hold."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from . import _check, _check_head, functional, linear


class Softmax(nn.Softmax):
    """:func:`xent.softmax` over `dim` as a module; shapes, dtypes and errors are those of the function.

    Example:
        >>> xent.Softmax(dim=1)(torch.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.5000]])

    A :class:`torch.nn.Softmax`, and differs from it as the functions do.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.softmax(input, self.dim, _stacklevel=5)


class LogSoftmax(nn.LogSoftmax):
    """:func:`xent.log_softmax` over `dim` as a module; shapes, dtypes and errors are those of the function.

    Example:
        >>> xent.LogSoftmax(dim=1)(torch.tensor([[0.0, 0.0]]))
        tensor([[-0.6931, -0.6931]])

    A :class:`torch.nn.LogSoftmax`, and differs from it as the functions do.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.log_softmax(input, self.dim, _stacklevel=5)


class NLLLoss(nn.NLLLoss):
    """:func:`xent.nll_loss` as a module; options are refused here, at construction, not at the first batch.

    Raises:
        OptionError: an unknown reduction.
        ArgumentError: `weight` is no tensor, `ignore_index` no int.
        XentError: in a call, what :func:`xent.nll_loss` raises.

    Example:
        >>> xent.NLLLoss(ignore_index=255)
        NLLLoss(ignore_index=255, reduction='mean')

    A :class:`torch.nn.NLLLoss`, and differs from it as the functions do, and by a ``repr`` that shows the options.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        _validate(weight, ignore_index, reduction)
        super().__init__(weight, size_average, ignore_index, reduce, reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.nll_loss(
            input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        return _configuration(self.weight, self.ignore_index, self.reduction)


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """:func:`xent.cross_entropy` as a module; options are refused here, at construction, not at the first batch.

    `token_weight`, `num_items` and a `logit_scale` with a gradient belong to a call, and are named there:
    ``loss(input, target, num_items=...)``.

    Raises:
        OptionError: an unknown reduction, smoothing outside 0 ... 1, a `softcap` that is not above 0.
        ArgumentError: `weight` is no tensor, `ignore_index` no int, `label_smoothing` no number.
        XentError: in a call, what :func:`xent.cross_entropy` raises.

    Example:
        >>> loss = xent.CrossEntropyLoss(label_smoothing=0.1)
        >>> loss
        CrossEntropyLoss(ignore_index=-100, reduction='mean', label_smoothing=0.1)
        >>> loss(torch.tensor([[2.0, 1.0, 0.1]]), torch.tensor([0]))
        tensor(0.5137)
        >>> xent.CrossEntropyLoss(dim=-1, softcap=30.0)
        CrossEntropyLoss(ignore_index=-100, reduction='mean', label_smoothing=0.0, dim=-1, softcap=30.0)

    A :class:`torch.nn.CrossEntropyLoss`, and differs from it as the functions do, and by a ``repr`` that shows the
    options.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        all_ignored: str = "nan",
        dtype: torch.dtype | None = None,
        dim: int | None = None,
        shift: int = 0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        z_loss: float = 0.0,
    ) -> None:
        _validate(weight, ignore_index, reduction)
        label_smoothing = _check.label_smoothing(label_smoothing)
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.options = _options(
            all_ignored=all_ignored,
            dtype=dtype,
            dim=dim,
            shift=shift,
            softcap=softcap,
            logit_scale=logit_scale,
            z_loss=z_loss,
        )

    def forward(self, input: Tensor, target: Tensor, **of_call: Any) -> Tensor:
        return functional.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            **(self.options | of_call),
        )

    def extra_repr(self) -> str:
        text = _configuration(self.weight, self.ignore_index, self.reduction)
        return f"{text}, label_smoothing={self.label_smoothing}{_text(self.options)}"


class LinearCrossEntropyLoss(nn.modules.loss._WeightedLoss):
    """A linear head and its loss, :func:`xent.linear_cross_entropy`, as a module; its parameters are those of torch's.

    Raises:
        OptionError: an unknown reduction, smoothing outside 0 ... 1.
        ShapeError: `weight` is not one number a class.
        ArgumentError: `weight` is no tensor, `ignore_index` or `memory_budget` no int, `label_smoothing` no number.
        XentError: in a call, what :func:`xent.linear_cross_entropy` raises.

    Example:
        >>> head = xent.LinearCrossEntropyLoss(4, 10, bias=True)
        >>> head
        LinearCrossEntropyLoss(
          in_features=4, num_classes=10, ignore_index=-100, reduction='mean', label_smoothing=0.0
          (linear): Linear(in_features=4, out_features=10, bias=True)
        )
        >>> head(torch.zeros(3, 4), torch.tensor([0, 1, 2])).shape
        torch.Size([])

    Differs from :class:`torch.nn.LinearCrossEntropyLoss` (torch 2.13) by `memory_budget` in place of `options`, and by
    the options of :class:`CrossEntropyLoss` but `dim`; `dtype` is that of the parameters, that of the loss is named in
    a call.
    """

    ignore_index: int
    label_smoothing: float

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        all_ignored: str = "nan",
        shift: int = 0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        z_loss: float = 0.0,
        memory_budget: int | None = None,
    ) -> None:
        _validate(weight, ignore_index, reduction)
        _check.weight_of(weight, num_classes)
        super().__init__(weight, None, None, reduction)
        self.num_classes, self.out_features = num_classes, tuple(out_features)
        self.ignore_index = ignore_index
        self.label_smoothing = _check.label_smoothing(label_smoothing)
        self.options = _options(
            all_ignored=all_ignored, shift=shift, softcap=softcap, logit_scale=logit_scale, z_loss=z_loss
        )
        self.memory_budget = _check_head.memory_budget(memory_budget)
        self.linear = nn.Linear(in_features, num_classes * math.prod(out_features), bias, device, dtype)

    def forward(self, input: Tensor, target: Tensor, **of_call: Any) -> Tensor:
        shape, bias = (self.num_classes, *self.out_features), self.linear.bias
        return linear.linear_cross_entropy(
            input,
            self.linear.weight.reshape(*shape, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias.reshape(shape),
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            memory_budget=self.memory_budget,
            **(self.options | of_call),
        )

    def extra_repr(self) -> str:
        head = f"in_features={self.linear.in_features}, num_classes={self.num_classes}, "
        head += f"out_features={self.out_features}, " if self.out_features else ""
        text = head + _configuration(self.weight, self.ignore_index, self.reduction)
        budget = "" if self.memory_budget is None else f", memory_budget={self.memory_budget}"
        return f"{text}, label_smoothing={self.label_smoothing}{_text(self.options)}{budget}"


def _validate(weight: Tensor | None, ignore_index: int, reduction: str) -> None:
    _check.weights(weight)
    _check.ignore_index(ignore_index)
    _check.reduction(reduction)


_QUESTIONS = {
    "all_ignored": _check.all_ignored,
    "dtype": _check.result_dtype,
    "dim": _check.dim_of_any,
    "shift": _check.places,
    "softcap": _check.softcap,
    "logit_scale": lambda value: _check.number("logit_scale", value, above_zero=True),
    "z_loss": _check.z_loss,
}
_DEFAULTS = {
    "all_ignored": "nan",
    "dtype": None,
    "dim": None,
    "shift": 0,
    "softcap": None,
    "logit_scale": 1.0,
    "z_loss": 0.0,
}


def _options(**given: Any) -> dict[str, Any]:
    """Those that are not the default, each asked its question."""
    kept = {}
    for name, value in given.items():
        if value is not _DEFAULTS[name]:
            _QUESTIONS[name](value)
            if value != _DEFAULTS[name]:
                kept[name] = value
    return kept


def _text(options: dict[str, Any]) -> str:
    return "".join(f", {name}={value!r}" for name, value in options.items())


def _configuration(weight: Tensor | None, ignore_index: int, reduction: str) -> str:
    weighted = "" if weight is None else f"weight=({weight.numel()} classes, {weight.dtype}), "
    return f"{weighted}ignore_index={ignore_index}, reduction={reduction!r}"
