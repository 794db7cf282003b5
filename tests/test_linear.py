"""linear_cross_entropy: the loss of logits that are never all there, at any budget, and every derivative of it."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import xent
from tests import cases, oracle
from xent import _plan
from xent.ops import tiles as tiles_module

TIGHT, TILED, ROOMY = 1, 40 << 20, None
"""One block at a time; a few; all logits at once."""


def head_of(logits):
    """Hidden states and a head whose product is exactly `logits`: every row of the states picks a column."""
    return torch.eye(len(logits), dtype=logits.dtype), logits.T.contiguous()


def random_head(n, d, v, dtype=torch.float64, bias=True, ignored=True):
    hidden, weight = torch.randn(n, d).to(dtype), torch.randn(v, d).to(dtype)
    target = torch.randint(v, (n,))
    if ignored:
        target[1::4] = -100
    return hidden, weight, target, torch.randn(v).to(dtype) if bias else None


def ours(hidden, weight, target, **options):
    return xent.linear_cross_entropy(hidden, weight, target, **options)


def written_out(hidden, weight, target, *, linear_bias=None, memory_budget=None, **options):
    """The definition."""
    return xent.cross_entropy(F.linear(hidden, weight, linear_bias), target, **options)


def with_gradients(loss, tensors, upstream=None, **options):
    tensors = {k: t.detach().clone().requires_grad_() for k, t in tensors.items() if t is not None}
    value = loss(**tensors, **options)
    return value.detach(), torch.autograd.grad(value, list(tensors.values()), upstream)


# -- exact -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [name for name in cases.FAMILIES if name != "masked"])  # 0 * -inf is no logit
@pytest.mark.parametrize("classes", [1, 2, 127, 1025, 20_001])
def test_within_two_ulp_of_the_truth_at_every_budget(family, classes, backend):
    logits, labels = cases.FAMILIES[family](6, classes, torch.Generator().manual_seed(classes))
    logits = logits.float()
    truth = oracle.Truth(oracle.long(logits), oracle.attraction(labels, classes))
    hidden, weight = head_of(logits)
    for budget in (TIGHT, ROOMY):
        hidden.requires_grad_()
        loss = xent.linear_cross_entropy(hidden, weight, labels, reduction="none", memory_budget=budget)
        assert oracle.error(loss, truth.loss) <= 2


@pytest.mark.parametrize("classes", [50_257, 128_259])
def test_vocabularies_that_nothing_divides(classes):
    logits, labels = cases.FAMILIES["confident_and_right"](4, classes, torch.Generator().manual_seed(0))
    logits = logits.float()
    truth = oracle.Truth(oracle.long(logits), oracle.attraction(labels, classes))
    for budget in (TIGHT, ROOMY):
        hidden, weight = head_of(logits)
        loss = xent.linear_cross_entropy(hidden, weight.requires_grad_(), labels, reduction="sum", memory_budget=budget)
        loss.backward()
        assert oracle.error(loss[None], truth.loss.sum(keepdims=True)) <= 1
        assert oracle.error(weight.grad.T, truth.grad) <= 3  # hidden picks: the gradient of the logits themselves


@pytest.mark.parametrize("budget", [TIGHT, ROOMY])
def test_a_bias_of_minus_infinity_masks_classes(budget):
    hidden, weight, target, bias = random_head(9, 4, 20_000, torch.float32)
    bias[5000:14_000] = -torch.inf
    target = target.where((target < 5000) | (target >= 14_000), 3)
    options = {"target": target, "memory_budget": budget}
    tensors = {"hidden": hidden, "weight": weight, "linear_bias": bias}
    loss, grads = with_gradients(ours, tensors, **options)
    want, want_grads = with_gradients(written_out, tensors, **options)
    assert_close(loss, want, rtol=1e-6, atol=0)
    assert_close(grads, want_grads, rtol=1e-4, atol=1e-6)
    assert not grads[1][5000:14_000].any()
    masked = xent.linear_cross_entropy(
        hidden, weight, target.clone().fill_(6000), linear_bias=bias, memory_budget=budget
    )
    assert masked == torch.inf


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_the_loss_has_the_same_bits_for_every_budget(dtype, bias):
    rows = _plan.block_rows(dtype) + 77
    hidden, weight, target, bias = random_head(rows, 24, 20_001, dtype, bias)
    hidden.requires_grad_()
    want = None
    for budget in (ROOMY, TIGHT, 20 << 20, 50 << 20, 70 << 20):
        options = {"linear_bias": bias, "memory_budget": budget}
        got = [xent.linear_cross_entropy(hidden, weight, target, reduction=r, **options) for r in ("none", "mean")]
        with torch.no_grad():
            got.append(xent.linear_cross_entropy(hidden, weight, target, **options))
        want = got if want is None else want
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), budget
        assert torch.equal(got[1], got[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_at_another_budget_differ_by_a_rounding(dtype):
    """bfloat16: every tile's product is rounded before float32 sums it, 2**-9 of itself, and the sum once more."""
    rows = _plan.block_rows(dtype) + 77
    hidden, weight, target, _ = random_head(rows, 24, 20_001, dtype, False)
    tensors = {"hidden": hidden, "weight": weight}
    call = lambda hidden, weight, **o: xent.linear_cross_entropy(hidden, weight, target, reduction="sum", **o)  # noqa: E731
    _, want = with_gradients(call, tensors)
    bound = 2.0**-20 if dtype is torch.float32 else 2.0**-7
    for budget in (TIGHT, 50 << 20, 70 << 20):
        _, got = with_gradients(call, tensors, memory_budget=budget)
        for a, b in zip(got, want, strict=True):
            assert (a.double() - b.double()).norm() <= bound * b.double().norm()


