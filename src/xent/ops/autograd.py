"""Derivatives of the ops, of every order.

Each Function's first derivative is an op of its own; what lies beyond is written in plain torch on
`softmax`, which is one of the Functions, so orders never run out. Saved are the logits (a reference),
the target and two facts a row.
"""

from typing import Any

import torch
from torch import Tensor

from .. import _algebra
from .rules import Rule, dot, forward_rule, times, total, traced, wide_of

_op = torch.ops.xent


def _own(target: Tensor, ignore_index: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """What the target asks of each class before class weights, ``(outer, V, inner)``, written out."""
    if target.is_floating_point():
        return target.to(dtype)
    index = _op.labels(target, shape[1], ignore_index).reshape(shape[0], 1, shape[2])
    classes = torch.arange(shape[1], device=target.device).reshape(1, -1, 1)
    return (index == classes).to(dtype)  # -1, an ignored label, equals no class


def _kept(target: Tensor, ignore_index: int, shape: torch.Size) -> Tensor | bool:
    """Which rows smoothing asks, ``(outer, 1, inner)``."""
    if target.is_floating_point():
        return True
    return (_op.labels(target, shape[1], ignore_index) >= 0).reshape(shape[0], 1, shape[2])


def _column(class_weight: Tensor | None, dtype: torch.dtype) -> Tensor | float:
    return 1.0 if class_weight is None else class_weight.to(dtype).reshape(1, -1, 1)


# -- hard and smooth ------------------------------------------------------------------------------


class _RowTerms(Rule):
    """Logits -> `hard`, `smooth` and `mass` of each row (see `_algebra`), and the facts `peak` and `rest`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows, target, class_weight, ignore_index, mixed):
        facts = _op.row_summary(rows, target, class_weight, ignore_index, mixed)
        peak, rest, picked, mass, mix = facts
        hard = _algebra.hard(mass, rest, picked)
        smooth = _algebra.smooth(_weight_sum(class_weight, rows.shape[1]), rest, mix) if mixed else mix
        return hard, smooth, mass, peak, rest

    @staticmethod
    def setup_context(ctx, inputs, output):
        rows, target, class_weight, ctx.ignore_index, ctx.mixed = inputs
        *_, peak, rest = output
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(rows, target, class_weight, peak, rest)
        ctx.save_for_forward(rows, target, class_weight, peak, rest)

    @staticmethod
    def backward(ctx, hard, smooth, mass, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, target, class_weight, peak, rest = ctx.saved_tensors
        hard, mass = (torch.zeros_like(rest) if g is None else g for g in (hard, mass))
        grad_rows = grad_target = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_rows = row_grad(rows, target, class_weight, ctx.ignore_index, peak, rest, hard, smooth)
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return grad_rows, None, None, None, None
        dtype = wide_of(torch.promote_types(rows.dtype, target.dtype))
        hard, mass = (g.to(dtype).unsqueeze(1) for g in (hard, mass))
        if ctx.needs_input_grad[1]:
            weight = _column(class_weight, dtype)
            grad_target = (_surprise(rows, dtype, hard * weight) + mass * weight).to(target.dtype)
        if ctx.needs_input_grad[2]:
            own = _own(target, ctx.ignore_index, rows.shape, dtype)
            asked = hard * own
            if smooth is not None:
                asked = asked + smooth.to(dtype).unsqueeze(1) * _kept(target, ctx.ignore_index, rows.shape)
            grad_weight = (_surprise(rows, dtype, asked) + mass * own).sum((0, 2)).to(class_weight.dtype)
        return grad_rows, grad_target, grad_weight, None, None


class _RowTermsDual(_RowTerms):
    @forward_rule
    def jvp(ctx: Any, saved, rows_t, target_t, weight_t, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, target, class_weight, peak, rest = saved
        hard, smooth, mass = (torch.zeros_like(rest) for _ in range(3))
        one, none = torch.ones_like(rest), torch.zeros_like(rest)
        wide = rows.to(wide_of(rows.dtype))
        if rows_t is not None:
            facts = (wide, target, class_weight, ctx.ignore_index, peak, rest)
            hard = hard + dot(row_grad(*facts, one, None), rows_t).squeeze(1)
            if ctx.mixed:
                smooth = smooth + dot(row_grad(*facts, none, one), rows_t).squeeze(1)
        if target_t is not None:
            a_t = target_t.to(wide.dtype) * _column(class_weight, wide.dtype)
            hard, mass = hard + _surprise(rows, wide.dtype, a_t).sum(1), mass + a_t.sum(1)
        if weight_t is not None:
            w_t = _column(weight_t, wide.dtype)
            a_t = _own(target, ctx.ignore_index, rows.shape, wide.dtype) * w_t
            hard, mass = hard + _surprise(rows, wide.dtype, a_t).sum(1), mass + a_t.sum(1)
            if ctx.mixed:
                spread = w_t * torch.ones_like(wide) * _kept(target, ctx.ignore_index, rows.shape)
                smooth = smooth + _surprise(rows, wide.dtype, spread).sum(1)
        # Nobody differentiates in the facts; None for them trips an assertion under vmap.
        return *(t.to(rest.dtype) for t in (hard, smooth, mass)), none, none


def _surprise(rows: Tensor, dtype: torch.dtype, factor: Tensor) -> Tensor:
    """``-factor log p_j``, each class; where the factor is 0, so is the product."""
    return -times(factor, softmax(rows, log=True, dtype=dtype))


def _weight_sum(class_weight: Tensor | None, classes: int) -> Tensor | float:
    return float(classes) if class_weight is None else total(class_weight.to(torch.float64))


def row_terms(rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, mixed: bool):
    """`hard`, `smooth` and `mass` of each row, differentiable in rows, probabilities and class weights; and the facts
    `peak` and `rest`, which are not."""
    function = _RowTerms if traced() else _RowTermsDual
    return function.apply(rows, target, class_weight, ignore_index, mixed)


# -- their gradient -------------------------------------------------------------------------------


class _RowGrad(Rule):
    """``hard (mass p - a) + smooth (sum(w) p - w)``, with `hard` and `smooth` the factors of a row."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows, target, class_weight, ignore_index, peak, rest, hard, smooth):
        return _op.row_grad(rows, target, class_weight, ignore_index, peak, rest, hard, smooth)

    @staticmethod
    def setup_context(ctx, inputs, output):
        rows, target, class_weight, ctx.ignore_index, peak, rest, hard, smooth = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(rows, target, class_weight, peak, rest, hard, smooth)
        ctx.save_for_forward(rows, target, class_weight, peak, rest, hard, smooth)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad is None:
            return (None,) * 8
        rows, target, class_weight, _, _, hard, smooth = ctx.saved_tensors
        t = _Terms(rows, target, class_weight, ctx.ignore_index, hard, smooth)
        grad = grad.to(t.dtype)
        mean = dot(t.p, grad)
        away = mean - grad
        grad_rows = grad_target = grad_weight = grad_smooth = None
        if ctx.needs_input_grad[0]:
            grad_rows = times(t.scale, t.p * (grad - mean)).to(rows.dtype)
        if ctx.needs_input_grad[1]:
            grad_target = times(t.hard * t.weight, away).to(target.dtype)
        if ctx.needs_input_grad[2]:
            grad_weight = times(t.asked, away).sum((0, 2)).to(class_weight.dtype)
        grad_hard = (times(t.mass, mean) - dot(t.own * t.weight, grad)).squeeze(1).to(hard.dtype)
        if smooth is not None:
            whole = t.weight_sum * mean - dot(t.weight * torch.ones_like(grad), grad)
            grad_smooth = whole.where(t.kept, 0.0).squeeze(1).to(smooth.dtype)
        return grad_rows, grad_target, grad_weight, None, None, None, grad_hard, grad_smooth


class _RowGradDual(_RowGrad):
    @forward_rule
    def jvp(ctx: Any, saved, rows_t, target_t, weight_t, ignore_t, peak_t, rest_t, hard_t, smooth_t):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, target, class_weight, peak, rest, hard, smooth = saved
        out = torch.zeros_like(rows)
        if hard_t is not None or smooth_t is not None:
            hard_t = torch.zeros_like(hard) if hard_t is None else hard_t
            smooth_t = None if smooth is None else torch.zeros_like(smooth) if smooth_t is None else smooth_t
            out = out + row_grad(rows, target, class_weight, ctx.ignore_index, peak, rest, hard_t, smooth_t)
        if rows_t is None and target_t is None and weight_t is None:
            return out
        t = _Terms(rows, target, class_weight, ctx.ignore_index, hard, smooth)
        if rows_t is not None:
            slope = rows_t.to(t.dtype)
            out = out + times(t.scale, t.p * (slope - dot(t.p, slope))).to(rows.dtype)
        if target_t is not None:
            a_t = t.hard * target_t.to(t.dtype) * t.weight
            out = out + (a_t.sum(1, keepdim=True) * t.p - a_t).to(rows.dtype)
        if weight_t is not None:
            a_t = t.asked * _column(weight_t, t.dtype)
            out = out + (a_t.sum(1, keepdim=True) * t.p - a_t).to(rows.dtype)
        return out


class _Terms:
    """The pieces of the gradient written out as tensors, for its derivatives; factors as ``(outer, 1, inner)``."""

    def __init__(self, rows, target, class_weight, ignore_index, hard, smooth):
        self.dtype = wide_of(rows.dtype)
        self.p = softmax(rows, log=False, dtype=self.dtype)
        self.own = _own(target, ignore_index, rows.shape, self.dtype)
        self.weight = _column(class_weight, self.dtype)
        self.mass = (self.own * self.weight).sum(1, keepdim=True)
        self.hard = hard.to(self.dtype).unsqueeze(1)
        self.scale = self.hard * self.mass
        self.asked = self.hard * self.own
        """What stands in front of each class weight."""
        self.kept = torch.as_tensor(_kept(target, ignore_index, rows.shape))
        if smooth is not None:
            self.weight_sum = _weight_sum(class_weight, rows.shape[1])
            factor = smooth.to(self.dtype).unsqueeze(1).where(self.kept, 0.0)
            self.asked = self.asked + factor
            self.scale = self.scale + (factor * self.weight_sum).to(self.dtype)


def row_grad(rows, target, class_weight, ignore_index, peak, rest, hard, smooth) -> Tensor:
    """Differentiable in rows, probabilities, class weights and both factors."""
    function = _RowGrad if traced() else _RowGradDual
    return function.apply(rows, target, class_weight, ignore_index, peak, rest, hard, smooth)


# -- softmax and log_softmax ----------------------------------------------------------------------


class _Softmax(Rule):
    """``p`` or ``log p``, and the facts `peak` and `rest`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows, log, dtype):
        return _op.softmax(rows, log, dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        rows, ctx.log, ctx.dtype = inputs
        _, peak, rest = output
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(rows, peak, rest)
        ctx.save_for_forward(rows, peak, rest)

    @staticmethod
    def backward(ctx, grad, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad is None:
            return None, None, None
        rows, peak, rest = ctx.saved_tensors
        if ctx.log:  # g - p sum(g) is the gradient of a loss whose attraction is g, negated
            grad_rows = row_grad(rows, grad, None, -100, peak, rest, torch.full_like(rest, -1.0), None)
        else:
            grad_rows = softmax_grad(rows, peak, rest, grad)
        return grad_rows, None, None


class _SoftmaxDual(_Softmax):
    @forward_rule
    def jvp(ctx: Any, saved, rows_t, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, peak, _ = saved
        dtype = wide_of(ctx.dtype)
        p, slope = softmax(rows, log=False, dtype=dtype), rows_t.to(dtype)
        centred = slope - dot(p, slope)
        none = torch.zeros_like(peak)
        return (centred if ctx.log else p * centred).to(ctx.dtype), none, none


class _SoftmaxGrad(Rule):
    """``p (g - sum p g)``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows, peak, rest, grad):
        return _op.softmax_grad(rows, peak, rest, grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, outer):  # pyright: ignore[reportIncompatibleMethodOverride]
        if outer is None:
            return (None,) * 4
        rows, peak, rest, grad = ctx.saved_tensors
        grad_rows = grad_grad = None
        if ctx.needs_input_grad[0]:
            grad_rows = softmax_grad(rows, peak, rest, _by_probability(rows, grad, outer))
        if ctx.needs_input_grad[3]:  # the Jacobian of softmax is symmetric
            grad_grad = softmax_grad(rows, peak, rest, outer).to(grad.dtype)
        return grad_rows, None, None, grad_grad


