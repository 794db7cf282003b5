"""By-products of the losses: what the rows tell beyond, of logits and of heads without logits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

import xent
from tests import cases, oracle

ROWS = ("nll", "log_prob", "lse", "entropy", "correct", "argmax", "rank")
SLOPES = ("loss", "nll", "log_prob", "lse", "entropy")


def of_logits(logits, target, **options):
    return xent.cross_entropy_with_stats(logits, target, **options)


def of_head(logits, target, **options):
    """A head whose product is exactly `logits`."""
    return xent.linear_cross_entropy_with_stats(torch.eye(len(logits)).to(logits), logits.T, target, **options)


def of_tight_head(logits, target, **options):
    return of_head(logits, target, memory_budget=1, **options)


@pytest.fixture(params=[of_logits, of_head, of_tight_head])
def stats(request):
    return request.param


def plainly(logits, target, ignored=-100, **options):
    """The definition, in float64."""
    log_p, at = logits.double().log_softmax(1), target.long().where(target != ignored, 0)
    own = logits.gather(1, at[:, None])
    log_prob = log_p.gather(1, at[:, None])[:, 0]
    found = {
        "loss": F.cross_entropy(logits.double(), target.long(), ignore_index=ignored, **options),
        "nll": -log_prob,
        "log_prob": log_prob,
        "lse": logits.double().logsumexp(1),
        "entropy": -torch.xlogy(log_p.exp(), log_p.exp()).sum(1),
        "correct": logits.argmax(1) == at,
        "argmax": logits.argmax(1),
        "rank": (logits > own).sum(1),
    }
    fill = {"correct": False, "argmax": -1, "rank": -1}
    rows = {name: found[name].where(target != ignored, fill.get(name, 0.0)) for name in ROWS}
    return {"loss": found["loss"], **rows}


def entropy_of(truth):
    """Entropy and the mean of ``x - peak``, long double; a masked class has no term."""
    with np.errstate(invalid="ignore"):
        terms = np.where(truth.p > 0, truth.p * truth.d, 0)
    mean = terms.sum(1, keepdims=True)
    return truth.log_mass - mean, mean


@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("classes", [2, 127, 20_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_within_ulps_of_the_truth(family, classes, dtype, backend):
    logits, labels = cases.FAMILIES[family](6, classes, torch.Generator().manual_seed(classes))
    logits = logits.to(dtype).requires_grad_()
    truth = oracle.Truth(oracle.long(logits), oracle.attraction(labels, classes))
    got = xent.cross_entropy_with_stats(logits, labels)
    entropy, mean = entropy_of(truth)
    allowed = {torch.float64: 4, torch.float32: 2, torch.bfloat16: 0.51}[dtype]
    assert oracle.error(got.nll, truth.loss) <= allowed
    assert oracle.error(got.log_prob, -truth.loss) <= allowed
    assert oracle.error(got.entropy, entropy[:, 0]) <= allowed
    peak, log_mass = oracle.long(logits).max(1), truth.log_mass[:, 0]
    # of the larger term: the rounding of a float64 log1p and of one addition
    assert oracle.error(got.lse, peak + log_mass, np.maximum(abs(peak), log_mass)) <= (
        2 if dtype is torch.float64 else 1
    )
    (slope,) = torch.autograd.grad(got.entropy.sum(), logits)
    with np.errstate(invalid="ignore"):
        centred = np.where(truth.p > 0, truth.d - mean, 0)
    size = truth.p * np.maximum(abs(np.where(truth.p > 0, truth.d, 0)), abs(mean))
    assert oracle.error(slope, -truth.p * centred, size) <= (8 if dtype is torch.float64 else 3)


def test_a_confident_row_keeps_its_entropy_and_its_gradient():
    logits = torch.tensor([[40.0, 0.0]], requires_grad=True)
    got = xent.cross_entropy_with_stats(logits, torch.tensor([0]))
    tail = float(np.exp(-40.0))
    assert_close(got.entropy, torch.tensor([41 * tail]))
    (slope,) = torch.autograd.grad(got.entropy.sum(), logits)
    assert_close(slope, torch.tensor([[-40 * tail, 40 * tail]]))


@pytest.mark.parametrize("label", [torch.int64, torch.int16, torch.uint8], ids=str)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"weight": True, "reduction": "sum"}], ids=str)
def test_by_their_definition(stats, label, options):
    logits, target = torch.randn(9, 7, dtype=torch.float64).requires_grad_(), torch.randint(7, (9,)).to(label)
    target[1::4] = 77
    options = {**options, **({"weight": torch.rand(7, dtype=torch.float64)} if "weight" in options else {})}
    got, want = stats(logits, target, ignore_index=77, **options), plainly(logits, target, 77, **options)
    for name in ("loss", *ROWS):
        assert_close(getattr(got, name), want[name])
        assert not getattr(got, name).dtype.is_floating_point or getattr(got, name).dtype is torch.float64
    for name in SLOPES:
        upstream = torch.rand_like(want[name])
        ours, theirs = (
            torch.autograd.grad(t, logits, upstream, retain_graph=True) for t in (getattr(got, name), want[name])
        )
        assert_close(ours, theirs)
    together = [sum((getattr(x, n) if x is got else x[n]).sum() for n in SLOPES) for x in (got, want)]
    assert_close(*(torch.autograd.grad(t, logits) for t in together))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("of", [of_logits, of_head])
def test_every_derivative(of, weighted):
    logits, target = torch.randn(4, 5, dtype=torch.float64).requires_grad_(), torch.tensor([1, -100, 4, 0])
    options = {"weight": torch.rand(5, dtype=torch.float64)} if weighted else {}

    def f(logits):
        return of(logits, target, label_smoothing=0.1, **options)[:5]

    assert torch.autograd.gradcheck(f, logits, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, logits)
    want = torch.autograd.functional.jacobian(lambda x: f(x)[4], logits)
    assert_close(torch.func.jacrev(lambda x: f(x)[4])(logits), want)
    assert_close(torch.func.vmap(lambda x: f(x)[4])(torch.stack([logits, -logits]))[1], f(-logits)[4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_head_has_the_same_bits_at_every_budget(dtype):
    hidden, head = torch.randn(1100, 8).to(dtype).requires_grad_(), torch.randn(20_001, 8).to(dtype).requires_grad_()
    target, bias = torch.randint(20_001, (1100,)), torch.randn(20_001).to(dtype)
    target[::3] = -100
    found = []
    for budget in (1, 50 << 20, None):
        got = xent.linear_cross_entropy_with_stats(hidden, head, target, linear_bias=bias, memory_budget=budget)
        grads = torch.autograd.grad(got.loss + (got.lse * 0.01).sum() + got.entropy.mean(), (hidden, head))
        found.append((got, grads))
    want = xent.cross_entropy_with_stats(F.linear(hidden, head, bias), target)
    want_grads = torch.autograd.grad(want.loss + (want.lse * 0.01).sum() + want.entropy.mean(), (hidden, head))
    for got, grads in found:
        assert all(torch.equal(a, b) for a, b in zip(got, found[0][0], strict=True))
        assert torch.equal(got.argmax, want.argmax)
        assert torch.equal(got.rank, want.rank)
        for a, b in zip(grads, want_grads, strict=True):
            assert (a - b).abs().max() <= b.abs().max() * (1e-5 if dtype is torch.float32 else 2e-2)


def test_ties_and_what_is_not_finite(stats):
    inf, nan = torch.inf, torch.nan
    rows = [[1.0, 3.0, 3.0], [-inf, 2.0, 0.0], [-inf, -inf, -inf], [0.0, nan, 1.0], [0.0, inf, 1.0]]
    if stats is not of_logits:  # 0 * inf is no logit
        rows = rows[:1]
    logits = torch.tensor(rows)
    got = stats(logits, torch.tensor([2, 0, 0, 0, 0])[: len(rows)])
    assert got.rank[0] == 0
    assert got.argmax[0] == 1
    assert not got.correct[0]
    if len(rows) == 1:
        return
    assert got.nll[1] == inf
    assert got.rank[1] == 2
    assert_close(got.entropy[1], torch.distributions.Categorical(logits=torch.tensor([2.0, 0.0])).entropy())
    assert got.entropy[2:].isnan().all()
    ignored = xent.cross_entropy_with_stats(logits, torch.full((5,), -100), all_ignored="zero")
    assert not any(t.any() for t in ignored[:6])
    assert (ignored.argmax == -1).all()


def test_an_ignored_row_has_no_gradient_whatever_stands_in_it():
    logits = torch.tensor([[torch.nan, 0.0], [1.0, 2.0]], requires_grad=True)
    got = xent.cross_entropy_with_stats(logits, torch.tensor([-100, 0]))
    (slope,) = torch.autograd.grad((got.lse + got.entropy + got.nll).sum() + got.loss, logits)
    assert not slope[0].any()
    assert slope[1].isfinite().all()


def test_of_maps_shifts_dims_and_one_row():
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(5, (2, 3, 4))
    got = xent.cross_entropy_with_stats(logits, target, dim=-1, shift=1, reduction="none")
    later = F.pad(target[..., 1:], (0, 1), value=-100)
    want = plainly(logits.reshape(-1, 5), later.reshape(-1), reduction="none")
    for name in ("loss", *ROWS):
        value = getattr(got, name)
        assert_close(value, want[name].reshape(2, 3, 4).to(value.dtype))
    one = xent.cross_entropy_with_stats(logits[0, 0, 0], target[0, 0, 0])
    assert one.rank.shape == ()
    hidden, head = torch.randn(2, 4), torch.randn(5, 3, 4)
    places = torch.randint(5, (2, 3))
    got = xent.linear_cross_entropy_with_stats(hidden, head, places)
    want = xent.cross_entropy_with_stats(torch.tensordot(hidden, head, ([-1], [-1])), places)
    assert_close(tuple(got), tuple(want))


@pytest.mark.parametrize("of", [of_logits, of_head])
def test_of_nothing(of):
    got = of(torch.zeros(3, 4), torch.full((3,), -100), all_ignored="zero")
    assert not any(t.any() for t in got[:6])
    assert got.argmax.tolist() == got.rank.tolist() == [-1] * 3
    assert of(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), reduction="sum").rank.shape == (0,)
    assert of(torch.zeros(2, 0), torch.full((2,), -100)).argmax.tolist() == [-1, -1]


@pytest.mark.parametrize("of", [of_logits, of_head])
def test_compiled_traced_and_without_numbers(of):
    logits, target = torch.randn(6, 5, requires_grad=True), torch.tensor([1, -100, 4, 0, 2, 3])

    def f(logits):
        got = of(logits, target)
        return got, got.loss + got.entropy.sum() + got.lse.sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(logits)[0], f(logits)[0], strict=True):
        assert_close(got, want)
    assert_close(*(torch.autograd.grad(g(logits)[1], logits) for g in (compiled, f)))
    meta = of(logits.to("meta"), target.to("meta"))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = of(mode.from_tensor(logits), mode.from_tensor(target))
    for got, want in zip((*meta, *fake), (*f(logits)[0],) * 2, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)


@pytest.mark.parametrize("of", [of_logits, of_head])
def test_labels_only(of):
    with pytest.raises(xent.DtypeError, match="asked of labels: integers"):
        of(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(xent.TargetError, match=r"target\[1\] = 3"):
        of(torch.zeros(2, 3), torch.tensor([0, 3]))
