"""Derivatives of the ops, of every order.

Each Function's first derivative is an op of its own; what lies beyond is written in plain torch on
`softmax`, which is one of the Functions, so orders never run out. Saved are the logits (a reference),
the target and two facts a row.

Dynamo traces a Function only if it defines no `jvp`, so each stands twice: `_Name` for the compiler,
`_NameDual`, with its forward-mode rule, for everyone else.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.autograd import Function, forward_ad

from .. import _algebra

_op = torch.ops.xent


def _forward_rule(rule: Callable):
    """A `jvp` from ``rule(ctx, saved, *tangents)`` that can itself be differentiated forwards.

    torch turns forward mode off inside a `jvp`, and a second forward derivative comes out as 0 without a word.
    So it is turned on again, and what was saved loses the tangents of this level, which `tangents` has. A
    batched call (vmap's own rule, with no tangents inside) has nothing to turn on.
    """

    def jvp(ctx, *tangents):
        saved = ctx.saved_tensors
        if any(isinstance(t, Tensor) and is_batchedtensor(t) for t in (*saved, *tangents)):
            return rule(ctx, saved, *tangents)
        saved = [t if t is None else forward_ad.unpack_dual(t, level=0).primal for t in saved]
        with forward_ad._set_fwd_grad_enabled(True):
            return rule(ctx, saved, *tangents)

    return staticmethod(jvp)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What second derivatives are computed in."""
    return torch.promote_types(dtype, torch.float32)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Over the classes, kept as a dimension; a factor of 0 leaves its term out."""
    return (a * b).where((a != 0) & (b != 0), 0.0).sum(1, keepdim=True)


def attraction(
    target: Tensor, class_weight: Tensor | None, ignore_index: int, shape: torch.Size, dtype: torch.dtype
) -> Tensor:
    """What the target asks of each class, ``(outer, V, inner)``, written out; differentiable in both."""
    weight = None if class_weight is None else class_weight.to(dtype).reshape(1, -1, 1)
    if target.is_floating_point():
        return target.to(dtype) if weight is None else target.to(dtype) * weight
    index = _op.labels(target, shape[1], ignore_index).reshape(shape[0], 1, shape[2])
    classes = torch.arange(shape[1], device=target.device).reshape(1, -1, 1)
    asked = index == classes  # -1, an ignored label, equals no class
    return asked.to(dtype) if weight is None else weight.where(asked, 0.0)


# -- hard and smooth ------------------------------------------------------------------------------


class _RowTerms(Function):
    """Logits -> `hard` and `smooth` of each row (see `_algebra`), and the facts `mass`, `peak`, `rest`."""

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
    def backward(ctx, hard, smooth, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, target, class_weight, peak, rest = ctx.saved_tensors
        grad_rows = grad_target = None
        hard = torch.zeros_like(rest) if hard is None else hard
        if ctx.needs_input_grad[0]:
            grad_rows = row_grad(rows, target, class_weight, ctx.ignore_index, peak, rest, hard, smooth)
        if ctx.needs_input_grad[1]:
            grad_target = _surprise(rows, target.dtype, class_weight, hard).to(target.dtype)
        return grad_rows, grad_target, None, None, None


class _RowTermsDual(_RowTerms):
    @_forward_rule
    def jvp(ctx: Any, saved, rows_t, target_t, weight_t, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, target, class_weight, peak, rest = saved
        if weight_t is not None:
            raise RuntimeError("a class weight with a tangent takes the attraction's route (ops.losses)")
        hard, smooth = torch.zeros_like(rest), torch.zeros_like(rest)
        one, none = torch.ones_like(rest), torch.zeros_like(rest)
        if rows_t is not None:
            wide = rows.to(_wide(rows.dtype))
            facts = (wide, target, class_weight, ctx.ignore_index, peak, rest)
            hard = hard + _dot(row_grad(*facts, one, None), rows_t).squeeze(1)
            if ctx.mixed:
                smooth = smooth + _dot(row_grad(*facts, none, one), rows_t).squeeze(1)
        if target_t is not None:
            hard = hard + _dot(_surprise(rows, target.dtype, class_weight, one), target_t).squeeze(1)
        # The facts are detached by `row_terms`; None for them trips an assertion under vmap.
        return hard, smooth, none, none, none


def _surprise(rows: Tensor, dtype: torch.dtype, class_weight: Tensor | None, factor: Tensor) -> Tensor:
    """``-factor w_j log p_j``: the derivative of `hard` in the target's probabilities."""
    dtype = _wide(torch.promote_types(rows.dtype, dtype))
    factor = factor.to(dtype).unsqueeze(1)
    if class_weight is not None:
        factor = factor * class_weight.to(dtype).reshape(1, -1, 1)
    return (-factor * softmax(rows, log=True, dtype=dtype)).where(factor != 0, 0.0)


def _weight_sum(class_weight: Tensor | None, classes: int) -> Tensor | float:
    return float(classes) if class_weight is None else _op.exact_sum(class_weight.to(torch.float64))


def row_terms(rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, mixed: bool):
    """`hard`, `smooth` and `mass` of each row; differentiable in the rows and in a target of probabilities."""
    function = _RowTerms if torch.compiler.is_compiling() else _RowTermsDual
    hard, smooth, mass, _, _ = function.apply(rows, target, class_weight, ignore_index, mixed)
    return hard, smooth, mass.detach()


# -- their gradient -------------------------------------------------------------------------------


class _RowGrad(Function):
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
        mean = _dot(t.p, grad)
        grad_rows = grad_target = grad_smooth = None
        if ctx.needs_input_grad[0]:
            grad_rows = (t.scale * t.p * (grad - mean)).where(t.scale != 0, 0.0).to(rows.dtype)
        if ctx.needs_input_grad[1]:
            grad_target = (t.hard * t.weight * (mean - grad)).to(target.dtype)
        grad_hard = ((t.mass * mean).where(t.mass != 0, 0.0) - _dot(t.a, grad)).squeeze(1).to(hard.dtype)
        if smooth is not None:
            all_w = t.weight.expand_as(grad) if isinstance(t.weight, Tensor) else torch.ones_like(grad)
            grad_smooth = (t.weight_sum * mean - _dot(all_w, grad)).where(t.kept, 0.0).squeeze(1).to(smooth.dtype)
        return grad_rows, grad_target, None, None, None, None, grad_hard, grad_smooth


class _RowGradDual(_RowGrad):
    @_forward_rule
    def jvp(ctx: Any, saved, rows_t, target_t, weight_t, ignore_t, peak_t, rest_t, hard_t, smooth_t):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, target, class_weight, peak, rest, hard, smooth = saved
        out = torch.zeros_like(rows)
        if hard_t is not None or smooth_t is not None:
            hard_t = torch.zeros_like(hard) if hard_t is None else hard_t
            smooth_t = None if smooth is None else torch.zeros_like(smooth) if smooth_t is None else smooth_t
            out = out + row_grad(rows, target, class_weight, ctx.ignore_index, peak, rest, hard_t, smooth_t)
        if rows_t is None and target_t is None:
            return out
        t = _Terms(rows, target, class_weight, ctx.ignore_index, hard, smooth)
        if rows_t is not None:
            slope = rows_t.to(t.dtype)
            out = out + (t.scale * t.p * (slope - _dot(t.p, slope))).where(t.scale != 0, 0.0).to(rows.dtype)
        if target_t is not None:
            a_t = target_t.to(t.dtype) * t.weight
            out = out + (t.hard * (a_t.sum(1, keepdim=True) * t.p - a_t)).to(rows.dtype)
        return out


class _Terms:
    """The pieces of the gradient written out as tensors, for its derivatives; factors as ``(outer, 1, inner)``."""

    def __init__(self, rows, target, class_weight, ignore_index, hard, smooth):
        self.dtype = _wide(rows.dtype)
        self.p = softmax(rows, log=False, dtype=self.dtype)
        self.a = attraction(target, class_weight, ignore_index, rows.shape, self.dtype)
        self.mass = self.a.sum(1, keepdim=True)
        self.hard = hard.to(self.dtype).unsqueeze(1)
        self.weight = 1.0 if class_weight is None else class_weight.to(self.dtype).reshape(1, -1, 1)
        self.scale = self.hard * self.mass
        self.kept = torch.ones_like(self.mass, dtype=torch.bool)
        if not target.is_floating_point():
            index = _op.labels(target, rows.shape[1], ignore_index)
            self.kept = (index >= 0).reshape(self.mass.shape)
        if smooth is not None:
            self.weight_sum = _weight_sum(class_weight, rows.shape[1])
            factor = smooth.to(self.dtype).unsqueeze(1).where(self.kept, 0.0)
            self.scale = self.scale + (factor * self.weight_sum).to(self.dtype)


def row_grad(rows, target, class_weight, ignore_index, peak, rest, hard, smooth) -> Tensor:
    """Differentiable in the rows, in a target of probabilities and in both factors."""
    function = _RowGrad if torch.compiler.is_compiling() else _RowGradDual
    return function.apply(rows, target, class_weight, ignore_index, peak, rest, hard, smooth)


# -- softmax and log_softmax ----------------------------------------------------------------------


class _Softmax(Function):
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
    @_forward_rule
    def jvp(ctx: Any, saved, rows_t, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, peak, _ = saved
        dtype = _wide(ctx.dtype)
        p, slope = softmax(rows, log=False, dtype=dtype), rows_t.to(dtype)
        centred = slope - _dot(p, slope)
        none = torch.zeros_like(peak)
        return (centred if ctx.log else p * centred).to(ctx.dtype), none, none


class _SoftmaxGrad(Function):
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
    @_forward_rule
    def jvp(ctx: Any, saved, rows_t, peak_t, rest_t, grad_t):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, peak, rest, grad = saved
        out = torch.zeros_like(rows)
        if grad_t is not None:
            out = out + softmax_grad(rows, peak, rest, grad_t)
        if rows_t is not None:
            dtype = _wide(rows.dtype)
            p, slope, g = softmax(rows, log=False, dtype=dtype), rows_t.to(dtype), grad.to(dtype)
            p_t = p * (slope - _dot(p, slope))
            out = out + (p_t * (g - _dot(p, g)) - p * _dot(p_t, g)).to(rows.dtype)
        return out


def _by_probability(rows: Tensor, grad: Tensor, outer: Tensor) -> Tensor:
    """Derivative of ``sum outer p (g - sum p g)`` in `p`."""
    dtype = _wide(rows.dtype)
    p, grad, outer = softmax(rows, log=False, dtype=dtype), grad.to(dtype), outer.to(dtype)
    return outer * (grad - _dot(p, grad)) - grad * _dot(p, outer)


def softmax(rows: Tensor, log: bool, dtype: torch.dtype) -> Tensor:
    """``p`` or ``log p`` over the middle dimension, rounded once to `dtype`."""
    function = _Softmax if torch.compiler.is_compiling() else _SoftmaxDual
    return function.apply(rows, log, dtype)[0]


def softmax_grad(rows: Tensor, peak: Tensor, rest: Tensor, grad: Tensor) -> Tensor:
    """Differentiable in the rows and in `grad`."""
    function = _SoftmaxGrad if torch.compiler.is_compiling() else _SoftmaxGradDual
    return function.apply(rows, peak, rest, grad)


# -- the sum over rows ----------------------------------------------------------------------------


class _Total(Function):
    """Order-free sum of float64 values."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values):
        return _op.exact_sum(values)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad.unsqueeze(-1).expand(ctx.shape)


class _TotalDual(_Total):
    @_forward_rule
    def jvp(ctx: Any, saved, values_t):  # pyright: ignore[reportIncompatibleMethodOverride]
        return total(values_t)


def total(values: Tensor) -> Tensor:
    """Sum over the last dimension."""
    function = _Total if torch.compiler.is_compiling() else _TotalDual
    return function.apply(values)