class _SoftmaxGradDual(_SoftmaxGrad):
    @forward_rule
    def jvp(ctx: Any, saved, rows_t, peak_t, rest_t, grad_t):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, peak, rest, grad = saved
        out = torch.zeros_like(rows)
        if grad_t is not None:
            out = out + softmax_grad(rows, peak, rest, grad_t)
        if rows_t is not None:
            dtype = wide_of(rows.dtype)
            p, slope, g = softmax(rows, log=False, dtype=dtype), rows_t.to(dtype), grad.to(dtype)
            p_t = p * (slope - dot(p, slope))
            out = out + (p_t * (g - dot(p, g)) - p * dot(p_t, g)).to(rows.dtype)
        return out


def _by_probability(rows: Tensor, grad: Tensor, outer: Tensor) -> Tensor:
    """Derivative of ``sum outer p (g - sum p g)`` in `p`."""
    dtype = wide_of(rows.dtype)
    p, grad, outer = softmax(rows, log=False, dtype=dtype), grad.to(dtype), outer.to(dtype)
    return outer * (grad - dot(p, grad)) - grad * dot(p, outer)


def softmax(rows: Tensor, log: bool, dtype: torch.dtype) -> Tensor:
    """``p`` or ``log p`` over the middle dimension, rounded once to `dtype`."""
    function = _Softmax if traced() else _SoftmaxDual
    return function.apply(rows, log, dtype)[0]


def softmax_grad(rows: Tensor, peak: Tensor, rest: Tensor, grad: Tensor) -> Tensor:
    """Differentiable in the rows and in `grad`."""
    function = _SoftmaxGrad if traced() else _SoftmaxGradDual
    return function.apply(rows, peak, rest, grad)
