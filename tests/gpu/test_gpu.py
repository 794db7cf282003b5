"""What takes a GPU: no waiting, streams, graphs, the compiler, many elements; and the numbers once more, compiled."""

import itertools

import numpy as np
import pytest
import torch

import xent
from xent.backends import reference
from xent.backends import triton as kernels

from ..backends.test_native import DTYPES, NONE, close, larger_term
from ..backends.test_triton import budget, facts_close, losses_and_gradient, problem, same
from ..cases import FAMILIES
from ..oracle import Truth, attraction, error, long
from ..test_accuracy import PROMISED, ROUNDED, _teacher, _weight

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CLASSES = [1, 17, 64, 130, 4096, 8193, 20_000]


def there(*tensors):
    return [None if t is None else t.cuda() for t in tensors]


@pytest.fixture(autouse=True)
def clean():
    yield
    xent.check()  # no test leaves a wrong label behind


@DTYPES
@pytest.mark.parametrize("classes", CLASSES)
def test_facts_and_gradients_are_those_of_the_reference(classes, dtype):
    rows, labels, q, weight = there(*problem((40, classes, 1), dtype, seed=classes))
    for target, w, mixed in itertools.product((labels, q), (None, weight), (False, True)):
        facts = reference.row_summary(rows, target, w, NONE, mixed)
        facts_close(
            [f.cpu() for f in kernels.row_summary(rows, target, w, NONE, mixed)], [f.cpu() for f in facts], dtype
        )
        hard = torch.full_like(facts.peak, 1.0)
        smooth = torch.full_like(hard, 0.1 / classes) if mixed else None
        args = (rows, target, w, NONE, facts.peak, facts.rest, hard, smooth)
        size = None
        if smooth is not None or target is q:
            size = larger_term([a.cpu() if isinstance(a, torch.Tensor) else a for a in args])
        close(kernels.row_grad(*args).cpu(), reference.row_grad(*args).cpu(), budget(dtype), size)


def check(logits, target, dtype, weight=None, smoothing=0.0):
    truth = Truth(long(logits), attraction(target, logits.shape[1], weight, smoothing))
    loss_ulp, grad_ulp, log_ulp, p_ulp = PROMISED.get(dtype, ROUNDED)
    x, y, w = there(logits, target, weight)
    losses, grad = losses_and_gradient(x, y, weight=w, label_smoothing=smoothing, reduction="none")
    soft = target.is_floating_point() or smoothing > 0
    found = {
        "loss": (error(losses.cpu(), truth.loss), loss_ulp),
        "gradient": (error(grad.cpu(), truth.grad, truth.grad_size if soft else None), grad_ulp),
        "log_softmax": (error(xent.log_softmax(x, 1).cpu(), truth.log_p), log_ulp),
        "softmax": (error(xent.softmax(x, 1).cpu(), truth.p), p_ulp),
    }
    assert all(got <= allowed for got, allowed in found.values()), found


@DTYPES
@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="no 80-bit floats on this machine")
@pytest.mark.parametrize("name", FAMILIES)
def test_accuracy(name, dtype):
    for classes, rows in {2: 300, 10: 300, 127: 40, 1000: 12, 1025: 12, 32000: 2, 128256: 1}.items():
        logits, labels = FAMILIES[name](rows, classes, torch.Generator().manual_seed(classes))
        logits = logits.to(dtype)
        if logits.isposinf().any():  # 1e30 is no float16
            continue
        check(logits, labels, dtype)
        if classes <= 1000 and name != "masked":
            check(logits, labels, dtype, _weight(classes, dtype), 0.125)
            check(logits, _teacher("certain", logits, labels).to(dtype), dtype)


