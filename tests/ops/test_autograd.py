"""Derivatives of every order and every kind, against numbers, against torch in float64, and against each other."""

import itertools

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.testing import assert_close

import xent

EXACT = {"rtol": 1e-11, "atol": 1e-12}
X = torch.tensor([[0.3, -1.2, 2.0], [1.5, 0.1, -0.4], [-2.0, 0.7, 0.2], [0.0, 0.9, 0.9]], dtype=torch.float64)
Y = torch.tensor([2, 0, -100, 1])
Q = torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.0, 0.3], [0.1, 0.1, 0.8], [0.0, 0.0, 0.0]], dtype=torch.float64)
W = torch.tensor([1.0, 2.5, 0.5], dtype=torch.float64)

OPTIONS = {
    "plain": {},
    "weighted": {"weight": W},
    "smoothed": {"label_smoothing": 0.2},
    "weighted, smoothed": {"weight": W, "label_smoothing": 0.2},
}
MODULES = (xent, F)


def leaf(tensor):
    return tensor.detach().clone().requires_grad_()


def target_of(soft):
    return Q if soft else Y


grid = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
kinds = pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
reductions = pytest.mark.parametrize("reduction", ["none", "sum", "mean"])


# -- against finite differences ----------------------------------------------------------------------

CHECKS = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
SECOND = {"check_fwd_over_rev": True, "check_rev_over_rev": True, "check_batched_grad": True}


@grid
@kinds
@reductions
def test_first_and_second_derivative_of_cross_entropy(options, soft, reduction):
    leaves = [leaf(X)] + ([leaf(Q)] if soft else [])

    def loss(x, target=Y):
        return xent.cross_entropy(x, target, reduction=reduction, **options)

    assert gradcheck(loss, leaves, **CHECKS)
    assert gradgradcheck(loss, leaves, **SECOND)


@kinds
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_derivatives_into_the_class_weight(soft, smoothing):
    leaves = [leaf(X), leaf(W)] + ([leaf(Q)] if soft else [])

    def loss(x, w, target=Y):
        return xent.cross_entropy(x, target, weight=w, label_smoothing=smoothing)

    assert gradcheck(loss, leaves, **CHECKS)
    assert gradgradcheck(loss, leaves, **SECOND)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 2), (1, 2, 2, 2)], ids=str)
@kinds
def test_derivatives_at_other_ranks(shape, soft):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    at = 0 if len(shape) == 1 else 1
    target = torch.rand(shape).double() if soft else torch.randint(shape[at], shape[:at] + shape[at + 1 :])
    assert gradcheck(lambda x: xent.cross_entropy(x, target, label_smoothing=0.1), (x,), **CHECKS)
    assert gradgradcheck(lambda x: xent.cross_entropy(x, target, label_smoothing=0.1), (x,), **SECOND)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dim", [0, 1])
def test_first_and_second_derivative_of_softmax(name, dim):
    assert gradcheck(lambda x: getattr(xent, name)(x, dim), (leaf(X),), **CHECKS)
    assert gradgradcheck(lambda x: getattr(xent, name)(x, dim), (leaf(X),), **SECOND)


@pytest.mark.parametrize("weighted", [False, True])
@reductions
def test_first_and_second_derivative_of_nll(weighted, reduction):
    leaves = [leaf(X)] + ([leaf(W)] if weighted else [])

    def loss(x, w=None):
        return xent.nll_loss(x, Y, weight=w, reduction=reduction)

    assert gradcheck(loss, leaves, **CHECKS)
    assert gradgradcheck(loss, leaves, **SECOND)


# -- higher orders, twice, and what is kept ----------------------------------------------------------


