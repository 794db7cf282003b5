"""A linear head as on a GPU, in Triton's interpreter: nobody waits, ignored rows stay, a tile is one block."""

import functools
import itertools

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import xent
from xent import backends
from xent.backends import triton as kernels
from xent.ops import device_linear, head, tiles
from xent.ops.head import rows_of
from xent.summary import RowSummary

from .. import waiting

pytestmark = pytest.mark.skipif(
    kernels.serves(torch.device("cpu")) is not None, reason="no Triton, or a GPU to run it on"
)


@pytest.fixture
def far(monkeypatch):
    """Turns the host's knowledge off."""
    from xent.backends.triton import cut, flags, programs

    monkeypatch.setattr(backends, "TABLE", (kernels,))
    monkeypatch.setattr(cut, "PROGRAMS", 1)
    programs.forget()

    def begin():
        monkeypatch.setattr(flags, "eager", lambda device: False)
        for module in (head, tiles, device_linear):
            monkeypatch.setattr(module, "at_hand", lambda tensor: False)

    yield begin
    programs.forget()


def problem(rows, classes, dtype, width=6):
    g = torch.Generator().manual_seed(classes)
    tensors = (torch.randn(size, generator=g) for size in ((rows, width), (classes, width), (classes,)))
    hidden, weight, bias = (t.to(dtype).requires_grad_() for t in tensors)
    target = torch.randint(0, classes, (rows,), generator=g)
    target[::5] = -100
    return hidden, weight, bias, target, torch.rand(classes, generator=g)


def step(function, head, *args, factor=1.0, **options):
    """Loss and gradients; the number upstream is 1 or not."""
    hidden, weight, bias = head
    loss = function(hidden, weight, *args, linear_bias=bias, **options)
    value = loss.loss if isinstance(loss, tuple) else loss
    if isinstance(loss, tuple):
        value = value + loss.entropy.sum() + 0.1 * loss.log_prob.sum()
    (value * factor).sum().backward()
    grads = [t.grad for t in head]
    for t in head:
        t.grad = None
    return [t.detach() for t in (loss if isinstance(loss, tuple) else (loss,))], grads


def close(got, want, dtype):
    """Losses; gradients by the largest of each, for sums of 16-bit products are rounded on the way."""
    eps = max(torch.finfo(dtype).eps, 2.0**-40)
    for a, b in zip(got[0], want[0], strict=True):
        torch.testing.assert_close(a, b, rtol=8 * eps, atol=8 * eps, equal_nan=True)
    for a, b in zip(got[1], want[1], strict=True):
        assert a.dtype is dtype
        torch.testing.assert_close(a, b, rtol=8 * eps, atol=8 * eps * b.abs().max().item())


MOST = pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.float64, marks=pytest.mark.long),
        torch.float32,
        torch.bfloat16,
        pytest.param(torch.float16, marks=pytest.mark.long),
    ],
    ids=str,
)
OPTIONS = [
    {},
    {"reduction": "sum", "label_smoothing": 0.1},
    {"reduction": "none"},
    {"weight": True, "label_smoothing": 0.1},
    {"softcap": 3.0, "logit_scale": 0.5},
    {"z_loss": 0.01, "num_items": 7},
    {"token_weight": True},
]


