"""What holds for every input: hypothesis draws shapes, options and special values; 50 digits judge."""

from unittest import mock

import mpmath
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xent
from xent import backends

quick = settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck))
slow = settings(quick, max_examples=25)

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ULPS = {torch.float64: 4, torch.float32: 2, torch.bfloat16: 0.51, torch.float16: 0.51}


@st.composite
def problems(draw, dtypes=FLOATS, max_rows=5, max_classes=9, masks=False):
    """Logits ``(N, V)`` and labels; the scale runs from flat rows to far beyond exp's range."""
    n, v = draw(st.integers(1, max_rows)), draw(st.integers(1, max_classes))
    scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 8.0, 30.0, 300.0]))
    unit = st.floats(-1.0, 1.0, width=32)
    values = draw(st.lists(st.lists(unit, min_size=v, max_size=v), min_size=n, max_size=n))
    target = draw(st.lists(st.integers(0, v - 1), min_size=n, max_size=n))
    logits = torch.tensor(values, dtype=torch.float64).mul(scale).to(draw(st.sampled_from(dtypes)))
    target = torch.tensor(target)
    lead = draw(st.sampled_from([0.0, 0.0, 12.0, 20.0, 45.0, 80.0]))  # a label that wins by so many nats
    if lead:
        logits[torch.arange(n), target] = (logits.double().amax(1) + lead).to(logits.dtype)
    if masks:
        hidden = torch.tensor(draw(st.lists(st.lists(st.booleans(), min_size=v, max_size=v), min_size=n, max_size=n)))
        logits = logits.masked_fill(hidden.scatter(1, target.unsqueeze(1), False), -torch.inf)
    return logits, target


@st.composite
def options(draw, classes):
    """Weights that are floats of every dtype, zeros among them; smoothing; a label to ignore."""
    weight = None
    if draw(st.booleans()):
        numbers = st.sampled_from([0.0, 0.25, 1.0, 1.5, 7.0])
        weight = torch.tensor(draw(st.lists(numbers, min_size=classes, max_size=classes)))
    smoothing = draw(st.sampled_from([0.0, 0.125, 0.5]))
    return {"weight": weight, "label_smoothing": smoothing, "ignore_index": draw(st.integers(-1, classes))}


