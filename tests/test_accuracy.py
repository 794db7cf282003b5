"""The numbers that xent promises, case by case (`docs/design/numerics.md`)."""

import numpy as np
import pytest
import torch

import xent
from xent import backends

from .cases import FAMILIES
from .oracle import LONG, Truth, attraction, error, long

pytestmark = [
    pytest.mark.usefixtures("backend"),
    pytest.mark.skipif(np.finfo(LONG).nmant < 63, reason="no 80-bit floats on this machine"),
]

ROUNDED = (0.51, 0.51, 0.51, 0.51)
# ulp allowed: loss of a row, entry of its gradient, entry of log_softmax, entry of softmax
PROMISED = {torch.float64: (4, 8, 4, 8), torch.float32: (2, 3, 2, 3)}
BUDGETS = {"reference": {torch.float64: (4, 8, 4, 8), torch.float32: ROUNDED}}
"""Of backends that promise more than they owe."""
KINDS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DTYPES = pytest.mark.parametrize("dtype", KINDS, ids=lambda d: str(d)[6:])
SIZES = {1: 8, 2: 300, 3: 300, 10: 300, 127: 40, 1000: 12, 1025: 12, 32000: 2}
LONG_SIZES = {128256: 4, 131073: 2, 300001: 1}


def budget(dtype):
    """Of the backend that serves now."""
    return BUDGETS.get(backends.choose(torch.device("cpu")).name, PROMISED).get(dtype, ROUNDED)


def sample(name, rows, classes, dtype):
    """Logits that `dtype` holds exactly, and labels."""
    logits, labels = FAMILIES[name](rows, classes, torch.Generator().manual_seed(classes))
    return logits.to(dtype), labels


def gradient(loss_of, logits):
    logits = logits.clone().requires_grad_()
    losses = loss_of(logits)
    return losses.detach(), torch.autograd.grad(losses.sum(), logits)[0]


def check(logits, target, dtype, weight=None, smoothing=0.0):
    truth = Truth(long(logits), attraction(target, logits.shape[1], weight, smoothing))
    options = {"weight": weight, "label_smoothing": smoothing, "reduction": "none"}
    losses, grad = gradient(lambda x: xent.cross_entropy(x, target, **options), logits)
    loss_ulp, grad_ulp, *_ = budget(dtype)
    assert error(losses, truth.loss) <= loss_ulp
    soft = target.is_floating_point() or smoothing > 0
    assert error(grad, truth.grad, truth.grad_size if soft else None) <= grad_ulp
    return truth


@DTYPES
@pytest.mark.parametrize("name", FAMILIES)
def test_labels(name, dtype):
    for classes, rows in SIZES.items():
        logits, labels = sample(name, rows, classes, dtype)
        if logits.isposinf().any():  # 1e30 is no float16
            continue
        truth = check(logits, labels, dtype)
        *_, log_ulp, p_ulp = budget(dtype)
        assert error(xent.log_softmax(logits, 1), truth.log_p) <= log_ulp
        assert error(xent.softmax(logits, 1), truth.p) <= p_ulp


@pytest.mark.long
@DTYPES
@pytest.mark.parametrize("name", FAMILIES)
def test_labels_of_long_rows(name, dtype):
    for classes, rows in LONG_SIZES.items():
        logits, labels = sample(name, rows, classes, dtype)
        if not logits.isposinf().any():
            check(logits, labels, dtype)


@DTYPES
def test_128256_classes_confident(dtype):
    logits, labels = sample("confident_and_right", 4, 128256, dtype)
    check(logits, labels, dtype)


@DTYPES
@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "masked"])
@pytest.mark.parametrize("weighted", [False, True])
def test_smoothing(name, weighted, dtype):
    for classes in (2, 10, 1000):
        logits, labels = sample(name, SIZES[classes], classes, dtype)
        if logits.isposinf().any():
            continue
        check(logits, labels, dtype, _weight(classes, dtype) if weighted else None, smoothing=0.125)


@DTYPES
@pytest.mark.parametrize("name", FAMILIES)
def test_class_weights(name, dtype):
    for classes in (1, 2, 10, 1025):
        logits, labels = sample(name, SIZES[classes], classes, dtype)
        if not logits.isposinf().any():
            check(logits, labels, dtype, _weight(classes, dtype))


@DTYPES
@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "masked"])
@pytest.mark.parametrize("teacher", ["spread", "certain", "one_hot", "nearly_one_hot"])
def test_probabilities(name, teacher, dtype):
    """A certain teacher and a certain student: torch's gradient is wrong by all of it."""
    for classes in (2, 10, 1000):
        logits, labels = sample(name, SIZES[classes], classes, dtype)
        if logits.isposinf().any():
            continue
        q = _teacher(teacher, logits, labels).to(dtype)
        check(logits, q, dtype)
        check(logits, q, dtype, _weight(classes, dtype), smoothing=0.125)


def _weight(classes, dtype):
    return torch.rand(classes, generator=torch.Generator().manual_seed(0)).to(dtype)


