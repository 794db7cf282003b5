"""How derivatives are written here: forward mode, tracing, products that leave zeros out, the sum over rows.

Dynamo traces a Function only if it defines no `jvp`, so each stands twice: `_Name` for the compiler,
`_NameDual`, with its forward-mode rule, for everyone else; `traced` says which is wanted.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack, is_batchedtensor
from torch.autograd import Function, forward_ad

_op = torch.ops.xent


class Rule(Function):
    """A Function that knows the signature of its forward; torch works it out anew at every call, some 30 us."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.forward.__signature__ = inspect.signature(cls.forward)  # pyright: ignore[reportFunctionMemberAccess]


def forward_rule(rule: Callable):
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


def traced() -> bool:
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


def wide_of(dtype: torch.dtype) -> torch.dtype:
    """What second derivatives are computed in."""
    return torch.promote_types(dtype, torch.float32)


def times(factor: Tensor, value: Tensor) -> Tensor:
    """``factor value``, 0 where the factor is 0 and the value inf or nan; the derivative in a factor of 0 stays."""
    return factor * value.where((factor != 0) | value.isfinite(), 0.0)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Over the classes, kept as a dimension; a factor of 0 leaves its term out."""
    return times(a.where((b != 0) | a.isfinite(), 0.0), b).sum(1, keepdim=True)


class _Total(Rule):
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
    @forward_rule
    def jvp(ctx: Any, saved, values_t):  # pyright: ignore[reportIncompatibleMethodOverride]
        return total(values_t)


def total(values: Tensor) -> Tensor:
    """Sum over the last dimension."""
    function = _Total if traced() else _TotalDual
    return function.apply(values)
