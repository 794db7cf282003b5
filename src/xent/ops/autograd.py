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
from torch._C._functorch import TransformType, get_interpreter_stack, is_batchedtensor
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


def _traced() -> bool:
    """Is Dynamo tracing?

    It traces grad, jvp and what is made of them through a Function, and loses derivatives on the way without a
    word (torch 2.13: the tangent of a jvp, the gradient of a class weight, jacrev of jacrev). So it is stopped
    there: fullgraph=True says so, otherwise the call runs uncompiled, and right.
    """
    if not torch.compiler.is_compiling():
        return False
    if _differentiated_by_transform():
        torch._dynamo.graph_break(
            msg="xent inside torch.func.grad or jvp is not traced; compile without fullgraph=True"
        )
    return True


@torch.compiler.assume_constant_result
def _differentiated_by_transform() -> bool:
    stack = get_interpreter_stack()
    return stack is not None and any(level.key() != TransformType.Vmap for level in stack)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What second derivatives are computed in."""
    return torch.promote_types(dtype, torch.float32)


def _times(factor: Tensor, value: Tensor) -> Tensor:
    """``factor value``, 0 where the factor is 0 and the value inf or nan; the derivative in a factor of 0 stays."""
    return factor * value.where((factor != 0) | value.isfinite(), 0.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Over the classes, kept as a dimension; a factor of 0 leaves its term out."""
    return _times(a.where((b != 0) | a.isfinite(), 0.0), b).sum(1, keepdim=True)


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


class _RowTerms(Function):
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
        dtype = _wide(torch.promote_types(rows.dtype, target.dtype))
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
    @_forward_rule
    def jvp(ctx: Any, saved, rows_t, target_t, weight_t, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, target, class_weight, peak, rest = saved
        hard, smooth, mass = (torch.zeros_like(rest) for _ in range(3))
        one, none = torch.ones_like(rest), torch.zeros_like(rest)
        wide = rows.to(_wide(rows.dtype))
        if rows_t is not None:
            facts = (wide, target, class_weight, ctx.ignore_index, peak, rest)
            hard = hard + _dot(row_grad(*facts, one, None), rows_t).squeeze(1)
            if ctx.mixed:
                smooth = smooth + _dot(row_grad(*facts, none, one), rows_t).squeeze(1)
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
    return -_times(factor, softmax(rows, log=True, dtype=dtype))


def _weight_sum(class_weight: Tensor | None, classes: int) -> Tensor | float:
    return float(classes) if class_weight is None else total(class_weight.to(torch.float64))


def row_terms(rows: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, mixed: bool):
    """`hard`, `smooth` and `mass` of each row; differentiable in rows, probabilities and class weights."""
    function = _RowTerms if _traced() else _RowTermsDual
    return function.apply(rows, target, class_weight, ignore_index, mixed)[:3]


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
        away = mean - grad
        grad_rows = grad_target = grad_weight = grad_smooth = None
        if ctx.needs_input_grad[0]:
            grad_rows = _times(t.scale, t.p * (grad - mean)).to(rows.dtype)
        if ctx.needs_input_grad[1]:
            grad_target = _times(t.hard * t.weight, away).to(target.dtype)
        if ctx.needs_input_grad[2]:
            grad_weight = _times(t.asked, away).sum((0, 2)).to(class_weight.dtype)
        grad_hard = (_times(t.mass, mean) - _dot(t.own * t.weight, grad)).squeeze(1).to(hard.dtype)
        if smooth is not None:
            whole = t.weight_sum * mean - _dot(t.weight * torch.ones_like(grad), grad)
            grad_smooth = whole.where(t.kept, 0.0).squeeze(1).to(smooth.dtype)
        return grad_rows, grad_target, grad_weight, None, None, None, grad_hard, grad_smooth


class _RowGradDual(_RowGrad):
    @_forward_rule
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
            out = out + _times(t.scale, t.p * (slope - _dot(t.p, slope))).to(rows.dtype)
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
        self.dtype = _wide(rows.dtype)
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
    function = _RowGrad if _traced() else _RowGradDual
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
    function = _Softmax if _traced() else _SoftmaxDual
    return function.apply(rows, log, dtype)[0]


def softmax_grad(rows: Tensor, peak: Tensor, rest: Tensor, grad: Tensor) -> Tensor:
    """Differentiable in the rows and in `grad`."""
    function = _SoftmaxGrad if _traced() else _SoftmaxGradDual
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
    function = _Total if _traced() else _TotalDual
    return function.apply(values)