@MOST
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_the_head_of_a_cpu(options, dtype, far):
    *tensors, target, weight = problem(23, 130, dtype)
    options = options | ({"weight": weight} if "weight" in options else {})
    options = options | ({"token_weight": torch.rand(23)} if "token_weight" in options else {})
    want = step(xent.linear_cross_entropy, tensors, target, factor=0.25, **options)
    far()
    with waiting.forbidden():
        got = step(xent.linear_cross_entropy, tensors, target, factor=0.25, **options)
    close(got, want, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_in_tiles_of_some_rows_and_classes(soft, dtype, far, monkeypatch):
    from xent import _plan

    monkeypatch.setattr(_plan, "CLASSES", 64)
    monkeypatch.setattr(tiles, "CLASSES", 64)
    monkeypatch.setattr(_plan, "block_rows", lambda dtype: 16)
    *tensors, target, weight = problem(39, 150, dtype)
    if soft:
        target = torch.randn(39, 150).softmax(1).to(dtype)
    options = {"weight": weight, "label_smoothing": 0.1, "memory_budget": 1}
    want = step(xent.linear_cross_entropy, tensors, target, **options)
    far()
    with waiting.forbidden():
        got = step(xent.linear_cross_entropy, tensors, target, **options)
    close(got, want, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_by_products(dtype, far):
    *tensors, target, _ = problem(23, 130, dtype)
    want = step(xent.linear_cross_entropy_with_stats, tensors, target)
    far()
    with waiting.forbidden():
        got = step(xent.linear_cross_entropy_with_stats, tensors, target)
    close(got, want, dtype)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_wrong_label_is_told_later(reduction, far, monkeypatch):
    from xent.backends.triton import flags

    hidden, weight, bias, target, _ = problem(23, 130, torch.float32)
    far()
    target[7], target[8] = 130, -3
    asked = {"linear_bias": bias, "reduction": reduction}
    with monkeypatch.context() as patch, waiting.forbidden():
        patch.setattr(flags, "look", lambda device: None)  # the GPU is far behind
        loss = xent.linear_cross_entropy(hidden, weight, target, **asked)
        (grad,) = torch.autograd.grad(loss.nansum(), hidden)
    assert loss.isnan().tolist() == (True if reduction == "mean" else [n in (7, 8) for n in range(23)])
    if reduction == "none":
        looked_at = [n for n in range(23) if n not in (7, 8) and target[n] >= 0]
        assert grad.any(1).nonzero().squeeze(1).tolist() == looked_at
    assert grad.isfinite().all()
    with pytest.raises(xent.TargetError, match="row 7 has 130, row 8 has -3; 2 or more"):
        xent.check()


def test_nothing_is_asked(far):
    *tensors, target, _ = problem(5, 70, torch.float32)
    far()
    for reduction, nothing in itertools.product(("mean", "sum"), ("nan", "zero")):
        with waiting.forbidden():
            options = {"reduction": reduction, "all_ignored": nothing}
            (loss,), grads = step(xent.linear_cross_entropy, tensors, target.fill_(-100), **options)
        assert loss.isnan() if (reduction, nothing) == ("mean", "nan") else loss == 0
        assert not any(grad.any() for grad in grads)


@MOST
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1, "weight": True}, {"reduction": "sum"}, {"num_items": 7}], ids=" ".join
)
def test_the_short_way_is_the_long_way(options, dtype, far, monkeypatch):
    """In tiles of some rows; float16 has no short way."""
    from xent import _plan

    monkeypatch.setattr(_plan, "block_rows", lambda dtype: 16)
    hidden, weight, bias, target, class_weight = problem(39, 130, dtype)
    options = options | ({"weight": class_weight} if "weight" in options else {})
    budget = 16 * 130 * dtype.itemsize * 2 + 130 * 6 * 8
    far()
    found, ways = [], []
    for serves in (device_linear.serves, lambda plan: False):
        monkeypatch.setattr(
            device_linear, "serves", lambda plan, serves=serves: (ways.append(serves(plan)), ways[-1])[1]
        )
        found.append(step(xent.linear_cross_entropy, (hidden, weight, bias), target, memory_budget=budget, **options))
    assert ways == ([] if dtype is torch.float16 else [True, False])
    close(*found, dtype)


def test_a_second_backward_pass_and_second_derivatives(far):
    *tensors, target, _ = problem(6, 5, torch.float64, width=3)
    far()
    with waiting.forbidden():
        loss = xent.linear_cross_entropy(*tensors[:2], target, linear_bias=tensors[2])
        first, second = (torch.autograd.grad(loss * 3.0, tensors, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))

    def function(*tensors):
        return xent.linear_cross_entropy(*tensors[:2], target, linear_bias=tensors[2])

    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