def _teacher(kind, logits, labels):
    one_hot = torch.nn.functional.one_hot(labels, logits.shape[1]).to(torch.float64)
    if kind == "one_hot":
        return one_hot
    if kind == "nearly_one_hot":
        return one_hot + 1e-10 * (1 - one_hot)
    scale = {"spread": 1.0, "certain": 30.0}[kind]
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (scale * noise).softmax(1)


@DTYPES
@pytest.mark.parametrize("name", FAMILIES)
def test_nll_of_log_softmax_has_the_gradient_of_cross_entropy(name, dtype):
    """The two-step route of the notebooks: exact in the gradient of the label's entry as well."""
    for classes in (2, 10, 1000):
        logits, labels = sample(name, SIZES[classes], classes, dtype)
        if logits.isposinf().any():
            continue
        truth = Truth(long(logits), attraction(labels, classes))
        losses, grad = gradient(lambda x, y=labels: xent.nll_loss(xent.log_softmax(x, 1), y, reduction="none"), logits)
        assert error(losses, truth.loss) <= budget(dtype)[2]
        assert error(grad, truth.grad) <= budget(dtype)[1]


@DTYPES
def test_softmax_gradient(dtype):
    """``p (g - sum p g)`` where one class holds all but e^-m of the mass, and the difference is e^-m."""
    for margin in (1.0, 10.0, 40.0, 80.0):
        logits = torch.tensor([[margin, 0.0, -1.0]]).to(dtype)
        slope = torch.tensor([[1.0, 0.5, -2.0]]).to(dtype)
        _, grad = gradient(lambda x, s=slope: xent.softmax(x, 1) * s, logits)
        truth, g = Truth(long(logits), np.zeros((1, 3), LONG)), long(slope)
        p = truth.p[0]
        # sum over k of p_j p_k (g_j - g_k), term by term: nothing cancels at the peak
        want = np.array([[sum(p[j] * p[k] * (g[0, j] - g[0, k]) for k in range(3)) for j in range(3)]])
        size = np.array([[sum(abs(p[j] * p[k] * (g[0, j] - g[0, k])) for k in range(3)) for j in range(3)]])
        assert error(grad, want, size) <= budget(dtype)[1]


@DTYPES
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_million_rows(reduction, weighted, dtype):
    """Half of them confident: the sum spans 35 powers of ten, and torch's is 99 % off where all are."""
    n, classes = 1_000_000, 2
    for name in ("confident_and_right", "ordinary"):
        logits, labels = sample(name, n, classes, dtype)
        weight = _weight(classes, dtype) if weighted else None
        got = xent.cross_entropy(logits, labels, weight=weight, reduction=reduction)
        truth = Truth(long(logits), attraction(labels, classes, weight)).loss.sum()
        if reduction == "mean":
            truth = truth / (n if weight is None else long(weight)[labels.numpy()].sum())
        assert error(got.reshape(1), np.array([truth])) <= (3 if dtype is torch.float64 else 1)


def test_means_of_sixteen_bits_do_not_overflow():
    """torch's is nan: the numerator and the count are both float16."""
    logits = torch.zeros(1, 1000, dtype=torch.float16).expand(70_000, 1000)
    got = xent.cross_entropy(logits, torch.zeros(70_000, dtype=torch.long))
    assert error(got.reshape(1), np.log(np.array([1000], LONG))) <= 0.51


@DTYPES
def test_gradient_rows_sum_to_zero(dtype):
    """Within 3 eps of the largest entry: where torch's does not, logits drift (arXiv 2605.06152)."""
    for name in FAMILIES:
        for classes in (2, 10, 1000, 32000):
            logits, labels = sample(name, SIZES[classes], classes, dtype)
            if logits.isposinf().any():
                continue
            _, grad = gradient(lambda x, y=labels: xent.cross_entropy(x, y, reduction="none"), logits)
            largest = grad.double().abs().amax(1)
            off = torch.from_numpy(np.abs(long(grad).sum(1)).astype(np.float64))
            tiny = torch.finfo(dtype).smallest_normal  # below it entries have no relative precision
            assert (off <= 3 * torch.finfo(dtype).eps * largest + classes * tiny).all(), (name, classes)


def test_the_first_example():
    logits = torch.tensor([[20.0, 0.0]], requires_grad=True)
    loss = xent.cross_entropy(logits, torch.tensor([0]))
    assert f"{loss.item():.7e}" == "2.0611537e-09"
    (grad,) = torch.autograd.grad(loss, logits)
    assert f"{grad[0, 0].item():.7e}" == "-2.0611537e-09"


def test_an_entry_e_to_the_minus_80_below_the_peak():
    """exp of the rounded difference is 60 ulp off there; the rounding has to be carried."""
    for dtype in KINDS:
        logits = torch.tensor([[0.1, -79.97, 3.3]], dtype=torch.float64).to(dtype)
        truth = Truth(long(logits), attraction(torch.tensor([2]), 3))
        assert error(xent.softmax(logits, 1), truth.p) <= budget(dtype)[3]
        check(logits, torch.tensor([2]), dtype)
