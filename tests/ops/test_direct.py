"""The short way: when it is taken, that its numbers are those of the long one, and what autograd may ask of it.

Whatever is not a plain call has to be led the long way. Where that fails nothing warns: a mode sees no ops, a tracer
keeps a constant, an address is taken of a tensor without memory. So each of them stands here by name.
"""

import contextlib
import copy
import functools
import gc
import itertools
import math
import pickle
import subprocess
import sys
import threading
import weakref

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import xent
from xent.backends import native, pages
from xent.ops import direct

from ..backends.test_native import LABELS, hostile
from ..formulas import Contributions

pytestmark = pytest.mark.skipif(native.serves(torch.device("cpu")) is not None, reason="not compiled")

INF, NAN = float("inf"), float("nan")
EXACT = {"rtol": 1e-11, "atol": 1e-12}
REDUCTIONS = ("mean", "sum", "none")
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:]
)
reductions = pytest.mark.parametrize("reduction", REDUCTIONS)
fused = pytest.mark.parametrize("limit", [direct.IN_FORWARD, 0], ids=["in the forward pass", "in the backward pass"])
OPTIONS = list(itertools.product((False, True), (False, True), (0.0, 0.1)))
"""Probabilities? class weights? smoothing."""

X = torch.tensor([[0.3, -1.2, 2.0], [1.5, 0.1, -0.4], [-2.0, 0.7, 0.2], [0.0, 0.9, 0.9]], dtype=torch.float64)
Y = torch.tensor([2, 0, -100, 1])
Q = torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.0, 0.3], [0.1, 0.1, 0.8], [0.0, 0.0, 0.0]], dtype=torch.float64)
W = torch.tensor([1.0, 2.5, 0.5], dtype=torch.float64)


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """One entry for each call of the kernel, whose arguments are the entry."""
    made, kernel = [], native._native.loss

    def spy(*args):
        made.append(args)
        return kernel(*args)

    monkeypatch.setattr(native._native, "loss", spy)
    return made


@contextlib.contextmanager
def the_long_way():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "serves", lambda *_: False)
        yield


def leaf(tensor):
    return tensor.detach().clone().requires_grad_()


def loss_and_gradient(x, target, upstream=None, **options):
    x = x.detach().requires_grad_()
    loss = xent.cross_entropy(x, target, **options)
    return loss.detach(), torch.autograd.grad(loss, x, torch.ones_like(loss) if upstream is None else upstream)[0]


def torchs(x, target, upstream=None, **options):
    x = leaf(x.double())
    loss = F.cross_entropy(x, target, **options)
    return loss.detach(), torch.autograd.grad(loss, x, torch.ones_like(loss) if upstream is None else upstream)[0]


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, check_stride=False)


def within(got, want, allowed):
    """So many ulp of `want`; nan and inf in the same places."""
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    limits, got, want = torch.finfo(want.dtype), got.double(), want.double()
    fine = got.isfinite() & want.isfinite()
    same(got[~fine], want[~fine])
    _, exponent = torch.frexp(want[fine])
    ulp = (limits.eps * 2.0 ** (exponent.double() - 1)).clamp_min(limits.tiny * limits.eps)
    off = (got[fine] - want[fine]).abs() / ulp
    assert off.numel() == 0 or off.max() <= allowed, f"{off.max():.2f} ulp, {allowed} allowed"


# -- when it is taken --------------------------------------------------------------------------------


def _random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