@kinds
def test_third_derivative(soft):
    for options in OPTIONS.values():
        results = []
        for m in MODULES:
            x = leaf(X)
            out = m.cross_entropy(x, target_of(soft), **options)
            orders = []
            for _ in range(3):
                (slope,) = torch.autograd.grad(out, x, create_graph=True)
                orders.append(slope.detach())
                out = (slope * torch.arange(12.0).reshape(4, 3).double()).sum()
            results.append(orders)
        assert_close(*results, **EXACT)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_third_derivative_of_softmax(name):
    slope = torch.arange(12.0).reshape(4, 3).double()
    results = []
    for m in MODULES:
        x, orders = leaf(X), []
        out = (getattr(m, name)(x, 1) * slope).sum()
        for _ in range(3):
            (g,) = torch.autograd.grad(out, x, create_graph=True)
            orders.append(g.detach())
            out = (g * slope).sum()
        results.append(orders)
    assert_close(*results, **EXACT)


def test_second_derivative_where_classes_are_masked_or_rows_ignored():
    x = X.clone()
    x[0, 1] = -torch.inf
    x[2] = torch.nan  # its label is ignored
    logits = leaf(x)
    (first,) = torch.autograd.grad(xent.cross_entropy(logits, Y), logits, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), logits)
    kept = [0, 1, 3]
    part = leaf(X[kept])
    part.data[0, 1] = -1e30
    (want,) = torch.autograd.grad(F.cross_entropy(part, Y[kept]), part, create_graph=True)
    (want,) = torch.autograd.grad(want.square().sum(), part)
    assert_close(second[kept], want, **EXACT)
    assert torch.equal(second[2], torch.zeros(3).double())


def test_backward_twice():
    for call in (
        lambda x: xent.cross_entropy(x, Y, label_smoothing=0.1),
        lambda x: xent.softmax(x, 1).square().sum(),
        lambda x: xent.nll_loss(x, Y),
    ):
        x = leaf(X)
        out = call(x)
        (first,) = torch.autograd.grad(out, x, retain_graph=True)
        (second,) = torch.autograd.grad(out, x)
        assert torch.equal(first, second)
        assert first.ne(0).any()
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(out, x)


def test_logits_changed_in_place_before_backward_are_noticed():
    base = leaf(X)
    x = base * 1
    out = xent.cross_entropy(x, Y)
    x.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def _saved(call):
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = call()
    assert out.requires_grad
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_saved_are_the_logits_by_reference_the_target_and_a_few_numbers_a_row(options, dtype):
    rows, classes = 64, 500
    x, target = torch.randn(rows, classes, dtype=dtype, requires_grad=True), torch.randint(classes, (rows,))
    options = {**options, "weight": torch.rand(classes)} if "weight" in options else options
    kept = _saved(lambda: xent.cross_entropy(x, target, **options))
    elsewhere = {t.data_ptr(): t.numel() for t in kept if t.data_ptr() != x.data_ptr()}
    assert any(t.data_ptr() == x.data_ptr() for t in kept)
    assert sum(elsewhere.values()) <= 8 * rows + classes


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_saved_by_softmax_are_its_input_by_reference_and_a_few_numbers_a_row(name):
    x = torch.randn(64, 500, requires_grad=True)
    kept = _saved(lambda: getattr(xent, name)(x, 1))
    assert sum(t.numel() for t in kept if t.data_ptr() != x.data_ptr()) <= 8 * 64


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_saved_logits_of_a_map_are_no_copy(memory_format):
    x = torch.randn(2, 50, 8, 8).contiguous(memory_format=memory_format).requires_grad_()
    kept = _saved(lambda: xent.cross_entropy(x, torch.randint(50, (2, 8, 8))))
    assert sum(t.numel() for t in kept if t.data_ptr() != x.data_ptr()) <= 8 * 2 * 64


# -- forward mode ------------------------------------------------------------------------------------