class Stub:
    """A backend that has shapes, devices and dtypes, and no numbers."""

    name = "stub"

    def serves(self, device):
        return None

    def row_summary(self, rows, *asked):
        return RowSummary(*self._facts(rows, 5))

    def row_spread(self, rows, *asked):
        moment, above, first = self._facts(rows, 3)
        return moment, above, first.to(torch.int64)

    def row_grad(self, rows, target, class_weight, ignore_index, peak, rest, hard, smooth, out=None):
        given = [t for t in (rows, target, class_weight, peak, rest, hard, smooth) if t is not None]
        assert {t.device for t in given} == {rows.device}
        return torch.empty_like(rows) if out is None else out

    def row_spread_grad(self, rows, *numbers):
        return torch.empty_like(rows)

    def exact_sum(self, values):
        return values.new_empty(values.shape[:-1])

    def labels(self, target, classes, ignore_index):
        return torch.empty_like(target, dtype=torch.int64)

    @staticmethod
    def _facts(rows, count):
        return [rows.new_empty((rows.shape[0], rows.shape[2]), dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tight", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_every_tensor_is_on_the_gpu_and_no_number_is_asked_for(mixed, tight, dtype, monkeypatch):
    """The device here is meta, whose tensors have no numbers: one on the CPU among them, or a question, is an error."""
    from xent import _plan
    from xent.ops import linear

    monkeypatch.setattr(backends, "TABLE", (Stub(),))
    monkeypatch.setattr(_plan, "CLASSES", 64)
    monkeypatch.setattr(tiles, "CLASSES", 64)
    monkeypatch.setattr(_plan, "block_rows", lambda dtype: 16)
    budget = 1 if tight else None
    empty = functools.partial(torch.empty, device="meta")
    hidden, weight, bias = (empty(size, dtype=dtype) for size in ((20, 8), (100, 8), (100,)))
    labels, soft = empty(20, dtype=torch.int64), empty(20, 100, dtype=dtype)
    facts, factors = empty(5, 20, dtype=torch.float64), empty(6, 20, dtype=torch.float64)
    shapings = [(None, 1.0), (3.0, 0.5)]
    with waiting.forbidden():
        for target, w, b, shaping in itertools.product((labels, soft), (None, empty(100)), (None, bias), shapings):
            call = hidden, weight, b, target, w, -100, mixed, budget, *shaping
            pulls = factors[0], factors[1] if mixed else None
            for known, told in itertools.product((None, tuple(facts)), (False, target is labels)):
                by_products = tuple(factors[2:]) if told else ()
                found, grads = linear._run(call, known, (*pulls, *by_products), [True, True, b is not None])
                assert {t.device.type for t in (*found, *grads)} == {"meta"}
            assert {t.device.type for t in torch.ops.xent.linear_stats(*call)} == {"meta"}
            head, _ = rows_of(call)
            found = (
                tiles.stats(head, mixed, budget)
                if target is labels
                else (tiles.run(head, mixed, budget, None, None, [False] * 3)[0],)
            )
            assert {t.device.type for part in found for t in part} == {"meta"}


def test_launches_are_kept_apart_by_dtypes(far):
    """Shapes are the same throughout: `tests/interpreter.py` refuses a launch that has other dtypes than before."""
    far()
    for dtype, label, wide, early in [
        (torch.float32, torch.int64, None, False),
        (torch.float32, torch.uint8, torch.float64, False),
        (torch.float32, torch.int64, None, True),
        (torch.bfloat16, torch.int64, None, False),
        (torch.bfloat16, torch.int64, None, True),
        (torch.bfloat16, torch.int64, torch.float32, False),
    ]:
        xent.set_grad_in_forward(early)
        x, q = torch.randn(6, 20).to(dtype).requires_grad_(), torch.rand(6, 20).to(wide or dtype)
        y, w = torch.arange(6, dtype=label), torch.rand(20).to(wide or dtype)
        for target, weight, smoothing in ((y, None, 0.0), (y, w, 0.1), (q, None, 0.0)):
            for reduction in ("mean", "none"):
                loss = xent.cross_entropy(x, target, weight, label_smoothing=smoothing, reduction=reduction)
                loss.sum().backward()
        xent.cross_entropy(x, y, dtype=wide).backward()
        xent.softmax(x, 1).sum().backward()
        hidden, head = torch.randn(6, 4).to(dtype).requires_grad_(), torch.randn(20, 4).to(dtype).requires_grad_()
        for options in ({}, {"num_items": 3}, {"reduction": "none"}, {"softcap": 3.0}, {"dtype": wide}):
            (xent.linear_cross_entropy(hidden, head, y, **options).sum() * 0.5).backward()
        xent.cross_entropy_with_stats(x, y).entropy.sum().backward()
    xent.set_grad_in_forward(None)


@pytest.mark.parametrize("near", [False, True])
def test_a_loss_that_is_kept_keeps_no_hidden_states(near, far):
    hidden, weight, bias, target, _ = problem(6, 20, torch.float32)
    if not near:
        far()
    states = hidden * 2.0
    storage = StorageWeakRef(states.untyped_storage())
    loss = xent.linear_cross_entropy(states, weight, target, linear_bias=bias)
    del states
    loss.backward()
    assert storage.expired()
    assert loss.isfinite()
