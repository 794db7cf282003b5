"""The loss of a linear head: ops, derivatives, and when the gradient is made in the forward pass.

The three ops form logits tile by tile (`tiles`). Where a mean or a sum is asked for, the factor of every row is
known before the loss is, and the gradient comes with it: three matrix products. In a second backward pass the logits
are made once more: four. Whoever transforms the call, or wants
derivatives of other tensors or of second order, gets them from the logits written out.
"""

from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active, _len_torch_dispatch_stack
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import Function, forward_ad
from torch.nn import functional as F

from .. import _algebra
from .._plan import LinearPlan, Shaping
from ..backends import choose
from ..summary import RowSummary
from . import device_linear, losses, tiles
from .autograd import row_grad, row_terms
from .head import Factors, Head, rows_of
from .rules import Rule
from .schemas import _fake, _op

_ops = torch.ops.xent

# -- the ops --------------------------------------------------------------------------------------

_HEAD = (
    "Tensor hidden, Tensor weight, Tensor? bias, Tensor target, Tensor? class_weight, int ignore_index, bool mixed,"
    " int? budget, float? softcap, float scale"
)
_FACTS = "Tensor peak, Tensor rest, Tensor picked, Tensor mass, Tensor mix"
_GRADIENTS = "Tensor hidden_grad, Tensor weight_grad, Tensor bias_grad"


def _run(head: tuple, facts: tuple | None, factors: tuple | None, wanted: list[bool]) -> tuple[tuple, tuple]:
    """`tiles.run` on the rows that are not ignored."""
    hidden, weight, *_, mixed, budget, _, _ = head
    asked, rows = rows_of(head)
    known = None if facts is None else RowSummary(*rows.some(facts))
    pulls = None if factors is None else Factors(*rows.some(factors))
    if asked.hidden.shape[0] == 0 or weight.shape[0] == 0:
        found, grads = _of_nothing(asked, wanted)
    else:
        found, grads = tiles.run(asked, mixed, budget, known, pulls, wanted)
    if grads[0] is not None:
        grads = (*rows.all([grads[0]]), *grads[1:])
    return rows.facts(found), tuple(hidden.new_empty(0) if g is None else g for g in grads)


def _of_nothing(head: Head, wanted):
    """No rows are left, or they have no classes (and then no label: they are distributions over nothing)."""
    peak, *rest = (torch.zeros(head.hidden.shape[0], dtype=torch.float64, device=head.hidden.device) for _ in range(5))
    tensors = head.hidden, head.weight, head.weight.new_empty(head.weight.shape[0])
    grads = (torch.zeros_like(t) if want else None for t, want in zip(tensors, wanted, strict=True))
    return RowSummary(peak - torch.inf, rest[0] + torch.nan, *rest[1:]), tuple(grads)


@_op(f"linear_facts({_HEAD}) -> ({_FACTS})")
def _linear_facts(*head):
    return _run(head, None, None, [False] * 3)[0]


@_op(f"linear_step({_HEAD}, Tensor hard, Tensor? smooth, bool[3] wanted) -> ({_FACTS}, {_GRADIENTS})")
def _linear_step(*args):
    *head, hard, smooth, wanted = args
    facts, grads = _run(tuple(head), None, (hard, smooth), wanted)
    return *facts, *grads


@_op(f"linear_grad({_HEAD}, {_FACTS}, Tensor hard, Tensor? smooth, bool[3] wanted) -> ({_GRADIENTS})")
def _linear_grad(*args):
    *head, peak, rest, picked, mass, mix, hard, smooth, wanted = args
    return _run(tuple(head), (peak, rest, picked, mass, mix), (hard, smooth), wanted)[1]


def _fake_facts(hidden):
    return tuple(hidden.new_empty(hidden.shape[:1], dtype=torch.float64) for _ in range(5))