# -- every option ----------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "smoothing": {"label_smoothing": 0.1},
    "weights": {"weight": True},
    "everything": {"label_smoothing": 0.3, "weight": True, "reduction": "none"},
    "probabilities": {"soft": True, "weight": True, "label_smoothing": 0.2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("budget", [TIGHT, ROOMY])
@pytest.mark.parametrize(("n", "d", "v"), [(7, 5, 3), (600, 8, 9001)])
def test_value_and_gradients_are_those_of_the_definition(options, budget, n, d, v):
    options = dict(options)
    hidden, weight, target, bias = random_head(n, d, v)
    if options.pop("soft", False):
        target = torch.randn(n, v, dtype=torch.float64).softmax(1)
    if options.pop("weight", False):
        options["weight"] = torch.rand(v, dtype=torch.float64).masked_fill(torch.rand(v) < 0.2, 0.0)
    upstream = torch.randn(n, dtype=torch.float64) if options.get("reduction") == "none" else None
    results = []
    for loss in (
        lambda h, w, b: xent.linear_cross_entropy(h, w, target, linear_bias=b, memory_budget=budget, **options),
        lambda h, w, b: F.cross_entropy(F.linear(h, w, b), target, **options),
    ):
        leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias)]
        value = loss(*leaves)
        results.append((value.detach(), *torch.autograd.grad(value, leaves, upstream)))
    assert_close(*results, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("label", [torch.int8, torch.uint8, torch.int32, torch.uint16, torch.uint64], ids=str)
def test_any_integer_labels(label):
    hidden, weight, target, _ = random_head(5, 3, 4, ignored=False)
    got = xent.linear_cross_entropy(hidden, weight, target.to(label))
    assert_close(got, written_out(hidden, weight, target))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("places", [(), (2,), (2, 3)])
@pytest.mark.parametrize("soft", [False, True])
def test_leading_dimensions_and_dimensional_heads(lead, places, soft):
    hidden = torch.randn(*lead, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, *places, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, *places, dtype=torch.float64, requires_grad=True)
    logits = torch.tensordot(hidden, weight, ([-1], [-1])) + bias
    at = len(lead)
    target = torch.randn_like(logits).softmax(at) if soft else torch.randint(5, (*lead, *places))
    flat = logits.movedim(at, -1).reshape(-1, 5)
    rows = target.movedim(at, -1).reshape(-1, 5) if soft else target.reshape(-1)
    want = F.cross_entropy(flat, rows, reduction="none")
    got = xent.linear_cross_entropy(hidden, weight, target, linear_bias=bias, reduction="none")
    assert got.shape == (*lead, *places)
    assert_close(got, want.reshape(got.shape))
    mean = xent.linear_cross_entropy(hidden, weight, target, linear_bias=bias)
    assert_close(mean, want.mean())
    leaves = hidden, weight, bias
    assert_close(torch.autograd.grad(mean, leaves), torch.autograd.grad(want.mean(), leaves))


def test_the_order_and_the_memory_of_the_arguments_do_not_matter():
    hidden, weight, target, bias = random_head(600, 6, 9000)
    want = xent.linear_cross_entropy(hidden, weight, target, linear_bias=bias)
    columns = weight.T.contiguous().T
    spread = torch.stack([hidden, hidden], 2)[..., 0]
    assert_close(xent.linear_cross_entropy(spread, columns, target, linear_bias=bias), want, rtol=1e-12, atol=0)


# -- derivatives -----------------------------------------------------------------------------------


def small(reduction="mean", soft=False):
    hidden, weight, target, bias = random_head(5, 3, 4)
    leaves = tuple(t.requires_grad_() for t in (hidden, weight, bias))
    if soft:
        leaves = (*leaves, torch.randn(5, 4, dtype=torch.float64).softmax(1).requires_grad_())
    class_weight = torch.rand(4, dtype=torch.float64, requires_grad=True)

    def loss(hidden, weight, bias, class_weight, q=target):
        options = {"linear_bias": bias, "weight": class_weight, "label_smoothing": 0.1, "reduction": reduction}
        return xent.linear_cross_entropy(hidden, weight, q, **options)

    return loss, (*leaves[:3], class_weight, *leaves[3:])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_derivatives_of_first_and_second_order_and_forwards(reduction, soft):
    loss, leaves = small(reduction, soft)
    assert torch.autograd.gradcheck(loss, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, leaves)
    fixed = leaves[3].detach()
    assert torch.autograd.gradcheck(lambda *three: loss(*three, fixed), leaves[:3])
    assert torch.autograd.gradgradcheck(lambda *three: loss(*three, fixed), leaves[:3])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_backward_gives_the_same(reduction):
    hidden, weight, target, _ = random_head(6, 3, 4)
    hidden.requires_grad_(), weight.requires_grad_()
    loss = xent.linear_cross_entropy(hidden, weight, target, reduction=reduction)
    upstream = torch.tensor(3.0, dtype=torch.float64) if reduction == "mean" else torch.randn(6, dtype=torch.float64)
    first, second, doubled = (
        torch.autograd.grad(loss, (hidden, weight), by, retain_graph=True) for by in (upstream, upstream, 2 * upstream)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert_close(doubled, tuple(2 * g for g in first), rtol=1e-13, atol=1e-16)


def test_upstream_factors_that_are_not_those_of_a_mean():
    hidden, weight, target, _ = random_head(6, 3, 4)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    loss = xent.linear_cross_entropy(*leaves, target)
    want = torch.autograd.grad(written_out(*leaves, target).square().exp(), leaves)
    assert_close(torch.autograd.grad(loss.square().exp(), leaves), want)
    nothing = torch.autograd.grad(xent.linear_cross_entropy(*leaves, target) * 0.0, leaves)
    assert not any(g.any() for g in nothing)


def test_under_func_grad_and_vmap():
    hidden, weight, target, _ = random_head(6, 3, 4)

    def loss(hidden, weight, target):
        return xent.linear_cross_entropy(hidden, weight, target, label_smoothing=0.1)

    def definition(hidden, weight, target):
        return F.cross_entropy(hidden @ weight.T, target, label_smoothing=0.1)

    one = target.clamp_min(0)[:, None]
    for transform in (
        lambda f: torch.func.grad(f, (0, 1))(hidden, weight, target),
        lambda f: torch.func.vmap(torch.func.grad(f, 1), (0, None, 0))(hidden[:, None], weight, one),
        lambda f: torch.func.hessian(f)(hidden, weight, target),
        lambda f: torch.func.jvp(lambda h, w: f(h, w, target), (hidden, weight), (hidden.cos(), weight.sin())),
    ):
        assert_close(transform(loss), transform(definition))


def test_compiled_in_one_graph():
    torch.compiler.reset()
    hidden, weight, target, bias = random_head(6, 3, 4)
    leaves = hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()

    def loss(hidden, weight, bias):
        return xent.linear_cross_entropy(hidden * 2, weight, target, linear_bias=bias, label_smoothing=0.1) + 1

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*leaves), loss(*leaves))
    assert_close(torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(loss(*leaves), leaves))
    with torch.no_grad():
        assert_close(compiled(*leaves), loss(*leaves))


