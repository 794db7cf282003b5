"""The short way of softmax and log_softmax: when it is taken, its numbers, and what autograd may ask of it."""

import functools

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import xent
from xent.backends import native
from xent.ops import direct

from ..backends.test_native import hostile
from .test_direct import EXACT, Named, Recorder, leaf, same

pytestmark = pytest.mark.skipif(native.serves(torch.device("cpu")) is not None, reason="not compiled")

X = torch.tensor([[0.3, -1.2, 2.0], [1.5, 0.1, -0.4], [-2.0, 0.7, 0.2], [0.0, 0.9, 0.9]], dtype=torch.float64)
names = pytest.mark.parametrize("name", ["softmax", "log_softmax"])
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """One entry for each softmax taken the short way."""
    made, short = [], direct.softmax

    def spy(*args):
        made.append(args)
        return short(*args)

    monkeypatch.setattr(direct, "softmax", spy)
    return made


def of(m, name, dim=1):
    return functools.partial(getattr(m, name), dim=dim)


def value_and_grad(f, x, slope=None):
    x = x.detach().requires_grad_()
    out = f(x)
    slope = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).reshape(out.shape) if slope is None else slope
    return out.detach(), torch.autograd.grad(out, x, slope.to(out.dtype))[0]


@names
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [1, 2, 7, 24, 25, 300, 4097])
def test_numbers_are_those_of_the_long_way(name, dtype, classes, calls, monkeypatch):
    """To the bit: both are the same kernels."""
    rows = hostile((5, classes, 3), dtype, torch.Generator().manual_seed(classes))
    views = {
        1: (rows, rows.transpose(0, 2).contiguous().transpose(0, 2), rows[:, :, 1], rows[::2].expand(3, -1, -1)),
        2: (rows.transpose(1, 2), rows.transpose(1, 2).contiguous()),
        0: (rows[0, :, 0],),
    }
    for dim, tensors in views.items():
        for x in tensors:
            short = value_and_grad(of(xent, name, dim), x)
            assert len(calls) == 1
            with monkeypatch.context() as patch:
                patch.setattr(direct, "serves_softmax", lambda *_: False)
                long = value_and_grad(of(xent, name, dim), x)
            assert len(calls) == 1
            for a, b in zip(short, long, strict=True):
                assert a.stride() == b.stride()
                same(a, b)
            with torch.no_grad():
                same(getattr(xent, name)(x, dim), short[0])
            calls.clear()


def _dual(f):
    with fwd.dual_level():
        return fwd.unpack_dual(f(fwd.make_dual(X, X.flip(0))))


def _compiled(f):
    torch._dynamo.reset()
    return value_and_grad(torch.compile(f, backend="aot_eager", fullgraph=True), X)


def _in_mode(f):
    with Recorder() as mode:
        result = value_and_grad(f, X)
    assert any("softmax" in op for op in mode.seen)
    return result


def _as_subclass(f):
    out = f(X.as_subclass(Named))
    assert type(out) is Named
    return out.as_subclass(torch.Tensor)


def _of_inference(f):
    with torch.inference_mode():
        x = X * 2
        inside = f(x).clone()
    return inside, f(x)


WATCHED = {
    "torch.func.grad": lambda f: grad(lambda x: f(x).square().sum())(X),
    "vmap": lambda f: vmap(lambda x: f(x[None])[0])(X),
    "vmap of something else": lambda f: vmap(lambda s: s * f(X))(X[0]),
    "jvp": lambda f: jvp(f, (X,), (X.flip(0),)),
    "jacrev": lambda f: jacrev(f)(X),
    "hessian": lambda f: hessian(lambda x: f(x).square().sum())(X),
    "a dual tensor": _dual,
    "torch.compile": _compiled,
    "make_fx": lambda f: make_fx(f)(X)(2 * X),
    "torch.jit.trace": lambda f: torch.jit.trace(lambda x: f(x), (X,), check_trace=False)(2 * X),
    "a dispatch mode": _in_mode,
    "a subclass": _as_subclass,
    "tensors made for inference": _of_inference,
    "negated logits": lambda f: f(torch._neg_view(X)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@names
@pytest.mark.parametrize("watcher", WATCHED)
def test_whoever_watches_is_led_the_long_way(watcher, name, calls):
    got = WATCHED[watcher](of(xent, name))
    assert not calls
    assert_close(got, WATCHED[watcher](of(F, name)), **EXACT)


@names
def test_another_dtype_goes_the_long_way(name, calls):
    assert getattr(xent, name)(X.float(), 1, dtype=torch.float64).dtype is torch.float64
    assert getattr(xent, name)(X, 1, dtype=torch.float32).dtype is torch.float32
    assert len(calls) == 1  # the second, which reads its input as float32 and is plain from there on
    assert getattr(xent, name)(X[:0], 1).shape == (0, 3)
    assert len(calls) == 1


@names
def test_derivatives(name, calls):
    f = of(xent, name)
    assert gradcheck(f, (leaf(X),), check_batched_grad=True)
    assert gradgradcheck(f, (leaf(X),), check_batched_grad=True)
    x, slope = leaf(X), leaf(X.flip(1))
    (first,) = torch.autograd.grad(f(x), x, slope, create_graph=True)
    got = torch.autograd.grad(first.square().sum(), (x, slope))
    y, other = leaf(X), leaf(X.flip(1))
    (first,) = torch.autograd.grad(of(F, name)(y), y, other, create_graph=True)
    assert_close(got, torch.autograd.grad(first.square().sum(), (y, other)), **EXACT)
    assert calls


@names
def test_asked_twice_it_answers_twice(name):
    x, want = leaf(X), value_and_grad(of(F, name), X)[1]
    out = getattr(xent, name)(x, 1)
    slope = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(4, 3)
    first, second = (torch.autograd.grad(out, x, slope, retain_graph=True)[0] for _ in range(2))
    assert_close(first, want, **EXACT)
    first.zero_()
    assert_close(second, want, **EXACT)
    (batched,) = torch.autograd.grad(out, x, torch.stack([slope, 2 * slope]), is_grads_batched=True)
    assert_close(batched, torch.stack([want, 2 * want]), **EXACT)


@names
def test_slopes_of_any_layout_and_none(name):
    for slope in (X[:1].expand(4, 3), X.t().contiguous().t(), X[0, 0].expand(4, 3), torch._efficientzerotensor((4, 3))):
        slope = slope.to(torch.float64)
        got, want = (value_and_grad(of(m, name), X, slope)[1] for m in (xent, F))
        assert_close(got, want, **EXACT)


@names
def test_logits_changed_in_place_are_noticed(name):
    x = leaf(X)
    y = x * 1
    out = getattr(xent, name)(y, 1)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@names
def test_checkpoints_and_hooks(name):
    want = value_and_grad(of(F, name), X)[1]
    slope = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(4, 3)
    for reentrant in (False, True):
        x = leaf(X)
        checkpoint(of(xent, name), x, use_reentrant=reentrant).backward(slope)
        assert_close(x.grad, want, **EXACT)
    seen, x = [], leaf(X)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        out = getattr(xent, name)(x, 1)
    out.register_hook(lambda g: 2 * g)
    out.backward(slope)
    assert_close(x.grad, 2 * want, **EXACT)
    assert len(seen) == 1