CALLS = {
    "cross_entropy": lambda m, x: m.cross_entropy(x, Y),
    "cross_entropy, every option": lambda m, x: m.cross_entropy(x, Y, weight=W, label_smoothing=0.2),
    "cross_entropy, unreduced": lambda m, x: m.cross_entropy(x, Y, reduction="none"),
    "cross_entropy of probabilities": lambda m, x: m.cross_entropy(x, Q, weight=W, label_smoothing=0.2),
    "nll_loss": lambda m, x: m.nll_loss(x, Y, weight=W),
    "softmax": lambda m, x: m.softmax(x, 1),
    "log_softmax": lambda m, x: m.log_softmax(x, 0),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@calls
@pytest.mark.parametrize("tracked", [False, True], ids=["input needs no gradient", "input needs one"])
def test_a_tangent_comes_through_whether_or_not_the_input_needs_a_gradient(call, tracked):
    """A `custom_op` with `register_autograd` drops it silently where it does not."""
    slope, tangents = torch.randn(4, 3, dtype=torch.float64), []
    for m in MODULES:
        with fwd.dual_level():
            out = call(m, fwd.make_dual(X.clone().requires_grad_(tracked), slope))
            tangents.append(fwd.unpack_dual(out).tangent.detach().clone())
    assert_close(*tangents, **EXACT)
    assert tangents[0].ne(0).any()


@calls
def test_jvp_and_jacobians(call):
    slope = torch.randn(4, 3, dtype=torch.float64)
    results = []
    for m in MODULES:
        f = lambda x, m=m: call(m, x)  # noqa: E731
        results.append((jvp(f, (X,), (slope,)), jacfwd(f)(X), jacrev(f)(X)))
    assert_close(*results, **EXACT)


MIXTURES = {
    "forward over reverse": hessian,
    "reverse over reverse": lambda f: jacrev(jacrev(f)),
    "reverse over forward": lambda f: jacrev(jacfwd(f)),
    "forward over forward": lambda f: jacfwd(jacfwd(f)),
}


@calls
@pytest.mark.parametrize("second", MIXTURES.values(), ids=MIXTURES)
def test_hessian_by_every_mixture_of_modes(second, call):
    """torch turns forward mode off inside a Function's jvp: forward over forward is 0 if nothing is done about it."""
    results = [second(lambda x, m=m: (call(m, x) ** 2).sum())(X) for m in MODULES]
    assert_close(*results, **EXACT)
    assert results[0].ne(0).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_tangents_in_the_probabilities_and_the_weight(smoothing):
    slopes = torch.randn(3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    results = []
    for m in MODULES:
        f = lambda w, q, m=m: m.cross_entropy(X, q, weight=w, label_smoothing=smoothing, reduction="none")  # noqa: E731
        results.append(jvp(f, (W, Q), slopes))
    assert_close(*results, **EXACT)


# -- vmap --------------------------------------------------------------------------------------------

BATCH = torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
LABELS = torch.randint(3, (5, 4), generator=torch.Generator().manual_seed(7))
LABELS[1, 2] = LABELS[3, 0] = -100
MIXES = BATCH.flip(0).softmax(-1)
WEIGHTS = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) + 0.1


def one_by_one(f, *batches):
    return torch.stack([f(*each) for each in zip(*batches, strict=True)])


@reductions
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@kinds
def test_vmap_is_a_loop(soft, smoothing, reduction):
    def loss(x, target, weight=None):
        return xent.cross_entropy(x, target, weight=weight, label_smoothing=smoothing, reduction=reduction)

    targets = MIXES if soft else LABELS
    want = one_by_one(loss, BATCH, targets)
    assert_close(vmap(loss)(BATCH, targets), want, **EXACT)
    assert_close(vmap(loss, (1, 0))(BATCH.movedim(0, 1), targets), want, **EXACT)
    assert_close(vmap(loss, (2, -1))(BATCH.movedim(0, 2), targets.movedim(0, -1)), want, **EXACT)
    assert_close(vmap(loss, (None, 0))(X, targets), one_by_one(lambda t: loss(X, t), targets), **EXACT)
    assert_close(vmap(loss, (0, None))(BATCH, targets[1]), one_by_one(lambda x: loss(x, targets[1]), BATCH), **EXACT)
    want = one_by_one(loss, BATCH, targets, WEIGHTS)
    assert_close(vmap(loss)(BATCH, targets, WEIGHTS), want, **EXACT)
    assert_close(vmap(loss, (0, 0, 1))(BATCH, targets, WEIGHTS.T), want, **EXACT)
    shared = vmap(loss, (None, None, 0))(X, target_of(soft), WEIGHTS)
    assert_close(shared, one_by_one(lambda w: loss(X, target_of(soft), w), WEIGHTS), **EXACT)


@calls
def test_vmap_of_every_function(call):
    f = lambda x: call(xent, x)  # noqa: E731
    assert_close(vmap(f)(BATCH), one_by_one(f, BATCH), **EXACT)
    assert_close(
        vmap(f, 1, 1)(BATCH.movedim(0, 1)).movedim(1, 0) if f(X).ndim else vmap(f)(BATCH), one_by_one(f, BATCH)
    )
    nested = BATCH.unsqueeze(0).expand(2, -1, -1, -1) * torch.tensor([1.0, 2.0]).double().reshape(2, 1, 1, 1)
    assert_close(vmap(vmap(f))(nested), torch.stack([one_by_one(f, each) for each in nested]), **EXACT)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@kinds
def test_per_sample_gradients(soft, smoothing):
    """vmap of grad, of hessian and of jvp; unbatched rows too."""

    def loss(x, target, weight=None):
        return xent.cross_entropy(x, target, weight=weight, label_smoothing=smoothing)

    targets = MIXES if soft else LABELS.clamp_min(0)
    for f in (grad(loss), jacfwd(loss), hessian(loss)):
        assert_close(vmap(f)(BATCH, targets), one_by_one(f, BATCH, targets), **EXACT)
        rows, row_targets = BATCH.flatten(0, 1), targets.flatten(0, 1)
        assert_close(vmap(f)(rows, row_targets), one_by_one(f, rows, row_targets), **EXACT)
    f = grad(loss)
    assert_close(vmap(f)(BATCH, targets, WEIGHTS), one_by_one(f, BATCH, targets, WEIGHTS), **EXACT)
    assert_close(vmap(f, (0, 0, None))(BATCH, targets, W), one_by_one(lambda x, t: f(x, t, W), BATCH, targets), **EXACT)


@kinds
def test_gradients_into_a_vmapped_class_weight(soft):
    """grad outside of vmap, and vmap outside of grad: the weight must not lose its gradient on the way."""
    targets = MIXES if soft else LABELS.clamp_min(0)

    def loss(w, x, target):
        return xent.cross_entropy(x, target, weight=w, reduction="sum")

    want = torch.stack([_weight_gradient(*each) for each in zip(WEIGHTS, BATCH, targets, strict=True)])
    assert_close(vmap(grad(loss))(WEIGHTS, BATCH, targets), want, **EXACT)
    assert_close(grad(lambda w: vmap(loss)(w, BATCH, targets).sum())(WEIGHTS), want, **EXACT)
    leaves = leaf(WEIGHTS)
    (through,) = torch.autograd.grad(vmap(loss)(leaves, BATCH, targets).sum(), leaves)
    assert_close(through, want, **EXACT)
    slope = torch.ones_like(WEIGHTS)
    _, tangent = jvp(lambda w: vmap(loss)(w, BATCH, targets), (WEIGHTS,), (slope,))
    assert_close(tangent, want.sum(1), **EXACT)


def _weight_gradient(w, x, target):
    w = leaf(w)
    probabilities = target if target.is_floating_point() else F.one_hot(target, 3).double()
    return torch.autograd.grad(F.cross_entropy(x, probabilities, weight=w, reduction="sum"), w)[0]


def test_grad_and_jvp_through_vmap_into_the_logits():
    f = lambda x: vmap(lambda row, y: xent.cross_entropy(row, y))(x, LABELS.clamp_min(0)).sum()  # noqa: E731
    want = torch.stack(
        [grad(lambda x, y=y: F.cross_entropy(x, y))(x) for x, y in zip(BATCH, LABELS.clamp_min(0), strict=True)]
    )
    assert_close(grad(f)(BATCH), want, **EXACT)
    _, pull = vjp(f, BATCH)
    assert_close(pull(torch.tensor(2.0).double())[0], 2 * want, **EXACT)
    slope = torch.ones_like(BATCH).cumsum(-1)
    _, tangent = jvp(f, (BATCH,), (slope,))
    assert_close(tangent, (want * slope).sum(), **EXACT)


def test_a_bad_label_is_refused_under_every_transform():
    bad = LABELS.clone()
    bad[4, 1] = 3
    loss = lambda x, y: xent.cross_entropy(x, y)  # noqa: E731
    for transformed in (vmap(loss), vmap(grad(loss)), vmap(jacfwd(loss))):
        with pytest.raises(xent.TargetError, match=r"= 3: not a class \(classes are 0 ... 2\)"):
            transformed(BATCH, bad)
    for transformed in (grad(loss), jacrev(loss), jacfwd(loss), hessian(loss)):
        with pytest.raises(xent.TargetError, match=r"target\[1\] = 3"):
            transformed(BATCH[4], bad[4])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_second_derivatives_of_narrow_logits_are_those_of_wide_ones(dtype):
    x = X.to(dtype)
    results = []
    for logits in (leaf(x), leaf(x.double())):
        (first,) = torch.autograd.grad(xent.cross_entropy(logits, Y, label_smoothing=0.1), logits, create_graph=True)
        (second,) = torch.autograd.grad((first * torch.arange(12).reshape(4, 3).to(first.dtype)).sum(), logits)
        results.append(second)
    assert results[0].dtype == dtype
    eps = torch.finfo(dtype).eps
    assert_close(results[0].double(), results[1], rtol=2 * eps, atol=2 * eps)


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0), (0, 3, 2)], ids=str)
def test_jacobians_of_an_empty_batch_have_their_shape(shape):
    x, target = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[:1] + shape[2:], dtype=torch.long)
    for reduction, m in itertools.product(("none", "sum"), (F, xent)):
        f = lambda x, m=m, r=reduction: m.cross_entropy(x, target, reduction=r)  # noqa: E731
        assert jacrev(f)(x).shape == jacfwd(f)(x).shape == f(x).shape + x.shape