def test_tensors_without_numbers():
    with FakeTensorMode():
        fake = torch.randn(6, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
        xent.linear_cross_entropy(*fake, torch.zeros(6, dtype=torch.int64)).backward()
        assert [t.grad.shape for t in fake] == [(6, 3), (4, 3)]
    meta = torch.randn(6, 3, device="meta"), torch.randn(4, 3, device="meta")
    target = torch.zeros(6, dtype=torch.int64, device="meta")
    assert xent.linear_cross_entropy(*meta, target, reduction="none").shape == (6,)


def test_in_inference_mode():
    hidden, weight, target, _ = random_head(6, 3, 4)
    with torch.inference_mode():
        assert_close(xent.linear_cross_entropy(hidden * 1, weight * 1, target), written_out(hidden, weight, target))


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_checkpoint(reentrant):
    hidden, weight, target, _ = random_head(6, 3, 4)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    loss = checkpoint(lambda h, w: xent.linear_cross_entropy(h.tanh(), w, target), *leaves, use_reentrant=reentrant)
    loss.backward()
    want = torch.autograd.grad(written_out(hidden.tanh(), weight, target), leaves)
    assert_close(tuple(t.grad for t in leaves), want)


def test_only_what_requires_a_gradient_is_made():
    hidden, weight, target, bias = random_head(6, 3, 4)
    for at in range(3):
        leaves = [t.clone().requires_grad_(k == at) for k, t in enumerate((hidden, weight, bias))]
        loss = xent.linear_cross_entropy(*leaves[:2], target, linear_bias=leaves[2])
        made = [g.numel() > 0 for g in _head_of(loss).gradients]
        assert made == [k == at for k in range(3)]
        loss.backward()
        assert [t.grad is not None for t in leaves] == made


def _head_of(loss):
    """The node that keeps what the forward pass made."""
    nodes = [loss.grad_fn]
    for node in nodes:
        if hasattr(node, "gradients"):
            return node
        nodes += [n for n, _ in node.next_functions if n is not None]
    raise AssertionError("no head in the graph")


def test_inputs_are_left_alone():
    tensors = [t.requires_grad_(t.is_floating_point()) for t in random_head(600, 6, 9000, torch.float32)]
    before, versions = copy.deepcopy([t.detach() for t in tensors]), [t._version for t in tensors]
    hidden, weight, target, bias = tensors
    for budget in (TIGHT, ROOMY):
        xent.linear_cross_entropy(hidden, weight, target, linear_bias=bias, memory_budget=budget).backward()
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))
    assert [t._version for t in tensors] == versions


