"""softcap, logit_scale and z_loss: the loss of other logits, and a pull on their size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import xent
from tests import cases, oracle
from xent.ops import direct


def of_logits(hidden, head, target, **options):
    return xent.cross_entropy(hidden @ head.T, target, **options)


def of_head(hidden, head, target, **options):
    return xent.linear_cross_entropy(hidden, head, target, memory_budget=1, **options)


def of_logits_with_stats(hidden, head, target, **options):
    return xent.cross_entropy_with_stats(hidden @ head.T, target, **options).loss


def of_head_with_stats(hidden, head, target, **options):
    return xent.linear_cross_entropy_with_stats(hidden, head, target, memory_budget=1, **options).loss


@pytest.fixture(params=[of_logits, of_head, of_logits_with_stats, of_head_with_stats])
def loss(request):
    return request.param


def defined(hidden, head, target, softcap=None, logit_scale=1.0, z_loss=0.0, reduction="mean", weight=None, **options):
    """The definition, in plain torch."""
    x = hidden @ head.T * logit_scale
    x = x if softcap is None else softcap * torch.tanh(x / softcap)
    rows = F.cross_entropy(x, target, weight, reduction="none", **options)
    kept = target != -100 if target.ndim == 1 else torch.ones(len(x), dtype=torch.bool)
    rows = rows + (z_loss * x.logsumexp(1) ** 2).where(kept, 0.0)
    by = kept.sum() if weight is None or target.ndim > 1 else weight[target[kept]].sum()
    return {"none": rows, "sum": rows.sum(), "mean": rows.sum() / by}[reduction]


def some(n=9, d=4, v=7, dtype=torch.float64):
    hidden, head, target = torch.randn(n, d, dtype=dtype), torch.randn(v, d, dtype=dtype), torch.randint(v, (n,))
    target[1::4] = -100
    return hidden.requires_grad_(), head.requires_grad_(), target


SHAPES = [{"softcap": 1.5}, {"logit_scale": 0.3}, {"z_loss": 0.1}, {"softcap": 2, "logit_scale": 3, "z_loss": 1}]


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("more", ["", "smoothed", "weighted", "both"])
def test_by_their_definition(loss, options, reduction, more):
    hidden, head, target = some()
    options = {**options, "reduction": reduction}
    if more in ("smoothed", "both"):
        options["label_smoothing"] = 0.2
    if more in ("weighted", "both"):
        options["weight"] = torch.rand(7, dtype=torch.float64)
    got, want = loss(hidden, head, target, **options), defined(hidden, head, target, **options)
    assert_close(got, want)
    upstream = torch.rand_like(want)
    assert_close(*(torch.autograd.grad(t, (hidden, head), upstream) for t in (got, want)))


@pytest.mark.parametrize("of", [of_logits, of_head])
@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_of_probabilities(of, options):
    hidden, head, _ = some()
    target = torch.randn(9, 7, dtype=torch.float64).softmax(1)
    options = {**options, "label_smoothing": 0.1, "weight": torch.rand(7, dtype=torch.float64)}
    got, want = of(hidden, head, target, **options), defined(hidden, head, target, **options)
    assert_close(got, want)
    assert_close(*(torch.autograd.grad(t, (hidden, head)) for t in (got, want)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_of_more_classes_than_a_block(dtype, weighted):
    hidden, head, target = some(40, 8, 20_001, dtype)
    options = {"softcap": 5.0, "logit_scale": 2.0, "z_loss": 0.01, "label_smoothing": 0.1, "dtype": torch.float64}
    options["weight"] = torch.rand(20_001, dtype=torch.float64) if weighted else None
    want = of_logits(hidden, head, target, **options)
    grads = torch.autograd.grad(want, (hidden, head))
    for budget in (1, None):
        got = xent.linear_cross_entropy(hidden, head, target, memory_budget=budget, **options)
        assert_close(got, want)
        for a, b in zip(torch.autograd.grad(got, (hidden, head)), grads, strict=True):
            assert (a - b).abs().max() <= b.abs().max() * (1e-12 if dtype is torch.float64 else 2e-2)


@pytest.mark.parametrize("family", [name for name in cases.FAMILIES if name not in ("masked", "huge_offset")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_within_ulps_of_the_truth(family, dtype, backend):
    logits, labels = cases.FAMILIES[family](6, 1025, torch.Generator().manual_seed(0))
    logits = logits.to(dtype)
    for cap, scale in ((None, 0.7), (30.0, 1.3)):
        x = oracle.long(logits) * oracle.LONG(scale)
        x = x if cap is None else cap * np.tanh(x / cap)
        truth = oracle.Truth(x, oracle.attraction(labels, 1025))
        got = xent.cross_entropy(logits, labels, softcap=cap, logit_scale=scale, reduction="none")
        assert oracle.error(got, truth.loss) <= (2 if dtype is torch.float32 else 0.51)


def test_sixteen_bits_are_widened_before_and_not_rounded_after():
    logits = (torch.randn(20, 100) * 20).bfloat16()
    target = torch.randint(100, (20,))
    want = F.cross_entropy(30 * torch.tanh(logits.double() * 1.1 / 30), target)
    options = {"softcap": 30.0, "logit_scale": 1.1, "dtype": torch.float32}
    assert_close(xent.cross_entropy(logits, target, **options).double(), want, rtol=1e-6, atol=0)
    got = xent.linear_cross_entropy(torch.eye(20).bfloat16(), logits.T, target, **options)
    assert_close(got.double(), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("of", [of_logits, of_head, of_logits_with_stats, of_head_with_stats])
def test_a_scale_with_a_gradient_and_every_derivative(of):
    hidden, head, target = some(4, 3, 5)
    scale = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)

    def f(hidden, head, scale):
        return of(hidden, head, target, softcap=2.0, logit_scale=scale, z_loss=0.1)

    assert torch.autograd.gradcheck(f, (hidden, head, scale), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (hidden, head, scale))
    fixed = lambda hidden, head: f(hidden, head, scale.item())  # noqa: E731
    assert torch.autograd.gradgradcheck(fixed, (hidden, head))
    assert_close(torch.func.grad(f, 2)(hidden, head, scale), torch.autograd.grad(f(hidden, head, scale), scale)[0])


def test_by_products_are_those_of_the_shaped_logits():
    hidden, head, target = some()
    options = {"softcap": 1.5, "logit_scale": 0.8}
    shaped = 1.5 * torch.tanh(hidden @ head.T * 0.8 / 1.5)
    want = xent.cross_entropy_with_stats(shaped, target)
    assert_close(tuple(xent.linear_cross_entropy_with_stats(hidden, head, target, **options)), tuple(want))
    assert_close(tuple(xent.cross_entropy_with_stats(hidden @ head.T, target, **options)), tuple(want))


def test_compiled():
    hidden, head, target = some(dtype=torch.float32)
    for of in (of_logits, of_head):
        call = lambda h, of=of: of(h, head, target, softcap=2.0, z_loss=0.1)  # noqa: E731
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        assert_close(*(torch.autograd.grad(f(hidden), hidden) for f in (compiled, call)))


def test_plain_calls_keep_the_short_way(monkeypatch):
    taken = []
    monkeypatch.setattr(direct, "serves", lambda *_: taken.append(True) or False)
    logits, target = torch.randn(2, 3), torch.tensor([0, 1])
    xent.cross_entropy(logits, target, softcap=None, logit_scale=1.0, z_loss=0.0)
    assert taken
    taken.clear()
    for options in SHAPES:
        xent.cross_entropy(logits, target, **options)
    assert not taken


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"softcap": 0.0}, xent.OptionError, "softcap is 0.0; expected a finite number above 0"),
        ({"softcap": torch.inf}, xent.OptionError, "softcap is inf"),
        ({"softcap": "30"}, xent.ArgumentError, "softcap must be a number, got str"),
        ({"logit_scale": -1}, xent.OptionError, "logit_scale is -1"),
        ({"logit_scale": torch.ones(2)}, xent.ShapeError, "expected one real number"),
        ({"logit_scale": True}, xent.ArgumentError, "got bool"),
        ({"z_loss": -1e-4}, xent.OptionError, "expected a finite number of at least 0"),
        ({"z_loss": None}, xent.ArgumentError, "z_loss must be a number, got NoneType"),
    ],
)
def test_refusals(loss, options, error, words):
    with pytest.raises(error, match=words):
        loss(*some(), **options)


@pytest.mark.parametrize("scale", [0.5, torch.tensor(0.7), torch.tensor(0.7, requires_grad=True)], ids=str)
def test_a_compiled_head_is_shaped(scale):
    hidden, head = torch.randn(20, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    target = torch.randint(30, (20,))

    def loss(hidden, head):
        return xent.linear_cross_entropy(hidden, head, target, logit_scale=scale, softcap=3.0)

    torch._dynamo.reset()
    found = [f(hidden, head) for f in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager"))]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(one, (hidden, head)) for one in found))