def _fake_grads(hidden, weight, wanted):
    shapes = hidden.shape, weight.shape, weight.shape[:1]
    return tuple(hidden.new_empty(shape if want else (0,)) for shape, want in zip(shapes, wanted, strict=True))


@_fake("linear_facts")
def _(hidden, *rest):
    return _fake_facts(hidden)


@_fake("linear_step")
def _(hidden, weight, *rest):
    return *_fake_facts(hidden), *_fake_grads(hidden, weight, rest[-1])


@_fake("linear_grad")
def _(hidden, weight, *rest):
    return _fake_grads(hidden, weight, rest[-1])


# -- the derivatives ------------------------------------------------------------------------------


class _Loss(Function):
    """A head -> a mean or a sum, where the factor of every row is known before the loss is: the gradients are made
    with the logits, and wait for the number of the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, target, plan):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.rest, wanted = _rest(plan, target), ctx.needs_input_grad[:3]
        ctx.save_for_backward(hidden, weight, bias)
        if device_linear.serves(plan):
            head = hidden, weight, bias
            loss, ctx.gradients, peak, rest, divisor = device_linear.step(plan, head, target, list(wanted))
            ctx.facts = peak, rest, peak, peak, peak  # of five, two are read again
            pair = _algebra.factors(plan.smoothing, plan.classes)  # not the plan, which would keep the hidden states
            ctx.factors = lambda: _shared(divisor, torch.ones_like(peak), pair)
            return loss
        factors = _expected(plan, target)
        found = _ops.linear_step(hidden, weight, bias, *ctx.rest, *factors, wanted)
        ctx.facts, ctx.gradients, ctx.factors = found[:5], found[5:], lambda: factors
        hard, smooth, mass = (term.unsqueeze(1) for term in _terms_of(ctx.facts, weight, ctx.rest))
        return losses.reduced(hard, smooth, mass, plan)

    @staticmethod
    def backward(ctx: Any, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        head, wanted = ctx.saved_tensors, list(ctx.needs_input_grad[:3])
        if _watched(grad):
            hard, smooth = ctx.factors()
            smooth = None if smooth is None else grad * smooth
            return *_written_out(head, ctx.rest, ctx.facts, grad * hard, smooth), None, None
        gradients, ctx.gradients = ctx.gradients, None  # never handed out twice
        if gradients is None:  # a second pass has the bits of the first
            gradients = _ops.linear_grad(*head, *ctx.rest, *ctx.facts, *ctx.factors(), wanted)
        for gradient, want in zip(gradients, wanted, strict=True):
            if want:
                choose(gradient.device).rescale(gradient, grad)
        return *(g if want else None for g, want in zip(gradients, wanted, strict=True)), None, None


class _Terms(Function):
    """A head -> `hard`, `smooth` and `mass` of each row, differentiable in hidden, weight and bias."""

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, rest):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.rest, ctx.facts = rest, _ops.linear_facts(hidden, weight, bias, *rest)
        ctx.save_for_backward(hidden, weight, bias)
        ctx.set_materialize_grads(False)
        hard, smooth, mass = _terms_of(ctx.facts, weight, rest)
        ctx.mark_non_differentiable(mass)
        return hard, smooth, mass

    @staticmethod
    def backward(ctx: Any, hard, smooth, _):  # pyright: ignore[reportIncompatibleMethodOverride]
        head, wanted = ctx.saved_tensors, list(ctx.needs_input_grad[:3])
        hard, smooth = _filled(hard, smooth, ctx.facts[0], ctx.rest)
        if _watched(hard):
            return *_written_out(head, ctx.rest, ctx.facts, hard, smooth), None
        gradients = _ops.linear_grad(*head, *ctx.rest, *ctx.facts, hard, smooth, wanted)
        return *(g if want else None for g, want in zip(gradients, wanted, strict=True)), None


def _watched(grad: Tensor) -> bool:
    """Does someone differentiate the backward pass, or transform it?"""
    return torch.is_grad_enabled() or _are_functorch_transforms_active() or is_legacy_batchedtensor(grad)


class _TermsTraced(Rule):
    """The same for whoever sees tensors without numbers, the compiler for one: always made anew."""

    @staticmethod
    def forward(hidden, weight, bias, target, class_weight, ignore_index, mixed, budget, softcap, scale):
        rest = target, class_weight, ignore_index, mixed, budget, softcap, scale
        facts = _ops.linear_facts(hidden, weight, bias, *rest)
        return *_terms_of(facts, weight, rest), *facts

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.ignore_index, ctx.mixed, ctx.budget, ctx.softcap, ctx.scale = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output[3:])

    @staticmethod
    def backward(ctx, hard, smooth, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, target, class_weight, *facts = ctx.saved_tensors
        rest = target, class_weight, ctx.ignore_index, ctx.mixed, ctx.budget, ctx.softcap, ctx.scale
        hard, smooth = _filled(hard, smooth, facts[0], rest)
        wanted = list(ctx.needs_input_grad[:3])
        grads = _ops.linear_grad(hidden, weight, bias, *rest, *facts, hard, smooth, wanted)
        return *(g if want else None for g, want in zip(grads, wanted, strict=True)), *(None,) * 7


def _terms_of(facts, weight: Tensor, rest):
    _, tail, picked, mass, mix = facts
    _, class_weight, _, mixed, *_ = rest
    whole = float(weight.shape[0]) if class_weight is None else _ops.exact_sum(class_weight.to(torch.float64))
    smooth = _algebra.smooth(whole, tail, mix) if mixed else mix.clone()
    return _algebra.hard(mass, tail, picked), smooth, mass.clone()


def _filled(hard: Tensor | None, smooth: Tensor | None, like: Tensor, rest) -> tuple[Tensor, Tensor | None]:
    mixed = rest[3]
    hard = torch.zeros_like(like) if hard is None else hard
    return hard, (torch.zeros_like(like) if smooth is None else smooth) if mixed else None


def _written_out(head, rest, facts, hard: Tensor, smooth: Tensor | None):
    """The gradients as functions that can be differentiated once more, on all logits at once."""
    hidden, weight, bias = head
    target, class_weight, ignore_index, *_, softcap, scale = rest
    products = F.linear(hidden, weight, bias)
    logits = losses.shaped_by(products, Shaping(softcap, scale)).unsqueeze(2)
    target = target.unsqueeze(2) if target.is_floating_point() else target
    peak, tail = (fact.unsqueeze(1) for fact in facts[:2])
    smooth = None if smooth is None else smooth.unsqueeze(1)
    slope = row_grad(logits, target, class_weight, ignore_index, peak, tail, hard.unsqueeze(1), smooth).squeeze(2)
    if logits.dtype is not products.dtype:
        slope = (slope * _algebra.shaped_slope(products, softcap, scale, slope)).to(products.dtype)
    return slope @ weight, slope.mT @ hidden, None if bias is None else slope.sum(0)


# -- the loss -------------------------------------------------------------------------------------


def cross_entropy(plan: LinearPlan) -> Tensor:
    """The loss that `plan` asks for; each place of a K-dimensional head is a head of its own."""
    if not _derived_otherwise(plan) and _factors_known(plan):
        *head, target = _of_place(plan, 0)
        return _Loss.apply(*head, target, plan)
    terms = _terms_written_out if _derived_otherwise(plan) else _terms
    places = [terms(plan, k) for k in range(plan.weight.shape[1])]
    hard, smooth, mass = (torch.stack(of_place, 1) for of_place in zip(*places, strict=True))
    return losses.reduced(hard, smooth, mass, plan)


def _derived_otherwise(plan: LinearPlan) -> bool:
    """Does someone transform the call, or ask for derivatives of tensors that tiles do not differentiate?"""
    scale = None if plan.shaping is None else plan.shaping.scale
    if isinstance(scale, Tensor) and torch.compiler.is_compiling():  # its number is not known there
        return True
    others = any(isinstance(t, Tensor) and t.requires_grad for t in (plan.target, plan.class_weight, scale))
    return _are_functorch_transforms_active() or forward_ad._current_level >= 0 or (others and torch.is_grad_enabled())


def _of_place(plan: LinearPlan, k: int):
    """One head; of a single one every view can be undone without a copy of its gradient, unlike a selection."""
    weight, bias, target = plan.weight, plan.bias, plan.target[..., k]
    if weight.shape[1] == 1:
        return plan.hidden, weight.squeeze(1), None if bias is None else bias.squeeze(1), target
    return plan.hidden, weight[:, k], None if bias is None else bias[:, k], target


def _shaping(plan: LinearPlan) -> tuple[float | None, float]:
    """Of logits whose scale has no gradient."""
    return (None, 1.0) if plan.shaping is None else (plan.shaping.softcap, float(plan.shaping.scale))


def _terms_written_out(plan: LinearPlan, k: int):
    hidden, weight, bias, target = _of_place(plan, k)
    rows = losses.shaped(F.linear(hidden, weight, bias).unsqueeze(2), plan)
    target = target.unsqueeze(2) if plan.soft else target
    terms = row_terms(rows, target, plan.class_weight, plan.ignore_index, plan.smoothing > 0)[:3]
    return tuple(term.squeeze(1) for term in terms)


def _terms(plan: LinearPlan, k: int):
    *head, target = _of_place(plan, k)
    if _traced(plan):
        return _TermsTraced.apply(*head, *_rest(plan, target))[:3]
    return _Terms.apply(*head, _rest(plan, target))


def _rest(plan: LinearPlan, target: Tensor) -> tuple:
    """What the ops take behind hidden, weight and bias."""
    return target, plan.class_weight, plan.ignore_index, plan.smoothing > 0, plan.budget, *_shaping(plan)


def _traced(plan: LinearPlan) -> bool:
    """Are there tensors without numbers?"""
    return torch.compiler.is_compiling() or _len_torch_dispatch_stack() > 0 or plan.hidden.is_meta


def _factors_known(plan: LinearPlan) -> bool:
    """May the gradient be made with the loss, up to a number?

    Where each place has its own gradient the sum of them is autograd's, so nothing is gained by having one early.
    Float16 gradients wait for the factor that keeps them in range.
    """
    token = plan.sums.token_weight
    return (
        plan.sums.reduction != "none"
        and torch.is_grad_enabled()
        and any(t is not None and t.requires_grad for t in (plan.hidden, plan.weight, plan.bias))
        and plan.weight.shape[1] == 1
        and plan.hidden.dtype is not torch.float16
        and not (token is not None and token.requires_grad)
        and not _traced(plan)
    )


def _expected(plan: LinearPlan, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """The factors of the rows where the loss itself is differentiated; of a mean over nothing, 0."""
    one = torch.ones(target.shape[0], dtype=torch.float64, device=target.device)
    mass = one
    if not plan.soft:
        label = _ops.labels(target, plan.classes, plan.ignore_index)
        mass = one.where(label >= 0, 0.0)
        if plan.class_weight is not None and plan.classes:
            mass = mass * plan.class_weight.to(torch.float64)[label.clamp_min(0)]
    token = losses.token_weight(plan, mass.shape)
    share = one if token is None else token
    divisor = losses.divisor(mass, token, plan) if plan.sums.reduction == "mean" else None
    return _shared(divisor, share, _algebra.factors(plan.smoothing, plan.classes))


def _shared(divisor: Tensor | None, share: Tensor, factors: tuple[float, float]) -> tuple[Tensor, Tensor | None]:
    """The factors of rows whose losses count `share` each, divided by one number."""
    if divisor is not None:
        share = (share / divisor.where(divisor != 0, 1.0)).where(divisor != 0, 0.0)
    ours, theirs = factors
    return ours * share, theirs * share if theirs else None