# -- nothing to do ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_rows_ignored(reduction):
    hidden, weight, target, bias = random_head(6, 3, 4)
    leaves = hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
    loss = xent.linear_cross_entropy(*leaves[:2], target.fill_(-100), linear_bias=bias, reduction=reduction)
    want = F.cross_entropy(F.linear(*leaves), target, reduction=reduction)
    assert_close(loss, want, equal_nan=True)
    grads = torch.autograd.grad(loss.sum(), leaves)
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize(("n", "d"), [(0, 3), (4, 0)])
def test_no_rows_or_no_width(n, d):
    hidden, weight = torch.randn(n, d, requires_grad=True), torch.randn(5, d, requires_grad=True)
    target = torch.zeros(n, dtype=torch.int64)
    loss = xent.linear_cross_entropy(hidden, weight, target, reduction="sum")
    assert_close(loss, F.cross_entropy(hidden @ weight.T, target, reduction="sum"))
    loss.backward()
    assert hidden.grad.shape == hidden.shape
    assert not weight.grad.any()


def test_ignored_rows_cost_no_product(monkeypatch):
    seen, mm = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, **k: (seen.append(a.shape[0]), mm(a, b, **k))[1])
    hidden, weight, target, _ = random_head(40, 6, 100)
    xent.linear_cross_entropy(hidden, weight, target)
    assert seen == [30]


# -- dtypes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("budget", [TIGHT, ROOMY])
def test_sixteen_bits_are_those_of_linear_and_gradients_keep_their_range(dtype, budget, assert_within_ulps):
    hidden, weight, target, _ = random_head(300, 16, 9000, dtype, False)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    loss = xent.linear_cross_entropy(*leaves, target, memory_budget=budget)
    assert loss.dtype is dtype
    logits = F.linear(*leaves).detach()
    kept = target != -100
    assert_within_ulps(loss, F.cross_entropy(logits.double()[kept], target[kept]), 0.51)
    scale = 2.0**12
    grads = torch.autograd.grad(loss * scale, leaves)
    slope = (logits.double().softmax(1) - F.one_hot(target.clamp_min(0), 9000)) * kept.unsqueeze(1) / kept.sum() * scale
    for got, want in zip(grads, (slope @ weight.double(), slope.T @ hidden.double()), strict=True):
        assert (got.double() - want).norm() <= 2.0**-7 * want.norm()


