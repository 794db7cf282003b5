"""The kernels for GPUs in Triton's interpreter, on CPU tensors, against the reference. `tests/gpu` takes a GPU."""

import itertools
import os
import subprocess
import sys

import pytest
import torch

import xent
from xent import _algebra, backends
from xent.backends import reference
from xent.backends import triton as kernels

from .. import waiting
from ..cases import FAMILIES
from ..oracle import Truth, attraction, error, long
from .test_native import DTYPES, INF, LABELS, NAN, NONE, close, hostile, labels_of, larger_term

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(kernels.serves(CPU) is not None, reason="no Triton, or a GPU to run it on")

SHORT = [1, 2, 3, 17, 64, 65, 130]
"""Class counts of one tile."""


def quick(*cases):
    """Class counts and dtypes; the rest of them is long."""
    every = itertools.product((3, 64, 130), (torch.float64, torch.float32, torch.bfloat16, torch.float16))
    marked = [
        pytest.param(*case, marks=[] if case in cases else pytest.mark.long, id=f"{case[0]}-{case[1]}")
        for case in every
    ]
    return pytest.mark.parametrize(("classes", "dtype"), marked)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tiles of 64 classes, so that short rows have several; few programs, each of which costs the interpreter 5 ms."""
    from xent.backends.triton import cut, programs

    shapes = {kind: cut.Shape(64, 4096, 16) for kind in cut.READ}
    monkeypatch.setattr(cut, "READ", shapes)
    monkeypatch.setattr(cut, "WRITE", shapes)
    monkeypatch.setattr(cut, "PROGRAMS", 1)
    monkeypatch.setattr(backends, "TABLE", (kernels,))
    programs.forget()
    yield
    programs.forget()


def budget(dtype):
    """ulp from the reference, which may be 0.51 off itself, or 8 in float64."""
    return 16.0 if dtype is torch.float64 else 3.51 if dtype is torch.float32 else 1.0


def facts_close(got, want, dtype, unit=False):
    """`unit`: 16-bit results come from the special function unit, 2**-15 for what lies 80 nats below the peak."""
    relative, least = (2.0**-49, 1e-55) if dtype is torch.float64 else (2.0**-22, 1e-55)
    if dtype.itemsize == 2:
        relative, least = 2.0**-15 if unit else relative, 1e-37  # products of 16-bit probabilities are float32
    fine = want[1].isfinite()  # elsewhere the loss is nan, whatever the other facts are
    assert torch.equal(got[1].isfinite(), fine)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a[fine], b[fine], rtol=relative, atol=least)


def same(got, want):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def problem(shape, dtype, seed=0):
    """Hostile rows, labels some of which are ignored, a distribution with zeros, weights with zeros."""
    g = torch.Generator().manual_seed(seed)
    rows, labels = hostile(shape, dtype, g), labels_of(shape, g)
    rows = rows.where(rows.abs() < torch.finfo(dtype).max, rows / 2**20)  # so that float32 sums them
    labels[torch.rand(labels.shape, generator=g) < 0.2] = NONE
    q = torch.randn(shape, generator=g, dtype=torch.float64).mul(3).softmax(1)
    q = q.where(torch.rand(shape, generator=g) < 0.7, 0.0).to(dtype)
    weight = torch.rand(shape[1], generator=g).to(dtype)
    weight[torch.rand(shape[1], generator=g) < 0.3] = 0
    return rows, labels, q, weight


@DTYPES
@pytest.mark.parametrize("classes", SHORT)
def test_facts_and_gradients_are_those_of_the_reference(classes, dtype):
    rows, labels, q, weight = problem((40, classes, 1), dtype, seed=classes)
    for target, w, mixed in itertools.product((labels, q), (None, weight), (False, True)):
        facts = reference.row_summary(rows, target, w, NONE, mixed)
        facts_close(kernels.row_summary(rows, target, w, NONE, mixed), facts, dtype)
        hard = torch.full_like(facts.peak, 1.0)
        smooth = torch.full_like(hard, 0.1 / classes) if mixed else None
        args = (rows, target, w, NONE, facts.peak, facts.rest, hard, smooth)
        size = None if smooth is None and target is labels else larger_term(args)
        close(kernels.row_grad(*args), reference.row_grad(*args), budget(dtype), size)


@DTYPES
@pytest.mark.parametrize("classes", [1, 17, 130])
def test_softmax_and_its_gradient_are_those_of_the_reference(classes, dtype):
    rows, _, _, _ = problem((40, classes, 1), dtype, seed=classes + 1)
    slope = torch.rand(rows.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for log in (False, True):
        out, peak, rest = kernels.softmax(rows, log, dtype)
        want, *facts = reference.softmax(rows, log, dtype)
        close(out, want, budget(dtype))
        facts_close((peak, rest), facts, dtype, unit=True)
    fine = facts[1].isfinite().squeeze(1)  # where there is a softmax
    rows, slope, facts = rows[fine], slope[fine], [fact[fine] for fact in facts]
    got, want = (backend.softmax_grad(rows, *facts, slope) for backend in (kernels, reference))
    p = reference.softmax(rows, False, torch.float64)[0]
    mean = (p * slope.double()).sum(1, keepdim=True)
    close(got, want, budget(dtype), (p * (slope.double().abs() + mean)).to(dtype))


SUMS = [
    {"num_items": 7},
    {"num_items": 0, "all_ignored": "zero"},
    {"num_items": torch.tensor(3.0)},
    {"all_ignored": "zero"},
    {"all_ignored": "zero", "ignore_index": 1},
    {"dtype": torch.float64, "reduction": "none"},
    {"dtype": torch.float64},
    {"dtype": torch.bfloat16, "reduction": "sum"},
]


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.long), torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", SUMS, ids=str)
def test_what_is_done_to_the_sum_on_the_short_way(options, dtype, monkeypatch):
    x, y, found, ways = torch.randn(6, 70).to(dtype).requires_grad_(), torch.ones(6, dtype=torch.int64), [], []
    if "ignore_index" not in options:
        y = torch.arange(6)
    for serves in (xent.ops.device.serves, lambda *_: False):
        monkeypatch.setattr(xent.ops.device, "serves", serves)
        loss = xent.cross_entropy(x, y, **options)
        ways.append(type(loss.grad_fn).__name__)
        found.append((loss.detach(), *torch.autograd.grad(loss.sum() * 0.5, x)))
    assert ways[0] != ways[1]
    for got, want in zip(*found, strict=True):
        # the long way takes the facts as a float32 loss needs them
        eps = max(2 * torch.finfo(got.dtype).eps, 2.0**-26)
        torch.testing.assert_close(got, want, rtol=eps, atol=1e-30, equal_nan=True)


@DTYPES
@pytest.mark.parametrize("log", [False, True])
def test_the_short_way_of_softmax_is_the_long_way(log, dtype, monkeypatch):
    function = xent.log_softmax if log else xent.softmax
    slope = torch.rand(4, 70, 3).to(dtype)
    x = torch.randn(4, 70, 3).to(dtype).requires_grad_()
    found, ways = [], []
    for serves in (xent.ops.direct.serves_softmax, lambda *_: False):
        monkeypatch.setattr(xent.ops.direct, "serves_softmax", serves)
        out = function(x, 1)
        found.append((out, *torch.autograd.grad(out, x, slope)))
        ways.append(type(out.grad_fn).__name__)
    assert ways[0] != ways[1]
    same(*found)


def losses_and_gradient(rows, target, **options):
    x = rows.detach().requires_grad_()
    out = xent.cross_entropy(x, target, **options)
    (grad,) = torch.autograd.grad(out.sum(), x)
    return out.detach(), grad


@quick((3, torch.float64), (3, torch.bfloat16))
def test_the_short_way_is_the_long_way(classes, dtype, monkeypatch):
    """The loss and its gradient in a few kernels, and by way of the algebra."""
    rows, labels, q, weight = problem((40, classes, 1), dtype, seed=classes + 2)
    rows = rows.where(rows.isfinite(), 0.0).squeeze(2)
    for target, w, smoothing, reduction in itertools.product(
        (labels.squeeze(1), q.squeeze(2)), (None, weight), (0.0, 0.1), ("mean", "sum", "none")
    ):
        options = {"weight": w, "label_smoothing": smoothing, "reduction": reduction}
        got = losses_and_gradient(rows, target, **options)
        with monkeypatch.context() as patch:
            patch.setattr(xent.ops.device, "serves", lambda *_: False)
            want = losses_and_gradient(rows, target, **options)
        for a, b in zip(got, want, strict=True):
            # a subnormal float16 is known to a step, whichever way it was rounded
            step = max(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps, 1e-30)
            torch.testing.assert_close(a, b, rtol=2 * torch.finfo(dtype).eps, atol=step, equal_nan=True)


@DTYPES
def test_a_gradient_has_the_same_bits_in_either_pass(dtype, monkeypatch):
    """Whatever comes from upstream, a second time too; and the forward pass makes it, of rows of one tile."""
    from xent.backends.triton import losses

    rows, labels, q, weight = problem((40, 17, 1), dtype, seed=21)
    rows = rows.where(rows.isfinite(), 0.0).squeeze(2)
    wide = rows.repeat(1, 4)
    made, whole = [], losses.loss_and_gradient
    monkeypatch.setattr(losses, "loss_and_gradient", lambda *a: (made.append(whole(*a)), made[-1])[1])
    asked = [(None, 0.0, "mean"), (weight, 0.1, "mean"), (None, 0.1, "sum"), (weight, 0.0, "sum")]
    cases = [(rows, labels.squeeze(1), *of, True) for of in asked]
    cases += [(rows, labels.squeeze(1), None, 0.0, "none", False), (rows, q.squeeze(2), None, 0.0, "mean", False)]
    cases += [(wide, labels.squeeze(1), None, 0.0, "mean", False)]
    for logits, target, w, smoothing, reduction, early in cases:
        found = []
        for limit in (True, False):
            xent.set_grad_in_forward(limit)
            x = logits.detach().requires_grad_()
            loss = xent.cross_entropy(
                x, target, w if logits is rows else None, label_smoothing=smoothing, reduction=reduction
            )
            grads = [torch.autograd.grad(loss.sum() * factor, x, retain_graph=True)[0] for factor in (1.0, 1.0, 0.3)]
            found.append((loss.detach(), *grads, *torch.autograd.grad(loss.sum() * 0.3, x)))
        assert (made.pop() is not None) == early, (smoothing, reduction)
        made.clear()
        same(*found)
    xent.set_grad_in_forward(None)
    xent.cross_entropy(rows.requires_grad_(), labels.squeeze(1))
    assert not made  # not unless it is asked for


@pytest.mark.parametrize("target", [torch.tensor(1), torch.tensor([1]), torch.tensor([0.2, 0.3, 0.5]).double()])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_one_row_of_one_dimension_and_its_second_derivatives(target, reduction):
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    options = {"reduction": reduction, "label_smoothing": 0.1}
    row = target if target.is_floating_point() else target.reshape(())
    found = []
    for function, y in ((xent.cross_entropy, target), (torch.nn.functional.cross_entropy, row)):
        loss = function(x, y, **options)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        found.append((loss, slope, *torch.autograd.grad(slope[0], x)))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-15)


@quick((3, torch.float64), (3, torch.bfloat16), (130, torch.float32))
def test_a_row_alone_strides_and_programs_change_no_bit(classes, dtype, monkeypatch):
    from xent.backends.triton import cut, programs

    rows, labels, q, _ = problem((37, classes, 1), dtype, seed=classes + 3)
    rows, labels, q = rows.squeeze(2), labels.squeeze(1), q.squeeze(2)
    options = {"reduction": "none", "label_smoothing": 0.1}
    for target in (labels, q):
        want = losses_and_gradient(rows, target, **options)
        for i in (0, 9, 36):
            same(losses_and_gradient(rows[i : i + 1], target[i : i + 1], **options), [x[i : i + 1] for x in want])
        wide = torch.zeros(37, 2 * classes + 3, dtype=dtype)[:, 1 : 2 * classes + 1 : 2].copy_(rows)
        for other in (wide, rows.t().contiguous().t()):
            same(losses_and_gradient(other, target, **options), want)
        monkeypatch.setattr(cut, "PROGRAMS", 16)
        programs.forget()
        same(losses_and_gradient(rows, target, **options), want)
        monkeypatch.setattr(cut, "PROGRAMS", 1)
        programs.forget()
    planes = rows.t().unsqueeze(0).contiguous()  # (1, V, N)
    got = losses_and_gradient(planes, labels.unsqueeze(0), **options)
    want = losses_and_gradient(rows, labels, **options)
    same([got[0][0], got[1][0].t()], want)


def test_the_order_of_rows_changes_no_bit_of_mean_and_sum(monkeypatch):
    from xent.backends.triton import sums

    monkeypatch.setattr(sums, "BLOCK", 64)  # which the fixture's end forgets
    rows, labels, _, weight = problem((500, 3, 1), torch.float32)
    rows, labels = rows.squeeze(2).where(rows.squeeze(2).isfinite(), 0.0), labels.squeeze(1)
    for w, reduction in itertools.product((None, weight + 0.1), ("mean", "sum")):
        want = xent.cross_entropy(rows, labels, weight=w, reduction=reduction)
        for seed in range(3):
            order = torch.randperm(500, generator=torch.Generator().manual_seed(seed))
            same([xent.cross_entropy(rows[order], labels[order], weight=w, reduction=reduction)], [want])


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 5000])
def test_sums_are_exact(count, scale, monkeypatch):
    from xent.backends.triton import sums

    monkeypatch.setattr(sums, "BLOCK", 64 if count < 5000 else 4096)
    values = torch.randn(3, count, dtype=torch.float64).mul(30).exp().mul(1e-40 * scale)
    values[:, ::2] *= -1
    same([kernels.exact_sum(values)], [_algebra.exact_sum(values)])
    for odd in (INF, -INF, NAN):
        values[1, -1] = odd
        same([kernels.exact_sum(values)], [_algebra.exact_sum(values)])


@pytest.mark.parametrize("dtype", LABELS, ids=lambda d: str(d)[6:])
def test_labels_of_every_integer_dtype(dtype):
    g = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(50, 100, 1, generator=g), torch.randint(0, 100, (50, 1), generator=g)
    want = kernels.row_summary(rows, labels, None, 7, False)
    same(kernels.row_summary(rows, labels.to(dtype), None, 7, False), want)


def test_a_wrong_label_has_the_loss_nan_the_gradient_0_and_is_told_later(monkeypatch):
    from xent.backends.triton import flags

    monkeypatch.setattr(flags, "eager", lambda device: False)  # as on a GPU
    rows, labels = torch.randn(6, 5), torch.tensor([0, 5, 1, -1, -100, 2])
    x = rows.clone().requires_grad_()
    losses = xent.cross_entropy(x, labels, reduction="none")
    losses.nansum().backward()
    assert losses.isnan().tolist() == [False, True, False, True, False, False]
    assert (x.grad != 0).any(1).tolist() == [True, False, True, False, False, True]
    with pytest.raises(xent.TargetError, match=r"classes are 0 \.\.\. 4\): row 1 has 5, row 3 has -1; 2 or more rows"):
        xent.check()
    xent.check()  # told once
    xent.cross_entropy(rows, labels)
    with pytest.raises(xent.TargetError, match="an earlier call on cpu"):
        xent.cross_entropy(rows, labels.clamp(0, 4))
    assert xent.cross_entropy(rows, labels.clamp(0, 4)).isfinite()


@pytest.mark.parametrize("dtype", LABELS, ids=lambda d: str(d)[6:])
def test_labels_are_found_without_waiting(dtype, monkeypatch):
    from xent.backends.triton import flags

    monkeypatch.setattr(flags, "eager", lambda device: False)  # as on a GPU
    g = torch.Generator().manual_seed(0)
    given = torch.randint(0, 100, (3000,), generator=g)
    given[::7] = 99
    target = given.to(dtype).reshape(3, 1000)
    want = given.where(given != 99, -1).reshape(3, 1000)
    with waiting.forbidden():
        found = kernels.labels(target, 100, 99)
    same([found], [want])
    xent.check()
    target[2, 5] = 100
    same([kernels.labels(target, 100, 99)[2, 4:7]], [torch.tensor([want[2, 4], -2, want[2, 6]])])
    with pytest.raises(xent.TargetError, match="row 2005 has 100; 1 or more"):
        xent.check()


ASKED = [
    {},
    {"reduction": "sum", "label_smoothing": 0.1},
    {"weight": torch.rand(70), "reduction": "none"},
    {"token_weight": torch.rand(5), "all_ignored": "zero"},
    {"num_items": 3, "dtype": torch.float64},
    {"softcap": 5.0, "z_loss": 0.1, "shift": 1},
]


@pytest.mark.parametrize("options", ASKED, ids=" ".join)
def test_the_host_never_waits(options, monkeypatch):
    from xent.backends.triton import flags

    monkeypatch.setattr(flags, "eager", lambda device: False)
    x, labels = torch.randn(5, 70, requires_grad=True), torch.tensor([0, 69, -100, 3, 4])
    targets = [labels] if "shift" in options else [labels, torch.rand(5, 70)]
    with waiting.forbidden():
        for target in targets:
            xent.cross_entropy(x, target, **options).sum().backward()
        (xent.softmax(x, 1) + xent.log_softmax(x, 1)).square().sum().backward()
        stats = xent.cross_entropy_with_stats(x, labels, **options)
        (stats.loss.sum() + stats.entropy.sum()).backward()
    assert x.grad.isfinite().all()
    xent.check()


def test_nll_of_a_wrong_label_is_told_later(monkeypatch):
    from xent.backends.triton import flags

    monkeypatch.setattr(flags, "eager", lambda device: False)
    log_p, labels = torch.randn(4, 5).log_softmax(1).requires_grad_(), torch.tensor([0, 5, -100, 4])
    with waiting.forbidden():
        losses = xent.nll_loss(log_p, labels, reduction="none")
        losses.nansum().backward()
    assert losses.isnan().tolist() == [False, True, False, False]
    assert log_p.grad.nonzero().tolist() == [[0, 0], [3, 4]]
    with pytest.raises(xent.TargetError, match="row 1 has 5; 1 or more"):
        xent.check()
    with waiting.forbidden():
        mean = xent.nll_loss(log_p, labels, torch.rand(5))
    assert mean.isnan()
    with pytest.raises(xent.TargetError, match="row 1 has 5; 1 or more"):
        xent.check()


def test_on_a_cpu_and_where_asked_a_wrong_label_is_told_at_once(monkeypatch):
    from xent.backends.triton import flags

    with pytest.raises(xent.TargetError, match=r"target\[1\] = 5"):
        xent.cross_entropy(torch.randn(2, 5), torch.tensor([0, 5]))
    monkeypatch.setattr(flags, "_mode", "deferred")
    assert not flags.eager(torch.device("cuda"))
    xent.set_checks("eager")
    assert flags.eager(torch.device("cuda"))
    with pytest.raises(xent.OptionError, match="'deferred' or 'eager'"):
        xent.set_checks("sometimes")


def test_masks_of_every_width_and_peaks_at_every_place():
    """Tiles of nothing but masks, one class that is not masked, peaks in the last class, ties between tiles."""
    for dtype in (torch.float32, torch.bfloat16):
        rows = torch.full((6, 200, 1), -INF, dtype=dtype)
        rows[1, 199] = 3
        rows[2, 64] = -1e30
        rows[3, ::64] = 2
        rows[4, 128:] = torch.linspace(-300, 0, 72).unsqueeze(1).to(dtype)
        rows[5, :65] = 65504.0
        labels = torch.tensor([[0], [199], [64], [64], [199], [64]])
        facts = reference.row_summary(rows, labels, None, NONE, False)
        facts_close(kernels.row_summary(rows, labels, None, NONE, False), facts, dtype)
        args = (rows, labels, None, NONE, facts.peak, facts.rest, torch.ones_like(facts.peak), None)
        close(kernels.row_grad(*args), reference.row_grad(*args), budget(dtype))


def test_a_gradient_in_the_place_of_its_logits():
    """Of several tiles, where a label's logit lies in another one."""
    rows, labels, _, _ = problem((40, 130, 1), torch.float32, seed=4)
    facts = reference.row_summary(rows, labels, None, NONE, False)
    call = labels, None, NONE, facts.peak, facts.rest, torch.ones_like(facts.peak), None
    want, place = kernels.row_grad(rows, *call), rows.clone()
    assert kernels.row_grad(place, *call, place) is place
    same([place], [want])