def test_factors_of_zero_keep_their_derivatives():
    """A probability of 0, a cotangent of 0, an upstream gradient of 0: what is left out is the term, not its slope."""
    q = torch.eye(3, dtype=torch.float64)[:2].requires_grad_()
    w = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)

    def gradients(x, q, w, upstream):
        losses = xent.cross_entropy(x, q, weight=w, label_smoothing=0.1, reduction="none")
        return torch.autograd.grad(losses, (x, q, w), upstream, create_graph=True)

    def curvature(x, q, w, upstream):
        (hessian_row,) = torch.autograd.grad(gradients(x, q, w, upstream)[0][0, 0], x, create_graph=True)
        return hessian_row

    assert torch.autograd.gradcheck(gradients, (x, q, w, upstream))
    assert torch.autograd.gradgradcheck(gradients, (x, q, w, upstream))
    assert torch.autograd.gradcheck(curvature, (x, q, w, upstream))


def test_a_class_weight_of_zero_keeps_its_slope_in_nll_loss():
    log_p = xent.log_softmax(torch.randn(3, 4, dtype=torch.float64), 1).requires_grad_()
    weight = torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2])
    for reduction in ("none", "sum", "mean"):
        assert torch.autograd.gradcheck(
            lambda x, w, how=reduction: xent.nll_loss(x, target, weight=w, reduction=how), (log_p, weight)
        )