@DTYPES
@pytest.mark.parametrize("classes", [2, 10, 65, 1000, 8193, 131_073])
def test_a_row_alone_strides_and_layout_change_no_bit(classes, dtype):
    count = 37 if classes < 10_000 else 3
    rows, labels, q, _ = there(*problem((count, classes, 1), dtype, seed=classes))
    rows, labels, q = rows.squeeze(2), labels.squeeze(1), q.squeeze(2)
    options = {"reduction": "none", "label_smoothing": 0.1}
    for target in (labels, q):
        want = losses_and_gradient(rows, target, **options)
        for i in range(0, count, 9):
            same(losses_and_gradient(rows[i : i + 1], target[i : i + 1], **options), [x[i : i + 1] for x in want])
        wide = torch.zeros(count, 2 * classes + 3, dtype=dtype, device="cuda")[:, 1 : 2 * classes + 1 : 2].copy_(rows)
        shifted = torch.zeros(rows.numel() + 1, dtype=dtype, device="cuda")[1:].view_as(rows).copy_(rows)
        for other in (wide, shifted, rows.t().contiguous().t()):
            same(losses_and_gradient(other, target, **options), want)
        many = losses_and_gradient(rows.repeat(300, 1), target.repeat(*(300, 1)[: target.ndim]), **options)
        same([x[:count] for x in many], want)
    planes = rows.t().unsqueeze(0).contiguous()
    got, want = (
        losses_and_gradient(planes, labels.unsqueeze(0), **options),
        losses_and_gradient(rows, labels, **options),
    )
    same([got[0][0], got[1][0].t()], want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_order_of_rows_changes_no_bit_of_mean_and_sum(dtype):
    rows, labels = (
        torch.randn(20_000, 10, device="cuda").mul(8).to(dtype),
        torch.randint(0, 10, (20_000,), device="cuda"),
    )
    for weight, reduction in itertools.product((None, torch.rand(10, device="cuda")), ("mean", "sum")):
        want = xent.cross_entropy(rows, labels, weight=weight, reduction=reduction)
        order = torch.randperm(20_000, device="cuda")
        same([xent.cross_entropy(rows[order], labels[order], weight=weight, reduction=reduction)], [want])


def step(logits, target, **options):
    loss = xent.cross_entropy(logits, target, **options)
    (grad,) = torch.autograd.grad(loss, logits)
    return loss, grad


@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}, {"label_smoothing": 0.1}])
def test_the_host_never_waits(options):
    logits = torch.randn(300, 9000, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    target = torch.randint(0, 9000, (300,), device="cuda")
    want = step(logits, target, **options)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = step(logits, target, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    same(got, want)


def test_a_cuda_graph_replays_it():
    logits = torch.randn(64, 1000, device="cuda", requires_grad=True)
    target = torch.randint(0, 1000, (64,), device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(logits, target)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step(logits, target)
    with torch.no_grad():
        logits.copy_(torch.randn(64, 1000))
    graph.replay()
    same(got, step(logits, target))


def test_a_stream_of_its_own():
    logits, target = torch.randn(2000, 9000, device="cuda"), torch.randint(0, 9000, (2000,), device="cuda")
    want = losses_and_gradient(logits, target)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = losses_and_gradient(logits, target)
    stream.synchronize()
    same(got, want)


def test_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    logits, target = torch.randn(20, 90, device="cuda:1"), torch.randint(0, 90, (20,), device="cuda:1")
    same([x.cpu() for x in losses_and_gradient(logits, target)],
         [x.cpu() for x in losses_and_gradient(logits.to("cuda:0"), target.to("cuda:0"))])  # fmt: skip


def test_autocast_computes_in_float32():
    logits = torch.randn(100, 1000, device="cuda", dtype=torch.bfloat16)
    target = torch.randint(0, 1000, (100,), device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = xent.cross_entropy(logits, target)
    assert loss.dtype is torch.float32
    truth = Truth(long(logits.cpu()), attraction(target.cpu(), 1000)).loss.mean()
    assert error(loss.cpu().reshape(1), np.array([truth])) <= 4


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_without_a_break(dynamic):
    def function(x, y):
        return xent.cross_entropy(x * 2, y, label_smoothing=0.1)

    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic)
    for n in (50, 70):
        x = torch.randn(n, 300, device="cuda", requires_grad=True)
        y = torch.randint(0, 300, (n,), device="cuda")
        for f in (function, compiled):
            x.grad = None
            loss = f(x, y)
            loss.backward()
            if f is function:
                want = loss.detach(), x.grad
        torch.testing.assert_close((loss.detach(), x.grad), want, rtol=1e-6, atol=1e-9)


def test_opcheck():
    rows, labels, q, weight = there(*problem((5, 100, 1), torch.float32))
    rows = rows.where(rows.isfinite(), 0.0)
    for target in (labels, q):
        torch.library.opcheck(torch.ops.xent.row_summary.default, (rows, target, weight, NONE, True))
        facts = kernels.row_summary(rows, target, weight, NONE, True)
        one = torch.ones_like(facts.peak)
        torch.library.opcheck(
            torch.ops.xent.row_grad.default, (rows, target, weight, NONE, facts.peak, facts.rest, one, one)
        )
    torch.library.opcheck(torch.ops.xent.softmax.default, (rows, False, torch.float32))
    torch.library.opcheck(torch.ops.xent.softmax_grad.default, (rows, facts.peak, facts.rest, q))
    torch.library.opcheck(torch.ops.xent.exact_sum.default, (torch.rand(3, 9, dtype=torch.float64, device="cuda"),))


def test_a_wrong_label_leaves_the_gpu_alive():
    logits = torch.randn(9, 50, device="cuda", requires_grad=True)
    target = torch.arange(9, device="cuda")
    target[4], target[7] = 50, -3
    losses = xent.cross_entropy(logits, target, reduction="none")
    losses.nansum().backward()
    assert losses.isnan().nonzero().flatten().tolist() == [4, 7]
    assert not logits.grad[[4, 7]].any()
    with pytest.raises(xent.TargetError, match="row 4 has 50, row 7 has -3"):
        xent.check()
    xent.set_checks("eager")
    try:
        with pytest.raises(xent.TargetError, match=r"target\[4\] = 50, target\[7\] = -3"):
            xent.cross_entropy(logits, target)
    finally:
        xent.set_checks("deferred")


def test_second_derivatives():
    x = torch.randn(4, 6, device="cuda", dtype=torch.float64, requires_grad=True)
    y = torch.randint(0, 6, (4,), device="cuda")
    assert torch.autograd.gradgradcheck(lambda x: xent.cross_entropy(x, y, label_smoothing=0.1), x)


def test_more_than_two_to_the_31_elements():
    rows, classes = 17_000, 128_256  # 2.18e9: 4.4 GB in bfloat16
    logits = torch.empty(rows, classes, device="cuda", dtype=torch.bfloat16)
    logits.normal_()
    target = torch.randint(0, classes, (rows,), device="cuda")
    losses, grad = losses_and_gradient(logits, target, reduction="none")
    want, slope = losses_and_gradient(logits[-3:], target[-3:], reduction="none")
    same((losses[-3:], grad[-3:]), (want, slope))
    assert losses.isfinite().all()


def test_a_million_classes_and_one_row():
    logits = torch.randn(1, 1_000_000, device="cuda")
    target = torch.tensor([999_999], device="cuda")
    truth = Truth(long(logits.cpu()), attraction(target.cpu(), 1_000_000))
    losses, grad = losses_and_gradient(logits, target)
    assert error(losses.cpu().reshape(1), truth.loss) <= 2
    assert error(grad.cpu(), truth.grad) <= 3


def test_images_with_the_classes_in_the_middle():
    x = torch.randn(2, 21, 64, 48, device="cuda")
    y = torch.randint(0, 21, (2, 64, 48), device="cuda")
    want = losses_and_gradient(x, y)
    got = losses_and_gradient(x.to(memory_format=torch.channels_last), y)
    same(got, want)
    assert got[1].is_contiguous(memory_format=torch.channels_last)


HEADS = [{}, {"label_smoothing": 0.1}, {"reduction": "sum"}, {"softcap": 30.0}, {"z_loss": 1e-4}, {"num_items": 90}]


def head(rows, width, classes, dtype):
    hidden = torch.randn(rows, width, device="cuda", dtype=dtype).requires_grad_()
    weight = (torch.randn(classes, width, device="cuda") / width**0.5).to(dtype).requires_grad_()
    target = torch.randint(0, classes, (rows,), device="cuda")
    target[::7] = -100
    return hidden, weight, target


def head_step(function, hidden, weight, target, factor=1.0, **options):
    loss = function(hidden, weight, target, **options)
    return loss.detach(), *torch.autograd.grad(loss * factor, (hidden, weight))


@DTYPES
@pytest.mark.parametrize("options", HEADS, ids=str)
def test_a_linear_head_is_that_of_its_logits(options, dtype):
    hidden, weight, target = head(300, 64, 9000, dtype)

    def written_out(hidden, weight, target, **options):
        return xent.cross_entropy(torch.nn.functional.linear(hidden, weight), target, **options)

    doubles = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    want = head_step(written_out, *doubles, target, factor=0.25, **options)
    got = head_step(xent.linear_cross_entropy, hidden, weight, target, factor=0.25, **options)
    for a, b in zip(got, want, strict=True):
        assert a.dtype is dtype
        size = b.abs().max().item()
        torch.testing.assert_close(a.double(), b, rtol=0, atol=16 * torch.finfo(dtype).eps * size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("budget", [None, 60 << 20])
def test_no_head_makes_the_host_wait(budget, dtype):
    hidden, weight, target = head(3000, 64, 20_000, dtype)
    options = {"memory_budget": budget, "label_smoothing": 0.1, "num_items": 2000}
    want = head_step(xent.linear_cross_entropy, hidden, weight, target, factor=0.5, **options)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = head_step(xent.linear_cross_entropy, hidden, weight, target, factor=0.5, **options)
        stats = xent.linear_cross_entropy_with_stats(hidden, weight, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    same(got, want)
    assert stats.loss.isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tiles_of_a_head_change_its_gradients_by_rounding_alone(dtype):
    hidden, weight, target = head(3000, 64, 20_000, dtype)
    want = head_step(xent.linear_cross_entropy, hidden, weight, target)
    for least in (1, 60 << 20, 200 << 20):
        got = head_step(xent.linear_cross_entropy, hidden, weight, target, memory_budget=least)
        for a, b in zip(got, want, strict=True):
            eps = 8 * torch.finfo(dtype).eps
            torch.testing.assert_close(a, b, rtol=eps, atol=eps * b.abs().max().item())


def test_the_memory_of_a_head():
    """A tile of 512 MiB, and what adds up in float32."""
    hidden, weight, target = head(8192, 256, 128_256, torch.bfloat16)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    xent.linear_cross_entropy(hidden, weight, target).backward()
    beyond = torch.cuda.max_memory_allocated() - before - hidden.nbytes - weight.nbytes  # the gradients
    assert beyond <= (512 << 20) + 2 * weight.nbytes + (16 << 20)


def test_a_wrong_label_of_a_head_leaves_the_gpu_alive():
    hidden, weight, target = head(50, 16, 300, torch.float32)
    target[4], target[8] = 300, -3
    losses = xent.linear_cross_entropy(hidden, weight, target, reduction="none")
    torch.autograd.grad(losses.nansum(), hidden)
    assert losses.isnan().nonzero().flatten().tolist() == [4, 8]
    with pytest.raises(xent.TargetError, match="row 4 has 300, row 8 has -3"):
        xent.check()


def test_nll_makes_the_host_not_wait():
    log_p = torch.randn(300, 9000, device="cuda").log_softmax(1).requires_grad_()
    target = torch.randint(0, 9000, (300,), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        xent.nll_loss(log_p, target).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert log_p.grad.isfinite().all()


def test_a_cuda_graph_replays_a_head():
    hidden, weight, target = head(500, 64, 3000, torch.bfloat16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        head_step(xent.linear_cross_entropy, hidden, weight, target)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = head_step(xent.linear_cross_entropy, hidden, weight, target)
    with torch.no_grad():
        hidden.copy_(torch.randn(500, 64))
    graph.replay()
    same(got, head_step(xent.linear_cross_entropy, hidden, weight, target))


@DTYPES
@pytest.mark.parametrize("classes", [2, 10, 100, 1000, 2048])
def test_a_gradient_has_the_same_bits_in_either_pass(classes, dtype):
    logits, target = (
        torch.randn(3000, classes, device="cuda").mul(5).to(dtype),
        torch.arange(3000, device="cuda") % classes,
    )
    target[::9] = -100
    weight = torch.rand(classes, device="cuda")
    for factor, options in itertools.product(
        (1.0, 0.3), ({}, {"reduction": "sum"}, {"weight": weight, "label_smoothing": 0.1})
    ):
        found = []
        for early in (True, False):
            xent.set_grad_in_forward(early)
            x = logits.detach().requires_grad_()
            loss = xent.cross_entropy(x, target, **options)
            found.append((loss.detach(), *torch.autograd.grad(loss * factor, x)))
        xent.set_grad_in_forward(None)
        same(*found)