def bits(tensor):
    """The tensor as integers, to tell 0.0 from -0.0 and one nan from another."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@quick
@given(st.data())
def test_a_loss_is_never_negative_nor_nan(data):
    logits, target = data.draw(problems(masks=True))
    choice = data.draw(options(logits.shape[1]))
    if logits.isinf().any():
        choice["label_smoothing"] = 0.0  # smoothing asks a masked class for its share: inf is the answer
    losses = xent.cross_entropy(logits, target, reduction="none", **choice)
    assert (losses >= 0).all()
    assert losses[target == choice["ignore_index"]].eq(0).all()


@quick
@given(st.data())
def test_a_shift_that_rounds_nothing_changes_no_bit(data):
    """The loss is blind to a common offset; whole numbers small enough are shifted exactly."""
    n, v = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    whole = st.lists(st.integers(-60, 60), min_size=v, max_size=v)
    dtype = data.draw(st.sampled_from(FLOATS))
    logits = torch.tensor(data.draw(st.lists(whole, min_size=n, max_size=n))).to(dtype)
    shift = data.draw(st.integers(-60, 60))
    target = torch.tensor(data.draw(st.lists(st.integers(0, v - 1), min_size=n, max_size=n)))
    results = []
    for x in (logits, logits + shift):
        x = x.requires_grad_()
        loss = xent.cross_entropy(x, target, label_smoothing=data.draw(st.just(0.25)), reduction="none")
        results.append((loss, torch.autograd.grad(loss.sum(), x)[0], xent.softmax(x, 1), xent.log_softmax(x, 1)))
    assert torch.equal(logits.double() + shift, (logits + shift).double())
    for was, shifted in zip(*results, strict=True):
        assert torch.equal(bits(was), bits(shifted))


@slow
@given(st.data())
def test_rows_in_another_order_give_the_same_bits(data):
    n, v = data.draw(st.sampled_from([1, 2, 7, 400, 3000])), data.draw(st.integers(2, 6))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    scale = torch.tensor(10.0).double() ** data.draw(st.integers(-3, 3))
    logits = torch.randn(n, v, generator=generator, dtype=torch.float64) * scale
    logits = logits.to(data.draw(st.sampled_from([torch.float64, *FLOATS])))
    target = torch.randint(v, (n,), generator=generator)
    choice = data.draw(options(v))

    def results(order):
        x, y = logits[order], target[order]
        return [xent.cross_entropy(x, y, reduction=reduction, **choice) for reduction in ("none", "mean", "sum")]

    losses, mean, total = results(torch.arange(n))
    for _ in range(8):  # a plain sum gives two or three different totals in so many
        order = torch.randperm(n, generator=generator)
        for got, want in zip(results(order), (losses[order], mean, total), strict=True):
            assert torch.equal(bits(got), bits(want))


@quick
@given(st.data())
def test_a_gradient_row_sums_to_nothing(data):
    logits, target = data.draw(problems(dtypes=FLOATS[:2], masks=True))
    smoothing = 0.0 if logits.isinf().any() else data.draw(st.sampled_from([0.0, 0.125]))
    x = logits.requires_grad_()
    loss = xent.cross_entropy(x, target, reduction="sum", label_smoothing=smoothing)
    (grad,) = torch.autograd.grad(loss, x)
    allowed = 3 if not smoothing else 2 * logits.shape[1]
    eps = torch.finfo(grad.dtype).eps * allowed
    rest = grad.double().sum(1).abs()
    assert (rest <= eps * grad.double().abs().amax(1) + torch.finfo(grad.dtype).tiny).all()
    off_target = torch.ones_like(grad, dtype=torch.bool).scatter_(1, target.unsqueeze(1), False)
    if not smoothing:
        assert (grad[off_target] >= 0).all()
        assert (grad[~off_target] <= 0).all()


@quick
@given(st.data())
def test_softmax_sums_to_one_and_its_logarithm_is_log_softmax(data):
    logits, _ = data.draw(problems(dtypes=FLOATS, masks=True))
    eps = torch.finfo(logits.dtype).eps
    p, log_p = xent.softmax(logits, 1), xent.log_softmax(logits, 1)
    assert ((p.double().sum(1) - 1).abs() <= eps * logits.shape[1]).all()
    assert ((p >= 0) & (p <= 1)).all()
    assert (log_p <= 0).all()
    normal = p > torch.finfo(p.dtype).tiny
    relative = (log_p.double().exp() / p.double() - 1).abs()[normal]
    assert (relative <= 2 * eps * (1 + log_p.double().abs()[normal])).all()


@quick
@given(st.data())
def test_the_loss_is_minus_the_log_softmax_at_the_label_by_every_route(data):
    """To the bit on the reference. The native log_softmax takes its log1p from the C library, the loss from torch:
    they may round differently, once."""
    logits, target = data.draw(problems(masks=True))

    def routes():
        log_p = xent.log_softmax(logits, 1)
        picked = -log_p.gather(1, target.unsqueeze(1)).squeeze(1)
        assert torch.equal(xent.nll_loss(log_p, target, reduction="none"), picked)
        return xent.cross_entropy(logits, target, reduction="none"), picked

    torch.testing.assert_close(*routes(), rtol=torch.finfo(logits.dtype).eps, atol=0)
    with mock.patch.object(backends, "TABLE", (backends.reference,)):
        losses, picked = routes()
        assert torch.equal(losses, picked)


@quick
@given(st.data())
def test_labels_and_their_one_hot_probabilities_agree(data):
    logits, target = data.draw(problems(dtypes=FLOATS[:2], masks=True))
    hot = torch.zeros_like(logits).scatter_(1, target.unsqueeze(1), 1.0)
    weight = torch.arange(1.0, logits.shape[1] + 1, dtype=logits.dtype)
    by_label = xent.cross_entropy(logits, target, weight=weight, reduction="none")
    by_share = xent.cross_entropy(logits, hot, weight=weight, reduction="none")
    torch.testing.assert_close(by_share, by_label, rtol=2 * torch.finfo(logits.dtype).eps, atol=0)


@quick
@given(st.data())
def test_classes_moved_about_in_memory_or_shape_give_the_same_losses(data):
    """(N, V), (1, V, N) and every row alone are one computation."""
    logits, target = data.draw(problems(masks=True))
    losses = xent.cross_entropy(logits, target, reduction="none")
    turned = xent.cross_entropy(logits.T.unsqueeze(0), target.unsqueeze(0), reduction="none")
    alone = torch.stack([xent.cross_entropy(x, y) for x, y in zip(logits, target, strict=True)])
    assert torch.equal(turned[0], losses)
    assert torch.equal(alone, losses)


# -- 50 digits ---------------------------------------------------------------------------------------


def exact_losses(logits, target, weight, label_smoothing, ignore_index):
    """The formula class by class; a class that weighs nothing is left out.

    `lse - x` cancels down to e^-margin, and a margin of float64 goes to 745 nats or 324 digits: 400 leave 50.
    """
    out = []
    with mpmath.workdps(400):
        v = logits.shape[1]
        w = [mpmath.mpf(1)] * v if weight is None else [mpmath.mpf(x) for x in weight.tolist()]
        share = mpmath.mpf(label_smoothing) / v
        for row, y in zip(logits.double().tolist(), target.tolist(), strict=True):
            row = [mpmath.mpf(x) for x in row]
            lse = mpmath.log(mpmath.fsum(mpmath.exp(x) for x in row))
            asked = [(1 - label_smoothing) * w[y] * (j == y) + share * w[j] for j in range(v)]
            loss = mpmath.fsum(a * (lse - x) for a, x in zip(asked, row, strict=True) if a)
            out.append(mpmath.mpf(0) if y == ignore_index else loss)
        divisor = mpmath.fsum(w[y] for y in target.tolist() if y != ignore_index)
    return out, divisor


def assert_close_to(got, truth, dtype, allowed):
    limit = torch.finfo(dtype)
    if truth > limit.max:
        assert got == torch.inf
        return
    _, exponent = mpmath.frexp(truth)
    ulp = max(mpmath.ldexp(limit.eps, int(exponent) - 1), mpmath.mpf(limit.tiny) * limit.eps)
    with mpmath.workdps(50):
        assert abs(mpmath.mpf(got) - truth) <= allowed * ulp, f"{got} for {mpmath.nstr(truth, 20)}"


@slow
@given(st.data())
def test_losses_against_50_digits(data):
    logits, target = data.draw(problems(max_rows=3))
    choice = data.draw(options(logits.shape[1]))
    truth, divisor = exact_losses(logits, target, **choice)
    losses = xent.cross_entropy(logits, target, reduction="none", **choice)
    for got, exact in zip(losses.tolist(), truth, strict=True):
        assert_close_to(got, exact, losses.dtype, ULPS[losses.dtype])
    if divisor:
        with mpmath.workdps(50):
            mean, total = mpmath.fsum(truth) / divisor, mpmath.fsum(truth)
        for reduction, exact in (("mean", mean), ("sum", total)):
            got = xent.cross_entropy(logits, target, reduction=reduction, **choice)
            assert_close_to(got.item(), exact, got.dtype, ULPS[got.dtype])


@slow
@given(st.data())
def test_gradients_of_labels_against_50_digits(data):
    logits, target = data.draw(problems(max_rows=2, max_classes=6))
    x = logits.requires_grad_()
    (grad,) = torch.autograd.grad(xent.cross_entropy(x, target, reduction="sum"), x)
    allowed = {torch.float64: 8, torch.float32: 3}.get(grad.dtype, 0.51)
    with mpmath.workdps(50):
        for row, y, got in zip(logits.tolist(), target.tolist(), grad.tolist(), strict=True):
            e = [mpmath.exp(mpmath.mpf(a) - max(row)) for a in row]
            total = mpmath.fsum(e)
            for j in range(len(row)):
                exact = -mpmath.fsum(e[:j] + e[j + 1 :]) / total if j == y else e[j] / total
                assert_close_to(abs(got[j]), abs(exact), grad.dtype, allowed)
                assert exact == 0 or got[j] == 0 or (got[j] > 0) == (exact > 0)


def test_the_judge_itself():
    """50 digits give the number that float64 arithmetic on [[20, 0]] cannot: log1p(exp(-20))."""
    (truth,), divisor = exact_losses(torch.tensor([[20.0, 0.0]]), torch.tensor([0]), None, 0.0, -100)
    assert divisor == 1
    assert float(truth) == pytest.approx(2.061153620314381e-09, rel=1e-15)
    with pytest.raises(AssertionError):
        assert_close_to(0.0, truth, torch.float32, 2)
