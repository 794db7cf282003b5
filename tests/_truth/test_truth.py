"""The judge is judged: against the textbook formula at 1,600 bits, and one arithmetic against the other."""

import math
from importlib.util import find_spec

import mpmath
import pytest
import torch
import torch.nn.functional as F

from xent._truth import arithmetic, head_truth, truth

ARITHMETICS = ["mpmath", *(["flint"] if find_spec("flint") else [])]
USING = pytest.mark.parametrize("using", [arithmetic(name) for name in ARITHMETICS], ids=ARITHMETICS)
EVERY_OPTION = {
    "plain": {},
    "weights": {"weight": torch.tensor([0.5, 2.0, 0.0, 1.5, 3.0])},
    "ignored": {"ignore_index": 3},
    "smoothing": {"label_smoothing": 0.25},
    "everything": {"weight": torch.tensor([0.5, 2.0, 0.3, 1.5, 3.0]), "ignore_index": 1, "label_smoothing": 0.1},
}
OPTIONS = pytest.mark.parametrize("options", EVERY_OPTION.values(), ids=EVERY_OPTION)


def textbook(row, asked):
    """Loss and gradient by ``-sum a log softmax``, with nothing clever."""
    z = [mpmath.exp(mpmath.mpf(x)) for x in row]
    p = [e / mpmath.fsum(z) for e in z]
    loss = mpmath.fsum(-a * mpmath.log(q) for a, q in zip(asked, p, strict=True) if a)
    return loss, [mpmath.fsum(asked) * q - a for a, q in zip(asked, p, strict=True)]


def asked_of(label, classes, weight=None, ignore_index=-100, label_smoothing=0.0):
    w = [1.0] * classes if weight is None else weight.tolist()
    e = mpmath.mpf(label_smoothing)
    if label == ignore_index:
        return [mpmath.mpf(0)] * classes
    return [mpmath.mpf(w[j]) * ((1 - e) * (j == label) + e / classes) for j in range(classes)]


def close(exact, place, want):
    """To 100 bits."""
    got = mpmath.mpf(exact.high[place].item()) + mpmath.mpf(exact.low[place].item())
    assert abs(got - want) <= abs(want) * mpmath.mpf(2) ** -100, f"{got} is not {want}"


@USING
@OPTIONS
@pytest.mark.parametrize("margin", [0.0, 3.0, 41.0, 300.0, -300.0])
def test_every_option_is_the_textbooks(using, options, margin):
    logits = torch.randn(4, 5, dtype=torch.float64)
    logits[:, 2] += margin
    labels = torch.tensor([2, 1, 3, 2])
    losses = truth(logits, labels, **options, reduction="none", using=using)
    with mpmath.workprec(1600):
        for n, row in enumerate(logits.tolist()):
            loss, gradient = textbook(row, asked_of(labels[n].item(), 5, **options))
            close(losses.loss, n, loss)
            for j in range(5):
                close(losses.gradient, (n, j), gradient[j])


@USING
@OPTIONS
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_reductions_and_upstream_are_torchs(using, options, soft):
    logits, labels = torch.randn(7, 5, dtype=torch.float64, requires_grad=True), torch.randint(0, 5, (7,))
    options = {k: v.double() if k == "weight" else v for k, v in options.items() if not (soft and k == "ignore_index")}
    target = torch.rand(7, 5, dtype=torch.float64) if soft else labels
    for reduction, upstream in (("mean", torch.tensor(3.0)), ("sum", torch.tensor(0.5)), ("none", torch.randn(7))):
        want = F.cross_entropy(logits, target, **options, reduction=reduction)
        (gradient,) = torch.autograd.grad((want * upstream.double()).sum(), logits)
        got = truth(logits, target, **options, reduction=reduction, upstream=upstream, using=using)
        torch.testing.assert_close(got.loss.high, want)
        torch.testing.assert_close(got.gradient.high, gradient)
        torch.testing.assert_close(got.softmax.high, logits.softmax(1))