FACTORS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.2},
    "weights": {"weight": True},
    "softcap": {"softcap": 20.0, "logit_scale": 3.0},
    "z_loss": {"z_loss": 1e-2},
}


@pytest.mark.parametrize("options", FACTORS.values(), ids=FACTORS)
@pytest.mark.parametrize("upstream", [2.0**-8, 2.0**10])
@pytest.mark.parametrize("budget", [TIGHT, ROOMY])
def test_float16_has_the_range_that_slopes_need(options, upstream, budget):
    """A mean of many rows leaves less of a probability than float16 holds, and what products add up is more."""
    torch.manual_seed(0)
    options = dict(options)
    hidden, weight = torch.randn(1500, 16).mul(4).half(), torch.randn(9000, 16).div(8).half()
    weight[:, 0] = weight[:, 1] = 0.5  # a gradient of 1,500 numbers of one sign
    hidden[:, 0] = -30.0
    hidden[:, 1] = 30.0
    target = torch.randint(0, 9000, (1500,))
    if options.pop("weight", False):
        options["weight"] = torch.rand(9000) + 0.5
    tensors = {"hidden": hidden, "weight": weight}
    call = lambda hidden, weight, **o: xent.linear_cross_entropy(hidden, weight, target, **o, **options) * upstream  # noqa: E731
    _, want = with_gradients(call, {name: tensor.double() for name, tensor in tensors.items()})
    _, got = with_gradients(call, tensors, memory_budget=budget)
    for a, b in zip(got, want, strict=True):
        representable = b.abs().clamp_max(65504.0).half().double()
        floor = (representable - b.abs()).norm()  # what the result's own dtype drops
        assert (a.double() - b).norm() <= 2.0**-7 * b.norm() + 2 * floor


def test_autocast_is_that_of_linear():
    hidden, weight, target, _ = random_head(20, 8, 30, torch.float32, False)
    leaves = hidden.bfloat16().requires_grad_(), weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = xent.linear_cross_entropy(*leaves, target)
        want = xent.cross_entropy(F.linear(*leaves), target)
    assert loss.dtype is torch.float32
    assert_close(loss, want, rtol=1e-6, atol=0)
    grads = torch.autograd.grad(loss, leaves)
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.float32]


# -- the plan ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [None, 20 << 20, 100 << 20])
@pytest.mark.parametrize(
    ("reduction", "dtype", "options"),
    [
        ("mean", torch.float32, {}),
        ("none", torch.float32, {}),
        ("sum", torch.bfloat16, {}),
        ("mean", torch.float32, {"softcap": 5.0}),
        ("mean", torch.bfloat16, {"logit_scale": 0.5}),
        ("mean", torch.float32, {"z_loss": 0.1}),
        ("mean", torch.float32, {"stats": True}),
    ],
    ids=str,
)
def test_the_plan_is_what_happens(budget, reduction, dtype, options, monkeypatch):
    hidden, weight, target, _ = random_head(_plan.block_rows(dtype) + 77, 8, 20_001, dtype, False, False)
    hidden.requires_grad_(), weight.requires_grad_()
    asked = {"reduction": reduction, "memory_budget": budget}
    plan = xent.plan(hidden, weight, **asked, **options)
    counted, makes = [], tiles_module.products

    def count(*args):
        counted.append(makes(*args).shape)
        return args[3][: counted[-1][0], : counted[-1][1]]

    monkeypatch.setattr(tiles_module, "products", count)
    if options.pop("stats", False):
        loss = xent.linear_cross_entropy_with_stats(hidden, weight, target, **asked).loss
    else:
        loss = xent.linear_cross_entropy(hidden, weight, target, **asked, **options)
    loss.sum().backward()
    assert sum(math.prod(shape) for shape in counted) == (plan.products - 2) * hidden.shape[0] * 20_001
    assert (plan.rows, plan.classes) in [tuple(shape) for shape in counted]
    assert plan.logits == hidden.shape[0] * 20_001 * dtype.itemsize
    with torch.no_grad():
        assert xent.plan(hidden, weight).products == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [100, 3000, 20_000])
@pytest.mark.parametrize("classes", [100, 9000, 128_259])
def test_a_budget_is_kept_down_to_the_least_tile(dtype, rows, classes):
    least = None
    for budget in (1, 64 << 20, 256 << 20, 1 << 30, 8 << 30):
        size = _plan.tiles(rows, classes, 64, dtype, budget, False, True).bytes
        least = size if least is None else least
        assert size <= max(budget, least)