LAYOUTS = {
    "a row": lambda: _random(5),
    "rows": lambda: _random(7, 5),
    "one class": lambda: _random(7, 1),
    "one row": lambda: _random(1, 5),
    "many classes": lambda: _random(3, 300),
    "a sequence": lambda: _random(3, 5, 7),
    "an image": lambda: _random(2, 5, 4, 16),
    "a volume": lambda: _random(2, 5, 2, 3, 2),
    "channels last": lambda: _random(2, 5, 4, 3).to(memory_format=torch.channels_last),
    "classes moved": lambda: _random(4, 6, 5).movedim(-1, 1),
    "transposed": lambda: _random(5, 7).t(),
    "expanded rows": lambda: _random(1, 5).expand(7, 5),
    "expanded classes": lambda: _random(7, 1).expand(7, 5),
    "expanded pixels": lambda: _random(2, 5, 1, 1).expand(2, 5, 3, 4),
    "every other": lambda: _random(14, 10)[::2, 1::2],
    "a crop": lambda: _random(2, 5, 8, 8)[:, :, 2:5, 1:6],
    "misaligned": lambda: _random(36)[1:].view(7, 5),
    "turned image": lambda: _random(2, 5, 4, 3).permute(0, 1, 3, 2),
    "a parameter": lambda: torch.nn.Parameter(_random(7, 5)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@DTYPES
def test_plain_calls_take_it_whatever_the_layout(layout, dtype, calls, monkeypatch):
    x = LAYOUTS[layout]()
    x = x.data if dtype is torch.float64 else x.data.to(dtype)
    at = 0 if x.ndim == 1 else 1
    classes = x.shape[at]
    y = torch.randint(classes, x.shape[:at] + x.shape[at + 1 :])
    if y.numel() > 1:
        y[-1:] = -100
    q = torch.rand(x.shape).to(dtype)
    w = torch.rand(classes).to(dtype) + 0.5
    eps = 2e-14 if dtype is torch.float64 else torch.finfo(dtype).eps  # of float64, torch is not the truth
    if layout == "a parameter":
        x = torch.nn.Parameter(x)
    for (soft, weighted, smoothing), reduction in itertools.product(OPTIONS, REDUCTIONS):
        options = {"weight": w if weighted else None, "label_smoothing": smoothing, "reduction": reduction}
        target = q if soft else y
        wide = {**options, "weight": w.double() if weighted else None}
        want, slope = torchs(x, q.double() if soft else y, **wide)
        with Contributions():
            _, size = torchs(x, q.double() if soft else y, **wide)
        for limit in (1 << 30, 0):
            monkeypatch.setattr(direct, "_limit", limit)
            calls.clear()
            assert direct.serves(x, target, options["weight"])
            given = x if isinstance(x, torch.nn.Parameter) else x.detach().requires_grad_()
            loss = xent.cross_entropy(given, target, **options)
            assert len(calls) == 1
            assert (loss.dtype, loss.shape) == (dtype, want.shape)
            (got,) = torch.autograd.grad(loss, given, torch.ones_like(loss))
            assert len(calls) == 1
            assert (got.dtype, got.shape) == (dtype, x.shape)
            assert_close(loss.detach().double(), want, rtol=2 * eps, atol=1e-15)
            assert ((got.double() - slope).abs() <= 3 * eps * size.abs() + 1e-15).all()
        with torch.no_grad():
            same(xent.cross_entropy(x, target, **options), loss.detach())
        assert len(calls) == 2


@pytest.mark.parametrize("label_dtype", LABELS, ids=str)
@pytest.mark.parametrize("classes", [5, 300])
def test_labels_of_every_integer_dtype_take_it(classes, label_dtype, calls):
    x, y = torch.randn(4, classes, 3), torch.randint(5, (4, 3))
    y[::2] = 4
    want = loss_and_gradient(x, y, ignore_index=4, label_smoothing=0.1)
    calls.clear()
    for target in (y.to(label_dtype), y.t().contiguous().t().to(label_dtype), y[:, :1].expand(4, 3).to(label_dtype)):
        got = loss_and_gradient(x, target, ignore_index=4, label_smoothing=0.1)
        if target.stride() != (0, 1) and torch.equal(target.to(torch.int64), y):
            same(got, want)
    assert len(calls) == 3


def test_a_label_of_one_row_with_a_dimension_of_its_own(calls):
    for target, reduction in itertools.product((torch.tensor(2), torch.tensor([2])), REDUCTIONS):
        got = loss_and_gradient(X[0], target, reduction=reduction)
        want = torchs(X[0], target.reshape(()), reduction=reduction)
        assert got[0].shape == want[0].shape == ()
        assert_close(got, want, **EXACT)
    assert len(calls) == 6


@pytest.mark.parametrize("weight", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.int8], ids=str)
@DTYPES
def test_weights_of_any_dtype_promote_as_on_the_long_way(dtype, weight, calls):
    w = torch.tensor([1, 2, 3]).to(weight)
    for reduction in REDUCTIONS:
        got = loss_and_gradient(X.to(dtype), Y, weight=w, reduction=reduction)
        assert len(calls) == 1
        with the_long_way():
            want = loss_and_gradient(X.to(dtype), Y, weight=w, reduction=reduction)
        assert got[0].dtype is want[0].dtype is torch.promote_types(dtype, weight)
        within(got[0].to(dtype), want[0].to(dtype), 4 if dtype is torch.float64 else 1)
        if got[0].dtype is torch.float64:  # of narrower logits: what they resolve, and more
            assert_close(got[0], want[0], rtol=2.0**-30, atol=0.0)
        within(got[1], want[1], 1)
        calls.clear()


def test_weights_lie_as_they_like(calls):
    wide = torch.rand(10)
    for w in (wide[::2], torch.tensor(1.5).expand(5), wide[1:6]):
        x, y = torch.randn(7, 5), torch.randint(5, (7,))
        assert_close(loss_and_gradient(x, y, weight=w), loss_and_gradient(x, y, weight=w.clone()), rtol=0, atol=0)
    assert len(calls) == 6


@reductions
def test_without_a_gradient_to_make_none_is_made(reduction, calls, monkeypatch):
    monkeypatch.setattr(pages, "empty_like", lambda rows: pytest.fail("room for a gradient"))
    x = leaf(X)
    with torch.no_grad():
        assert not xent.cross_entropy(x, Y, reduction=reduction).requires_grad
    with torch.inference_mode():
        assert not xent.cross_entropy(x, Y, reduction=reduction).requires_grad
    assert not xent.cross_entropy(X, Y, reduction=reduction).requires_grad
    with torch.no_grad():  # what is not asked for does not matter
        xent.cross_entropy(X, Y, weight=leaf(W), reduction=reduction)
        xent.cross_entropy(X, leaf(Q), reduction=reduction)
    assert len(calls) == 5


def test_the_first_use_may_come_in_any_mode():
    """What a plain tensor is must not be learnt from a tensor that was made in one."""
    script = (
        "import torch\n"
        "with torch.inference_mode(), torch.device('meta'):\n"
        "    import xent; xent.cross_entropy\n"
        "from xent.ops import direct\n"
        "x, y = torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 1])\n"
        "assert direct.serves(x, y, None)\n"
        "assert not direct.serves(x.to('meta'), y.to('meta'), None)\n"
        "xent.cross_entropy(x, y).backward()\n"
        "assert x.grad.abs().sum() > 1\n"
        "assert xent.cross_entropy(x.to('meta'), y.to('meta')).is_meta\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- when it is not: someone watches -----------------------------------------------------------------


class Named(torch.Tensor):
    """A subclass that does nothing."""


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def _dual(m):
    with fwd.dual_level():
        return fwd.unpack_dual(m.cross_entropy(fwd.make_dual(X, X.flip(0)), Y))


def _dual_elsewhere(m):
    """A level that is open is enough: torch may not say which tensors have tangents."""
    with fwd.dual_level():
        return m.cross_entropy(X, Y)


def _exported(strict):
    def run(m):
        class Loss(torch.nn.Module):
            def forward(self, x):
                return m.cross_entropy(x, Y)

        return torch.export.export(Loss(), (X,), strict=strict).module()(2 * X)

    return run


def _compiled(m):
    torch._dynamo.reset()
    x = leaf(X)
    loss = torch.compile(lambda x: m.cross_entropy(x, Y), backend="aot_eager", fullgraph=True)(x)
    return loss.detach(), torch.autograd.grad(loss, x)


def _in_mode(m):
    with Recorder() as mode:
        x = leaf(X)
        loss = m.cross_entropy(x, Y)
        slope = torch.autograd.grad(loss, x)
    assert m is F or "xent.row_summary.default" in mode.seen
    assert m is F or "xent.row_grad.default" in mode.seen
    return loss.detach(), slope


def _of_inference(m):
    with torch.inference_mode():
        x = X * 2
        inside = m.cross_entropy(x, Y).clone()
    return inside, m.cross_entropy(x, Y)


def _as_subclass(m):
    loss = m.cross_entropy(X.as_subclass(Named), Y)
    assert type(loss) is Named
    return loss.as_subclass(torch.Tensor)


def _into(name):
    def run(m):
        given = {"weight": W, "target": Q}
        given[name] = leaf(given[name])
        x = leaf(X)
        return torch.autograd.grad(m.cross_entropy(x, **given), (x, given[name]))

    return run


WATCHED = {
    "torch.func.grad": lambda m: grad(lambda x: m.cross_entropy(x, Y))(X),
    "torch.func.grad, of something else": lambda m: grad(lambda s: m.cross_entropy(s * X, Y))(W[0]),
    "vmap": lambda m: vmap(lambda x: m.cross_entropy(x, Q[0]))(X),
    "vmap of the target": lambda m: vmap(lambda q: m.cross_entropy(X[0], q))(Q),
    "vmap of the weight": lambda m: vmap(lambda w: m.cross_entropy(X, Y, weight=w))(torch.stack([W, W.flip(0)])),
    "vmap of something else": lambda m: vmap(lambda s: s * m.cross_entropy(X, Y))(W),
    "jvp": lambda m: jvp(lambda x: m.cross_entropy(x, Y), (X,), (X.flip(0),)),
    "jacrev": lambda m: jacrev(lambda x: m.cross_entropy(x, Y, reduction="none"))(X),
    "hessian": lambda m: hessian(lambda x: m.cross_entropy(x, Y))(X),
    "a dual tensor": _dual,
    "a dual level": _dual_elsewhere,
    "torch.compile": _compiled,
    "torch.export": _exported(strict=False),
    "torch.export, strict": _exported(strict=True),
    "make_fx": lambda m: make_fx(lambda x: m.cross_entropy(x, Y))(X)(2 * X),
    "make_fx before dispatch": lambda m: make_fx(lambda x: m.cross_entropy(x, Y), pre_dispatch=True)(X)(2 * X),
    "torch.jit.trace": lambda m: torch.jit.trace(lambda x: m.cross_entropy(x, Y), (X,), check_trace=False)(2 * X),
    "a dispatch mode": _in_mode,
    "a subclass": _as_subclass,
    "tensors made for inference": _of_inference,
    "negated logits": lambda m: m.cross_entropy(torch._neg_view(X), Y),
    "the imaginary part of a conjugate": lambda m: m.cross_entropy(torch.complex(X, X).conj().imag, Y),
    "negated probabilities": lambda m: m.cross_entropy(X, torch._neg_view(Q)),
    "negated weights": lambda m: m.cross_entropy(X, Y, weight=torch._neg_view(W)),
    "a tensor of zeros without memory": lambda m: m.cross_entropy(torch._efficientzerotensor((4, 3)), Y),
    "a class weight that needs a gradient": _into("weight"),
    "probabilities that need a gradient": _into("target"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", WATCHED)
def test_whoever_watches_is_led_the_long_way(name, calls):
    got = WATCHED[name](xent)
    assert not calls
    want = WATCHED[name](F)
    assert_close(got, want, **EXACT)


def test_probabilities_of_another_dtype_or_layout_go_the_long_way(calls):
    want = torchs(X, Q)
    for other in (Q.float(), Q.to_sparse()):
        assert_close(loss_and_gradient(X, other), want, rtol=1e-7, atol=1e-7)
    assert not calls


def test_what_has_no_numbers_is_not_asked_for_any(calls):
    from torch._subclasses.fake_tensor import FakeTensorMode

    for reduction in REDUCTIONS:
        meta = xent.cross_entropy(X.to("meta"), Y.to("meta"), reduction=reduction)
        assert meta.is_meta
        with FakeTensorMode() as mode:
            fake = xent.cross_entropy(mode.from_tensor(X), mode.from_tensor(Y), reduction=reduction)
            inside = xent.cross_entropy(torch.randn(4, 3), torch.zeros(4, dtype=torch.long), reduction=reduction)
        want = F.cross_entropy(X, Y, reduction=reduction)
        assert meta.shape == fake.shape == inside.shape == want.shape
        assert meta.dtype == fake.dtype == want.dtype
    assert not calls


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested", "ignore:Sparse CSR tensor support")
def test_logits_that_are_sparse_or_nested_are_refused_as_before(calls):
    for other in (X.to_sparse(), torch.nested.nested_tensor([X, X]), X.to_sparse_csr()):
        with pytest.raises(xent.LayoutError):
            xent.cross_entropy(other, Y)
    assert not calls


def test_another_backend_is_obeyed(monkeypatch, calls):
    from xent import backends

    monkeypatch.setattr(backends, "TABLE", (backends.reference,))
    assert_close(loss_and_gradient(X, Y), torchs(X, Y), **EXACT)
    assert not calls


@reductions
def test_a_default_device_does_not_move_the_loss(reduction):
    """``with torch.device(...)`` says where new tensors are made; the loss of CPU tensors is on the CPU."""
    want = loss_and_gradient(X, Y, reduction=reduction)
    with torch.device("meta"):
        x = X.detach().requires_grad_()
        loss = xent.cross_entropy(x, Y, reduction=reduction)
        assert loss.device.type == "cpu"
        (slope,) = torch.autograd.grad(loss.sum(), x)
    same((loss.detach(), slope), want)


# -- the numbers are those of the long way -----------------------------------------------------------

SHAPES = [(24, 1), (24, 2), (24, 3), (24, 10), (24, 64), (24, 65), (12, 256), (12, 257), (5, 1000), (3, 8193)]
SHAPES += [(2, 5, 17), (1, 21, 4, 16)]


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@fused
def test_numbers_are_those_of_the_long_way(shape, dtype, limit, calls, monkeypatch):
    """The loss within an ulp of what it is rounded to, or 4 in float64, where two log1p of 1.4 and 0.8 ulp meet."""
    monkeypatch.setattr(direct, "_limit", limit)
    g = torch.Generator().manual_seed(sum(shape))
    outer, classes, *inner = shape
    x = hostile((outer, classes, int(torch.tensor(inner).prod())), dtype, g).reshape(shape)
    y = torch.randint(classes, (outer, *inner), generator=g)
    y[torch.rand(y.shape, generator=g) < 0.2] = -100
    q = torch.rand(shape, generator=g).where(torch.rand(shape, generator=g) < 0.7, 0.0).to(dtype)
    w = torch.rand(classes, generator=g).where(torch.rand(classes, generator=g) < 0.7, 0.0).to(dtype)
    finite = x.where(x.isfinite(), 0.0)
    for (soft, weighted, smoothing), reduction in itertools.product(OPTIONS, REDUCTIONS):
        options = {"weight": w if weighted else None, "label_smoothing": smoothing, "reduction": reduction}
        for logits in (x, finite):
            calls.clear()
            got = loss_and_gradient(logits, q if soft else y, **options)
            assert len(calls) == 1
            with the_long_way():
                want = loss_and_gradient(logits, q if soft else y, **options)
            assert len(calls) == 1
            within(got[0], want[0], 4 if dtype is torch.float64 else 1)
            within(got[1], want[1], 1)


@DTYPES
@fused
def test_rows_that_ask_nothing(dtype, limit, monkeypatch):
    """All ignored, weights of zero, distributions of zeros: torch's nan or 0, and a gradient of 0."""
    monkeypatch.setattr(direct, "_limit", limit)
    x = X.to(dtype)
    bad = x.clone()
    bad[2] = NAN
    for reduction, smoothing in itertools.product(REDUCTIONS, (0.0, 0.1)):
        options = {"reduction": reduction, "label_smoothing": smoothing}
        for logits in (x, torch.full_like(x, NAN), torch.full_like(x, -INF)):
            loss, slope = loss_and_gradient(logits, torch.full((4,), -100), **options)
            same(loss, F.cross_entropy(X, torch.full((4,), -100), **options).to(dtype))
            assert not slope.any()
        same(loss_and_gradient(bad, Y, **options)[0], loss_and_gradient(x, Y, **options)[0])
        assert not loss_and_gradient(bad, Y, **options)[1][2].any()
    for w, smoothing, factor in itertools.product((torch.zeros(3), torch.tensor([0.0, 1.0, 2.0])), (0.0, 0.1), (1, 3)):
        y, factor = torch.tensor([0, 0, -100, 0]), torch.tensor(float(factor))
        loss, slope = loss_and_gradient(x, y, factor, weight=w, label_smoothing=smoothing)
        assert loss.isnan()  # a mean over labels that weigh nothing, whatever the others ask
        assert not slope.any()
    loss, slope = loss_and_gradient(x, torch.zeros_like(x))
    assert loss == 0
    assert not slope.any()


@DTYPES
@reductions
def test_an_empty_batch_is_torchs(dtype, reduction):
    for shape in ((0, 3), (2, 3, 0), (0, 3, 2), (0, 1)):
        x, y = torch.zeros(shape, dtype=dtype), torch.zeros(shape[:1] + shape[2:], dtype=torch.long)
        for target in (y, x.clone()):
            got, slope = loss_and_gradient(x, target, reduction=reduction)
            same(
                got,
                F.cross_entropy(x.double(), target if target is y else target.double(), reduction=reduction).to(dtype),
            )
            assert slope.shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@reductions
def test_a_loss_too_large_for_its_dtype_is_inf(dtype, reduction):
    """As `Tensor.to` has it; a number that is made into a tensor is refused instead."""
    top = torch.finfo(dtype).max
    x, y = torch.tensor([[top, -top], [0.0, 0.0]], dtype=dtype), torch.tensor([1, 0])
    for given in (x, leaf(x)):
        loss = xent.cross_entropy(given, y, reduction="sum" if reduction == "mean" else reduction)
        assert loss.flatten()[0] == INF
    loss, slope = loss_and_gradient(x.repeat(40, 1), y.repeat(40), reduction=reduction)
    with the_long_way():
        want = loss_and_gradient(x.repeat(40, 1), y.repeat(40), reduction=reduction)
    same((loss, slope), want)
    loss, _ = loss_and_gradient(x[:1], y[:1], reduction=reduction)
    assert loss == INF


# -- gradients ---------------------------------------------------------------------------------------

UPSTREAM = [1.0, 3.7, 2.0**16, 2.0**-30, 0.0, -1.0, NAN, INF, -INF]


@pytest.mark.parametrize("upstream", UPSTREAM)
@DTYPES
@fused
def test_the_gradient_takes_any_factor(upstream, dtype, limit, monkeypatch):
    monkeypatch.setattr(direct, "_limit", limit)
    for (soft, weighted, smoothing), reduction in itertools.product(OPTIONS, REDUCTIONS):
        options = {"weight": W.to(dtype) if weighted else None, "label_smoothing": smoothing, "reduction": reduction}
        target = Q.to(dtype) if soft else Y
        shape = Y.shape if reduction == "none" else ()
        factor = torch.full(shape, upstream, dtype=torch.float64).to(dtype)
        if reduction == "none":
            factor[1] = 1.0
        got = loss_and_gradient(X.to(dtype), target, factor, **options)
        with the_long_way():
            want = loss_and_gradient(X.to(dtype), target, factor, **options)
        within(got[1], want[1], 1)


@pytest.mark.parametrize("view", ["expanded", "turned", "every other"])
def test_unreduced_losses_take_factors_of_any_layout(view):
    x, y = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(3, (2, 4, 5))
    factors = {
        "expanded": torch.tensor(2.0).double().expand(2, 4, 5),
        "turned": torch.randn(5, 4, 2).double().permute(2, 1, 0),
        "every other": torch.randn(2, 4, 10).double()[..., ::2],
    }
    options = {"reduction": "none", "label_smoothing": 0.1}
    assert_close(loss_and_gradient(x, y, factors[view], **options), torchs(x, y, factors[view], **options), **EXACT)


@reductions
@fused
def test_asked_twice_it_answers_twice_and_never_with_the_same_tensor(reduction, limit, monkeypatch):
    monkeypatch.setattr(direct, "_limit", limit)
    for (soft, weighted, smoothing), classes in itertools.product(OPTIONS, (3, 300)):
        x = leaf(torch.randn(4, classes))
        q, w = torch.rand(4, classes), torch.rand(classes) if weighted else None
        options = {"weight": w, "label_smoothing": smoothing, "reduction": reduction}
        loss = xent.cross_entropy(x, q if soft else torch.tensor([0, 1, -100, 2]), **options)
        ones = torch.ones_like(loss)
        (first,) = torch.autograd.grad(loss, x, ones, retain_graph=True)
        kept = first.clone()
        assert kept.ne(0).any()
        first.fill_(7.0)  # as optimizers and clipping do
        (second,) = torch.autograd.grad(loss, x, ones, retain_graph=True)
        assert first.data_ptr() != second.data_ptr()
        same(second, kept)
        second.fill_(8.0)
        (third,) = torch.autograd.grad(loss, x, 2 * ones, retain_graph=True)
        same(third, 2 * kept)
        (last,) = torch.autograd.grad(loss, x, ones)
        same(last, kept)
        assert first.eq(7.0).all()
        assert second.eq(8.0).all()
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(loss, x, ones)


@reductions
def test_gradients_accumulate(reduction):
    x = leaf(X)
    want = torchs(X, Y, reduction=reduction)[1]
    loss = xent.cross_entropy(x, Y, reduction=reduction).sum()
    loss.backward(retain_graph=True)
    first = x.grad
    assert_close(first, want, **EXACT)
    first.mul_(2)
    loss.backward(retain_graph=True)
    assert_close(x.grad, 3 * want, **EXACT)
    x.grad = None
    loss.backward()
    assert_close(x.grad, want, **EXACT)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    other = leaf(X)
    (
        xent.cross_entropy(other, Y, reduction=reduction) + xent.cross_entropy(other, Y, reduction=reduction)
    ).sum().backward()
    assert_close(other.grad, 2 * want, **EXACT)


@reductions
@fused
def test_second_derivatives(reduction, limit, monkeypatch, calls):
    monkeypatch.setattr(direct, "_limit", limit)
    for soft, weighted, smoothing in OPTIONS:
        options = {"weight": W if weighted else None, "label_smoothing": smoothing, "reduction": reduction}

        def loss(x, options=options, soft=soft):
            return xent.cross_entropy(x, Q if soft else Y, **options)

        assert gradcheck(loss, (leaf(X),), check_batched_grad=True)
        assert gradgradcheck(loss, (leaf(X),), check_batched_grad=True)
        x = leaf(X)
        (first,) = torch.autograd.grad(loss(x).sum(), x, create_graph=True)
        assert first.requires_grad
        assert_close(first.detach(), torchs(X, Q if soft else Y, **options)[1], **EXACT)
    assert calls


@reductions
def test_the_factor_has_a_derivative_too(reduction):
    x, v = leaf(X), torch.full(() if reduction != "none" else (4,), 1.5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(xent.cross_entropy(x, Y, reduction=reduction), x, v, create_graph=True)
    (got,) = torch.autograd.grad(slope.square().sum(), v)
    (slope,) = torch.autograd.grad(F.cross_entropy(x, Y, reduction=reduction), x, v, create_graph=True)
    assert_close(got, torch.autograd.grad(slope.square().sum(), v)[0], **EXACT)


@reductions
@fused
def test_many_factors_at_once(reduction, limit, monkeypatch):
    """`is_grads_batched`, `jacobian(vectorize=True)` and vmap over the backward pass alone."""
    monkeypatch.setattr(direct, "_limit", limit)
    shape = (4,) if reduction == "none" else ()
    v = torch.randn(5, *shape, dtype=torch.float64)
    x, results = leaf(X), []
    for m in (xent, F):
        loss = m.cross_entropy(x, Y, reduction=reduction)
        by_one = functools.partial(torch.autograd.grad, loss, x, retain_graph=True)
        results.append(
            [
                torch.autograd.grad(loss, x, v, is_grads_batched=True, retain_graph=True)[0],
                vmap(lambda v, f=by_one: f(v)[0])(v),
                vmap(vmap(lambda v, f=by_one: f(v)[0]))(v.unsqueeze(0)),
                torch.autograd.functional.jacobian(
                    lambda x, m=m: m.cross_entropy(x, Y, reduction=reduction), X, vectorize=True
                ),
                torch.autograd.functional.hessian(lambda x, m=m: m.cross_entropy(x, Y), X, vectorize=True),
            ]
        )
    assert_close(*results, **EXACT)


@reductions
@pytest.mark.parametrize("how", ["grad", "jvp", "vmap of grad", "dual"])
def test_transforms_around_the_backward_pass_alone(how, reduction):
    """The loss is there before the transform begins; only the factor is wrapped."""
    v, results = torch.full((4,) if reduction == "none" else (), 2.0, dtype=torch.float64), []
    for m in (F, xent):
        x = leaf(X)
        loss = m.cross_entropy(x, Y, reduction=reduction)

        def slope(v, x=x, loss=loss):
            return torch.autograd.grad(loss, x, v, retain_graph=True)[0]

        if how == "grad":
            results.append(grad(lambda v, f=slope: f(v).square().sum())(v))
        elif how == "vmap of grad":
            results.append(vmap(grad(lambda v, f=slope: f(v).square().sum()))(torch.stack([v, 2 * v])))
        elif how == "jvp":
            results.append(jvp(slope, (v,), (torch.ones_like(v),)))
        else:
            with fwd.dual_level():
                results.append(tuple(fwd.unpack_dual(slope(fwd.make_dual(v, torch.ones_like(v))))))
    assert_close(*results, **EXACT)


@reductions
def test_modes_around_the_backward_pass_alone(reduction):
    from torch._subclasses.fake_tensor import FakeTensorMode

    v = torch.full((4,) if reduction == "none" else (), 2.0, dtype=torch.float64)
    x = leaf(X)
    loss = xent.cross_entropy(x, Y, reduction=reduction)

    def slope(v):
        return torch.autograd.grad(loss, x, v, retain_graph=True)[0]

    want = torchs(X, Y, v, reduction=reduction)[1]
    with Recorder() as mode:
        assert_close(slope(v), want, **EXACT)
    assert "xent.row_grad.default" in mode.seen
    assert_close(make_fx(slope)(v)(3 * v), 3 * want, **EXACT)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert slope(mode.from_tensor(v)).shape == X.shape


WRAPPED = """
import torch, torch.utils._pytree as tree, xent
class Wrapped(torch.Tensor):
    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
    def __init__(self, inner):
        self.inner = inner
    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        bare = lambda t: t.inner if isinstance(t, Wrapped) else t
        out = function(*tree.tree_map(bare, args), **tree.tree_map(bare, kwargs or {}))
        return tree.tree_map(lambda t: Wrapped(t) if isinstance(t, torch.Tensor) else t, out)
x, y = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
for reduction, v in (("mean", torch.tensor(2.0)), ("sum", torch.tensor(1.0)), ("none", torch.ones(4))):
    want = torch.autograd.grad(torch.nn.functional.cross_entropy(x, y, reduction=reduction), x, v)[0]
    got = torch.autograd.grad(xent.cross_entropy(x, y, reduction=reduction), x, Wrapped(v))[0]
    assert type(got) is Wrapped
    torch.testing.assert_close(got.inner, want)
"""


def test_a_factor_without_memory_of_its_own():
    """In a process of its own: an address taken of such a tensor is 0."""
    done = subprocess.run([sys.executable, "-c", WRAPPED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:] or done.returncode


def test_no_gradient_comes_back_where_none_goes_in():
    class Cut(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, grad):
            return None

    for reduction in REDUCTIONS:
        x = leaf(X)
        (slope,) = torch.autograd.grad(Cut.apply(xent.cross_entropy(x, Y, reduction=reduction)).sum(), x)
        assert not slope.any()


# -- what else autograd does with it -----------------------------------------------------------------


@reductions
@fused
def test_hooks_see_and_change_the_gradient(reduction, limit, monkeypatch):
    monkeypatch.setattr(direct, "_limit", limit)
    want = torchs(X, Y, reduction=reduction)[1]
    x, seen = leaf(X), []
    x.register_hook(lambda g: seen.append(g.clone()) or g.mul_(2))
    x.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    loss = xent.cross_entropy(x, Y, reduction=reduction)
    nodes = []
    loss.grad_fn.register_hook(lambda inputs, outputs: nodes.append((inputs, outputs)))
    loss.sum().backward(retain_graph=True)
    assert_close(seen, [want, 2 * want], **EXACT)
    assert_close(x.grad, 2 * want, **EXACT)
    assert len(nodes) == 1
    x.grad = None
    loss.sum().backward()  # the first one was changed in place
    assert_close(x.grad, 2 * want, **EXACT)


@reductions
@fused
def test_hooks_on_saved_tensors(reduction, limit, monkeypatch):
    monkeypatch.setattr(direct, "_limit", limit)
    for upstream, (soft, weighted, smoothing) in itertools.product((1.0, 3.0), OPTIONS):
        target, options = Q if soft else Y, {"weight": W if weighted else None, "label_smoothing": smoothing}
        v = torch.full((4,) if reduction == "none" else (), upstream, dtype=torch.float64)
        want = torchs(X, target, v, reduction=reduction, **options)[1]
        stored = []

        def pack(tensor, stored=stored):
            stored.append(tensor.clone())
            return len(stored) - 1

        for hooks in (
            torch.autograd.graph.saved_tensors_hooks(pack, stored.__getitem__),
            torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy().copy(), torch.from_numpy),
            torch.autograd.graph.save_on_cpu(),
        ):
            x = leaf(X)
            with hooks:
                loss = xent.cross_entropy(x * 1, target, reduction=reduction, **options)
            for _ in range(2):
                assert_close(torch.autograd.grad(loss, x, v, retain_graph=True)[0], want, **EXACT)
        assert stored


@reductions
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant, reduction, calls):
    x = leaf(X)
    loss = checkpoint(lambda x: xent.cross_entropy(2 * x, Y, reduction=reduction), x, use_reentrant=reentrant)
    loss.sum().backward()
    assert_close(x.grad, 2 * torchs(2 * X, Y, reduction=reduction)[1], **EXACT)
    assert len(calls) == 2


@reductions
@fused
@pytest.mark.parametrize("changed", ["logits", "labels", "probabilities", "weight"])
def test_what_changes_in_place_is_noticed(changed, reduction, limit, monkeypatch):
    """Never a wrong gradient: an error, as torch has it."""
    monkeypatch.setattr(direct, "_limit", limit)
    base = leaf(X)
    given = {"logits": base * 1, "labels": Y.clone(), "probabilities": Q.clone(), "weight": W.clone()}
    target = given["probabilities" if changed == "probabilities" else "labels"]
    for upstream in (1.0, 2.0):
        loss = xent.cross_entropy(given["logits"], target, weight=given["weight"], reduction=reduction)
        with torch.no_grad():
            given[changed].add_(1 if changed == "labels" else 0.5)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.sum().backward(torch.tensor(upstream, dtype=torch.float64))
        given["labels"].copy_(Y)


@reductions
def test_logits_that_are_no_leaf(reduction):
    x, w = leaf(torch.randn(4, 6).double()), leaf(torch.randn(6, 3).double())
    results = []
    for m in (xent, F):
        logits = x @ w
        logits.retain_grad()
        loss = m.cross_entropy(logits, Y, reduction=reduction).sum()
        results.append((*torch.autograd.grad(loss, (x, w), retain_graph=True), *torch.autograd.grad(loss, logits)))
    assert_close(*results, **EXACT)
    loss = xent.cross_entropy(x @ w, Y)
    loss.backward(inputs=[w])
    assert x.grad is None
    assert w.grad is not None


@reductions
def test_anomalies_are_detected(reduction):
    with torch.autograd.set_detect_anomaly(True):
        x = leaf(X)
        xent.cross_entropy(x, Y, reduction=reduction).sum().backward()
        assert_close(x.grad, torchs(X, Y, reduction=reduction)[1], **EXACT)
        bad = X.clone()
        bad[0, 0] = NAN
        loss = xent.cross_entropy(leaf(bad), Y, reduction=reduction).sum()
        with pytest.raises(RuntimeError, match="returned nan values"), pytest.warns(UserWarning, match="forward call"):
            loss.backward()


@DTYPES
@reductions
def test_autocast_widens_the_loss_and_leaves_the_gradient(dtype, reduction, calls):
    for soft, weighted, smoothing in OPTIONS:
        options = {"weight": W.to(dtype) if weighted else None, "label_smoothing": smoothing, "reduction": reduction}
        target = Q.to(dtype) if soft else Y
        with torch.autocast("cpu", torch.bfloat16):
            loss, slope = loss_and_gradient(X.to(dtype), target, **options)
        assert loss.dtype is (torch.float32 if dtype.itemsize == 2 else dtype)
        assert slope.dtype is dtype
        plain = loss_and_gradient(X.to(dtype), target, **options)
        within(loss.to(dtype), plain[0], 1)
        within(slope, plain[1], 1)
    assert len(calls) == 2 * len(OPTIONS)


def test_the_default_dtype_does_not_matter():
    want = loss_and_gradient(X.float(), Y)
    try:
        torch.set_default_dtype(torch.float64)
        same(loss_and_gradient(X.float(), Y), want)
    finally:
        torch.set_default_dtype(torch.float32)


def test_several_threads_at_once():
    """Each with its own logits, and with the same; their gradients are their own."""
    shared, errors = leaf(torch.randn(64, 10)), []
    own = [(leaf(torch.randn(50 + k, 7 + k)), torch.randint(7, (50 + k,))) for k in range(8)]
    labels = torch.randint(10, (64,))
    wants = [torchs(x, y)[1].float() for x, y in own]
    want = torchs(shared, labels)[1].float()
    whole = xent.cross_entropy(shared, labels)  # one graph for all of them
    start = threading.Barrier(len(own))

    def work(k):
        try:
            start.wait()
            x, y = own[k]
            for i in range(30):
                x.grad = None
                xent.cross_entropy(x, y).backward()
                assert_close(x.grad, wants[k])
                assert_close(torch.autograd.grad(xent.cross_entropy(shared, labels), shared)[0], want)
                (slope,) = torch.autograd.grad(whole, shared, retain_graph=True)
                assert_close(slope, want)
                slope.fill_(k + i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(own))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["copy", "pickle"]
)
def test_modules_are_copied_and_pickled(clone, calls):
    module = xent.CrossEntropyLoss(weight=W, ignore_index=1, label_smoothing=0.1, reduction="sum")
    module(leaf(X), Y.clamp_min(0)).backward()
    other = clone(module)
    x = leaf(X)
    other(x, Y.clamp_min(0)).backward()
    assert len(calls) == 2
    same(
        x.grad, loss_and_gradient(X, Y.clamp_min(0), weight=W, ignore_index=1, label_smoothing=0.1, reduction="sum")[1]
    )


def test_losses_and_gradients_are_tensors_like_others():
    """Copied, pickled, shared, resized by in-place operations; large ones lie in memory of their own kind."""
    for rows, classes in ((4, 3), (1100, 1000)):
        x, y = leaf(torch.randn(rows, classes)), torch.randint(classes, (rows,))
        loss = xent.cross_entropy(x, y)
        loss.backward()
        assert x.grad.is_contiguous()
        same(copy.deepcopy(x).grad, x.grad)
        same(pickle.loads(pickle.dumps(x.grad)), x.grad)
        kept = x.grad.clone()
        x.grad.add_(1.0).sub_(1.0).zero_()
        xent.cross_entropy(x, y).backward()
        same(x.grad, kept)
        assert copy.deepcopy(loss.detach()) == loss


@reductions
def test_in_place_work_on_the_loss(reduction):
    """The loss belongs to who asked for it."""
    x = leaf(X)
    loss = xent.cross_entropy(x, Y, reduction=reduction)
    loss.mul_(2).add_(1)
    loss.sum().backward()
    assert_close(x.grad, 2 * torchs(X, Y, reduction=reduction)[1], **EXACT)


def test_nothing_is_kept_once_the_loss_is_gone():
    for limit in (direct.IN_FORWARD, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(direct, "_limit", limit)
            x, y, w = leaf(X), Y.clone(), W.clone()
            loss = xent.cross_entropy(x, y, weight=w)
            watched = [weakref.ref(t) for t in (x, y, w)]
            gc.disable()  # by reference counts alone: a cycle would keep the logits until it is looked for
            try:
                loss.backward()
                del x, y, w, loss
                assert [ref() for ref in watched] == [None] * 3
            finally:
                gc.enable()


# -- errors ------------------------------------------------------------------------------------------

WRONG = {
    "too large": (torch.int64, 3),
    "much too large": (torch.int64, 1 << 40),
    "negative": (torch.int64, -1),
    "smallest": (torch.int64, -(2**63)),
    "narrow": (torch.int8, -7),
    "unsigned": (torch.uint8, 156),  # the bits of -100
    "beyond int64": (torch.uint64, 2**64 - 1),
    "beyond int64, the bits of -100": (torch.uint64, 2**64 - 100),
    "beyond int64, 0 if cut off": (torch.uint64, 2**63),
}


@pytest.mark.parametrize("name", WRONG)
@reductions
@fused
def test_a_label_that_is_no_class_is_refused(name, reduction, limit, monkeypatch, calls):
    monkeypatch.setattr(direct, "_limit", limit)
    dtype, wrong = WRONG[name]
    for classes, rows in ((3, 4), (300, 4), (3, 40_000)):
        if 0 < wrong < classes:
            continue
        y = torch.tensor([0] * (rows - 2) + [wrong, 0], dtype=dtype)
        x = leaf(torch.randn(rows, classes))
        for given, weight, smoothing in itertools.product((x, x.detach()), (None, torch.ones(classes)), (0.0, 0.1)):
            calls.clear()
            with pytest.raises(xent.TargetError, match=rf"target\[{rows - 2}\] = {wrong}: not a class"):
                xent.cross_entropy(given, y, weight=weight, reduction=reduction, label_smoothing=smoothing)
            assert len(calls) == 1
            assert x.grad is None
        right = torch.zeros(rows, dtype=dtype)
        assert xent.cross_entropy(x, right, reduction=reduction).isfinite().all()


def test_a_refused_call_leaves_nothing_behind():
    x, y = leaf(torch.randn(1100, 1000)), torch.zeros(1100, dtype=torch.long)  # a gradient from the pool
    y[1] = 1000
    used = native._native.pages_held()[1]
    alive = weakref.ref(x)
    for reduction in REDUCTIONS:
        with pytest.raises(xent.TargetError):
            xent.cross_entropy(x, y, reduction=reduction)
    assert native._native.pages_held()[1] == used
    del x
    gc.collect()
    assert alive() is None


@pytest.fixture
def default_limit():
    yield
    xent.set_grad_in_forward(None)


@DTYPES
@pytest.mark.parametrize("shape", [(9, 2), (33, 10), (17, 100), (5, 4097), (2, 131_073), (3, 30, 7)], ids=str)
def test_a_gradient_has_the_same_bits_in_either_pass(shape, dtype, default_limit):
    generator = torch.Generator().manual_seed(3)
    x = hostile((shape[0], shape[1], math.prod(shape[2:])), dtype, generator).reshape(shape)
    y = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    for logits in (x, x.where(x.isfinite(), 0.0)):
        found = []
        for limit in (True, False):
            xent.set_grad_in_forward(limit)
            found.append(loss_and_gradient(logits, y))
        for in_forward, in_backward in zip(*found, strict=True):
            same(in_forward, in_backward)


def test_who_sets_where_gradients_are_made(default_limit, monkeypatch):
    made = []
    whole = native.loss
    monkeypatch.setattr(
        native,
        "loss",
        lambda *a, gradient=None, **b: (made.append(gradient is not None), whole(*a, gradient=gradient, **b))[1],
    )
    small, large = torch.zeros(4, 8), torch.zeros(1, 8 << 20).expand(2, -1).contiguous()
    for limit, of_small, of_large in [
        (None, 1, 0),
        (True, 1, 1),
        (False, 0, 0),
        (64, 0, 0),
        (128, 1, 0),
        (1 << 26, 1, 1),
    ]:
        xent.set_grad_in_forward(limit)
        for x in (small, large):
            xent.cross_entropy(x.requires_grad_(), torch.zeros(len(x), dtype=torch.int64))
        assert made[-2:] == [bool(of_small), bool(of_large)], limit
    for wrong, error in ((1.5, xent.ArgumentError), ("auto", xent.ArgumentError), (-1, xent.OptionError)):
        with pytest.raises(error, match="limit"):
            xent.set_grad_in_forward(wrong)