@USING
def test_more_dimensions_lie_where_torch_has_them(using):
    logits, labels = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True), torch.randint(0, 5, (2, 3))
    got = truth(logits, labels, reduction="none", using=using)
    want = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(got.loss.high, want)
    torch.testing.assert_close(got.gradient.high, torch.autograd.grad(want.sum(), logits)[0])


@USING
def test_what_is_left_out_does_not_count(using):
    logits = torch.tensor([[1.0, -math.inf, 2.0], [math.nan, 1.0, math.inf]])
    got = truth(logits, torch.tensor([0, -100]), using=using)
    assert got.loss.high == pytest.approx(math.log1p(math.e), abs=1e-15)
    assert got.gradient.high[1].tolist() == [0, 0, 0]
    assert got.gradient.high[0, 1] == 0
    masked = truth(logits[:1], torch.tensor([[0.5, 0.0, 0.5]]), using=using)
    assert masked.loss.high.isfinite()
    assert truth(logits[:1], torch.tensor([1]), using=using).loss.high == math.inf
    assert truth(logits, torch.tensor([0, 1]), using=using).loss.high.isnan()
    nothing = truth(logits, torch.tensor([-100, -100]), using=using)
    assert nothing.loss.high.isnan()
    assert not nothing.gradient.high.any()


@USING
def test_times_is_what_repeated_rows_give(using):
    logits, labels, weight = torch.randn(3, 4), torch.tensor([0, 3, -100]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    for reduction in ("mean", "sum"):
        once = truth(logits, labels, weight, reduction=reduction, times=5, using=using)
        written = truth(logits.repeat(5, 1), labels.repeat(5), weight, reduction=reduction, using=using)
        torch.testing.assert_close(once.loss.high, written.loss.high, rtol=0, atol=0)
        torch.testing.assert_close(once.gradient.high.repeat(5, 1), written.gradient.high, rtol=0, atol=0)


@pytest.mark.skipif("flint" not in ARITHMETICS, reason="python-flint is not installed")
def test_flint_is_certain_of_more_than_two_floats_hold():
    logits = torch.randn(2, 20_000) * 20
    proven = truth(logits, torch.tensor([3, 4]), label_smoothing=0.1, using=arithmetic("flint"))
    assert proven.bits is not None
    assert proven.bits >= 110
    assert "170 bits" in proven.by


@USING
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_head_is_torchs_where_float64_is_good_enough(using, dtype):
    hidden, head = torch.randint(-4, 5, (6, 3)).to(dtype) / 4, torch.randint(-4, 5, (5, 3)).to(dtype) / 2
    bias, labels = torch.randint(-4, 5, (5,)).to(dtype), torch.tensor([0, 4, 2, -100, 1, 3])
    got = head_truth(hidden, head, labels, linear_bias=bias, label_smoothing=0.2, times=3, using=using)
    inputs = [tensor.double().requires_grad_() for tensor in (hidden, head, bias)]
    logits = F.linear(inputs[0].repeat(3, 1), *inputs[1:])
    want = F.cross_entropy(logits, labels.repeat(3), label_smoothing=0.2)
    torch.testing.assert_close(got.loss.high, want)
    gradients = torch.autograd.grad(want, inputs)
    gradients = (gradients[0] / 3, *gradients[1:])
    for name, gradient in zip(("hidden", "head", "bias"), gradients, strict=True):
        exact, size = got.gradients[name]
        torch.testing.assert_close(exact.high, gradient)
        assert (size + 1e-15 >= gradient.abs()).all()


def test_a_head_whose_logits_are_not_exact_is_refused():
    with pytest.raises(ValueError, match="products are exact"):
        head_truth(torch.rand(2, 3), torch.ones(4, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"numbers of torch\.bfloat16"):
        head_truth(torch.full((1, 2), 1.125).bfloat16(), torch.full((3, 2), 129.0).bfloat16(), torch.tensor([0]))