# -- refusals --------------------------------------------------------------------------------------

H, W, T = torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((H, W, torch.zeros(5, dtype=torch.int64)), {}, xent.ShapeError, "1 rows too many: for the next token"),
        ((H, W, T[:3]), {}, xent.ShapeError, r"Labels need \(4,\); class probabilities need \(4, 5\)"),
        ((H, W, T), {"weight": torch.ones(4)}, xent.ShapeError, r"weight has shape \(4,\); expected \(5,\)"),
        ((H, torch.zeros(5, 4), T), {}, xent.ShapeError, "3 wide and linear_weight of shape .5, 4. 4"),
        ((H, torch.zeros(3, 5), T), {}, xent.ShapeError, "linear_weight.T"),
        ((H, W, T), {"linear_bias": torch.zeros(4)}, xent.ShapeError, r"linear_bias has shape \(4,\); expected \(5,\)"),
        ((H, W, T), {"memory_budget": 1.5}, xent.ArgumentError, "memory_budget must be an int, got float"),
        ((H, W, T), {"memory_budget": True}, xent.ArgumentError, "memory_budget must be an int, got bool"),
        ((H, W, T), {"memory_budget": 0}, xent.OptionError, "at least 1"),
        ((H, W.double(), T), {}, xent.DtypeError, "linear_weight torch.float64; expected one dtype"),
        ((H.long(), W, T), {}, xent.DtypeError, "input has dtype torch.int64"),
        ((H, W, T.float()), {}, xent.DtypeError, "labels must be integers"),
        ((H, W, T + 5), {}, xent.TargetError, "counted from 1"),
        ((H, W, torch.zeros(4, 5)), {"ignore_index": 1}, xent.OptionError, "no meaning for class probabilities"),
        ((H, W, T), {"reduction": "avg"}, xent.OptionError, "'avg'"),
        ((H, W, T), {"label_smoothing": 2.0}, xent.OptionError, "between 0.0 and 1.0"),
        ((H, [1], T), {}, xent.ArgumentError, "linear_weight must be a torch.Tensor, got list"),
        ((H, W[0], T), {}, xent.ShapeError, "expected"),
        ((H, W, T.to("meta")), {}, xent.DeviceError, "target on meta"),
    ],
)
def test_refusals_name_what_and_the_cure(arguments, options, error, words):
    with pytest.raises(error, match=words):
        xent.linear_cross_entropy(*arguments, **options)


# -- the module ------------------------------------------------------------------------------------


def test_the_module_is_the_function_with_torchs_parameters():
    module = xent.LinearCrossEntropyLoss(3, 5, out_features=(2,), bias=True, weight=torch.rand(5), label_smoothing=0.1)
    hidden, target = torch.randn(4, 3), torch.randint(5, (4, 2))
    twin = getattr(torch.nn, "LinearCrossEntropyLoss", None)
    assert list(module.state_dict()) == ["weight", "linear.weight", "linear.bias"]
    if twin is not None:
        theirs = twin(3, 5, out_features=(2,), bias=True, weight=torch.rand(5), label_smoothing=0.1)
        theirs.load_state_dict(module.state_dict())
        assert_close(module(hidden, target), theirs(hidden, target))
    weight, bias = module.linear.weight.reshape(5, 2, 3), module.linear.bias.reshape(5, 2)
    options = {"linear_bias": bias, "weight": module.weight, "label_smoothing": 0.1}
    want = xent.linear_cross_entropy(hidden, weight, target, **options)
    assert torch.equal(module(hidden, target), want)
    module(hidden, target).backward()
    assert module.linear.weight.grad.any()
    assert repr(xent.LinearCrossEntropyLoss(3, 5, memory_budget=7)).splitlines()[1].strip() == (
        "in_features=3, num_classes=5, ignore_index=-100, reduction='mean', label_smoothing=0.0, memory_budget=7"
    )


def test_the_module_refuses_at_construction():
    for options, error in (
        ({"weight": torch.ones(4)}, xent.ShapeError),
        ({"reduction": "avg"}, xent.OptionError),
        ({"memory_budget": "1 GB"}, xent.ArgumentError),
        ({"label_smoothing": -1.0}, xent.OptionError),
        ({"ignore_index": None}, xent.ArgumentError),
    ):
        with pytest.raises(error):
            xent.LinearCrossEntropyLoss(3, 5, **options)