@pytest.mark.parametrize("factor", [2.0**70, 2.0**-70, 2.0**-120])
def test_factors_far_from_1(factor):
    rows, labels, _, _ = problem((30, 130, 1), torch.float32, seed=9)
    facts = reference.row_summary(rows, labels, None, NONE, False)
    args = (rows, labels, None, NONE, facts.peak, facts.rest, torch.full_like(facts.peak, factor), None)
    close(kernels.row_grad(*args), reference.row_grad(*args), budget(torch.float32))


def test_no_import_of_triton_without_need():
    """By xent; torch imports it when it likes."""
    code = (
        "import sys, torch, xent; xent.cross_entropy(torch.randn(2, 3), torch.tensor([0, 1]));"
        "from xent import backends; backends.refusals(torch.device('cuda'));"
        "print('xent.backends.triton.calls' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", ["autocast", "dtype"])
def test_a_float32_loss_of_16_bit_logits_has_its_digits(family, how):
    """The special function unit is good to 2**-15 of exp at 80 nats, which bfloat16 does not see and float32 does."""
    logits, labels = FAMILIES[family](6, 130, torch.Generator().manual_seed(1))
    logits = logits.bfloat16()
    truth = Truth(long(logits), attraction(labels, 130))
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        dtype = torch.float32 if how == "dtype" else None
        losses = xent.cross_entropy(logits, labels, reduction="none", dtype=dtype)
        mean = xent.cross_entropy(logits, labels, dtype=dtype)
    assert losses.dtype is mean.dtype is torch.float32
    assert error(losses, truth.loss) <= 4
    assert error(mean.reshape(1), truth.loss.mean(keepdims=True)) <= 4
