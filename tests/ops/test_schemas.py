"""What torch's compiler, exporter and fake tensors are told about the ops, and what they make of it."""

import functools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import xent
import xent.ops  # registers them

OPS = torch.ops.xent
OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def rows(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def facts(x):
    """`peak` and `rest` of rows, and two factors."""
    _, peak, rest = OPS.softmax(x, False, torch.float32)
    return peak, rest, torch.rand(peak.shape, dtype=torch.float64), torch.rand(peak.shape, dtype=torch.float64)


PLAIN, MAP, WIDE = rows(4, 5, 1), rows(2, 5, 6, dtype=torch.bfloat16), rows(3, 4, 2, dtype=torch.float64)
PERMUTED = rows(2, 6, 5).movedim(1, 2)
EMPTY = rows(0, 5, 1)
LABELS = torch.tensor([0, 4, -100, 2])
MAP_LABELS = torch.arange(12).reshape(2, 6).to(torch.uint8) % 5
MIX = rows(3, 4, 2).softmax(1)
WEIGHT, WEIGHT4 = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0]), torch.tensor([1.0, 2.0, 0.5, 0.0]).double()

HIDDEN, HEAD, SHIFT = rows(4, 3), rows(5, 3), rows(5)
SOFT = rows(4, 5).softmax(1)
FACTOR, NO_FACTOR = torch.rand(4, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
HEADS = [
    (HIDDEN, HEAD, None, LABELS, None, -100, False, None, None, 1.0),
    (HIDDEN.bfloat16(), HEAD.bfloat16(), SHIFT.bfloat16(), LABELS.clamp_min(0).int(), WEIGHT, 2, True, 64, 2.0, 0.5),
    (HIDDEN.double(), HEAD.double(), SHIFT.double(), SOFT, WEIGHT.double(), -100, True, None, None, 3.0),
    (HIDDEN[:0], HEAD, SHIFT, LABELS[:0], None, -100, False, None, None, 1.0),
]
PULLS = [(FACTOR, None), (FACTOR, FACTOR), (FACTOR, FACTOR), (NO_FACTOR, None)]
WANTED = [[True, True, False], [False, True, True], [True, True, True], [True, False, False]]

SAMPLES = {
    "linear_facts": HEADS,
    "linear_stats": HEADS,
    "linear_stats_grad": [
        (*head, *OPS.linear_facts(*head), *pull, pull[1], *[pull[0]] * 3, wanted)
        for head, pull, wanted in zip(HEADS, PULLS, WANTED, strict=True)
        if not head[3].is_floating_point()
    ],
    "row_spread": [(x, facts(x)[0], x.select(1, 0)) for x in (PLAIN, MAP, PERMUTED, EMPTY)],
    "spread_grad": [(x, *facts(x)[:2], *[facts(x)[1]] * 3) for x in (PLAIN, MAP, PERMUTED, EMPTY)],
    "linear_step": [(*head, *pull, wanted) for head, pull, wanted in zip(HEADS, PULLS, WANTED, strict=True)],
    "linear_grad": [
        (*head, *OPS.linear_facts(*head), *pull, wanted)
        for head, pull, wanted in zip(HEADS, PULLS, WANTED, strict=True)
    ],
    "row_summary": [
        (PLAIN, LABELS, None, -100, False),
        (MAP, MAP_LABELS, WEIGHT, 3, True),
        (WIDE, MIX, WEIGHT4, -100, True),
        (PERMUTED, MAP_LABELS.int(), None, -100, True),
        (EMPTY, LABELS[:0], None, -100, False),
    ],
    "row_grad": [
        (PLAIN, LABELS, None, -100, *facts(PLAIN)[:3], None),
        (MAP, MAP_LABELS, WEIGHT, 3, *facts(MAP)),
        (WIDE, MIX, WEIGHT4, -100, *facts(WIDE)),
        (PERMUTED, MAP_LABELS.int(), None, -100, *facts(PERMUTED)),
        (EMPTY, LABELS[:0], None, -100, *facts(EMPTY)[:3], None),
    ],
    "softmax": [
        (PLAIN, False, torch.float32),
        (MAP, True, torch.bfloat16),
        (PLAIN, True, torch.float64),
        (PERMUTED, False, torch.float32),
        (EMPTY, True, torch.float32),
    ],
    "softmax_grad": [
        (PLAIN, *facts(PLAIN)[:2], torch.ones_like(PLAIN)),
        (MAP, *facts(MAP)[:2], rows(2, 5, 6, dtype=torch.float64)),
        (PERMUTED, *facts(PERMUTED)[:2], rows(2, 5, 6)),
        (EMPTY, *facts(EMPTY)[:2], EMPTY),
    ],
    "labels": [
        (LABELS, 5, -100),
        (MAP_LABELS, 5, 3),
        (torch.tensor(2), 5, -100),
        (MAP_LABELS.T, 5, -100),
        (LABELS[:0], 5, -100),
    ],
    "exact_sum": [
        (torch.randn(7).double(),),
        (torch.randn(3, 7).double(),),
        (torch.zeros(0).double(),),
        (torch.zeros(2, 0).double(),),
    ],
}


def test_every_op_has_samples():
    registered = {
        name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if name.startswith("xent::")
    }
    assert registered == set(SAMPLES)


@pytest.mark.parametrize(("name", "k"), [(name, k) for name, samples in SAMPLES.items() for k in range(len(samples))])
def test_opcheck(name, k):
    result = torch.library.opcheck(getattr(OPS, name).default, SAMPLES[name][k], test_utils=OPCHECKS)
    assert result == dict.fromkeys(OPCHECKS, "SUCCESS")


@pytest.mark.parametrize("name", SAMPLES)
def test_an_op_changes_no_argument_and_says_so(name):
    schema = getattr(OPS, name).default._schema
    assert not schema.is_mutable
    for args in SAMPLES[name]:
        before = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
        getattr(OPS, name)(*args)
        for was, now in zip(before, args, strict=True):
            assert torch.equal(was, now) if isinstance(was, torch.Tensor) else was == now


@pytest.mark.parametrize("name", SAMPLES)
def test_meta_and_fake_results_look_like_the_real_ones(name):
    op = getattr(OPS, name)
    for args in SAMPLES[name]:
        real = _flat(op(*args))
        meta = _flat(op(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in args)))
        with FakeTensorMode() as mode:
            fake = _flat(op(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args)))
        for r, *others in zip(real, meta, fake, strict=True):
            for other in others:
                assert (other.shape, other.dtype) == (r.shape, r.dtype)
                assert other.stride() == r.stride() or not r.numel()


def _flat(out):
    return [out] if isinstance(out, torch.Tensor) else list(out)


# -- compile -----------------------------------------------------------------------------------------

X, Y = rows(4, 5, dtype=torch.float64), torch.tensor([0, 4, -100, 2])
Q = rows(4, 5, dtype=torch.float64).softmax(1)
W = WEIGHT.double()
GRID = {
    "plain": lambda m, x: m.cross_entropy(x, Y),
    "sum": lambda m, x: m.cross_entropy(x, Y, reduction="sum"),
    "unreduced": lambda m, x: m.cross_entropy(x, Y, reduction="none"),
    "weighted": lambda m, x: m.cross_entropy(x, Y, weight=W),
    "smoothed": lambda m, x: m.cross_entropy(x, Y, label_smoothing=0.1),
    "weighted, smoothed": lambda m, x: m.cross_entropy(x, Y, weight=W, label_smoothing=0.1),
    "ignore_index=2": lambda m, x: m.cross_entropy(x, Y.clamp_min(0), ignore_index=2),
    "probabilities": lambda m, x: m.cross_entropy(x, Q),
    "probabilities, weighted, smoothed": lambda m, x: m.cross_entropy(x, Q, weight=W, label_smoothing=0.1),
    "a map": lambda m, x: m.cross_entropy(x.reshape(2, 5, 2), Y.clamp_min(0).reshape(2, 2)),
    "unbatched": lambda m, x: m.cross_entropy(x[0], Y[1]),
    "nll_loss": lambda m, x: m.nll_loss(x, Y, weight=W),
    "softmax": lambda m, x: m.softmax(x, 1),
    "softmax to float32": lambda m, x: m.softmax(x, 0, dtype=torch.float32),
    "log_softmax": lambda m, x: m.log_softmax(x, 1),
}


ROUNDINGS = {"rtol": 2 * torch.finfo(torch.float64).eps, "atol": 0}
"""Compiled, the loss is the algebra's, with torch's log1p; eager, the kernel's, with its own."""


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def value_and_grad(f, x):
    x = x.detach().clone().requires_grad_()
    out = f(x)
    slope = torch.arange(1.0, out.numel() + 1, dtype=out.dtype).reshape(out.shape)
    return out.detach(), torch.autograd.grad(out, x, slope)[0]


@pytest.mark.parametrize("call", GRID.values(), ids=GRID)
def test_compiled_in_one_graph_with_its_gradient(call):
    f = functools.partial(call, xent)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    assert_close(value_and_grad(compiled, X), value_and_grad(f, X), **ROUNDINGS)
    with torch.no_grad():
        assert_close(compiled(X), f(X), **ROUNDINGS)


def _swapped(f, y, x):
    return f(x, y)


def test_compiled_modules():
    for module in (xent.CrossEntropyLoss(weight=W, label_smoothing=0.1), xent.NLLLoss(weight=W)):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        results = [value_and_grad(functools.partial(_swapped, f, Y), X) for f in (compiled, module)]
        assert_close(*results, **ROUNDINGS)
    softmax = torch.compile(xent.Softmax(dim=1), fullgraph=True, backend="aot_eager")
    assert torch.equal(softmax(X), xent.softmax(X, 1))


def test_compiled_gradients_into_probabilities_and_weights():
    def loss(x, q, w):
        return xent.cross_entropy(x, q, weight=w, label_smoothing=0.1)

    def by_labels(x, q, w):
        return xent.cross_entropy(x, Y, weight=w, label_smoothing=0.1) + q.sum()

    for f in (loss, by_labels):
        results = []
        for run in (f, torch.compile(f, fullgraph=True, backend="aot_eager")):
            leaves = [t.detach().clone().requires_grad_() for t in (X, Q, W)]
            results.append(torch.autograd.grad(run(*leaves), leaves))
        assert_close(*results, **EXACT)
        assert results[0][2].ne(0).any()


def test_one_graph_serves_every_number_of_rows():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(lambda x, y: xent.cross_entropy(x, y), fullgraph=True, dynamic=True, backend=backend)
    for n in (3, 5, 17, 64):
        x, y = torch.randn(n, 5), torch.randint(5, (n,))
        assert torch.equal(compiled(x, y), xent.cross_entropy(x, y))
    assert len(graphs) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    "options", [{}, {"weight": WEIGHT, "label_smoothing": 0.1}], ids=["plain", "weighted, smoothed"]
)
def test_inductor_with_changing_shapes(options):
    f = lambda x, y: xent.cross_entropy(2 * x, y, **options)  # noqa: E731
    compiled = torch.compile(f, fullgraph=True, dynamic=True)
    for n in (4, 9):
        x, y = torch.randn(n, 5), torch.arange(n) % 5
        got, want = (value_and_grad(functools.partial(_swapped, g, y), x) for g in (compiled, f))
        assert_close(got, want, rtol=3e-7, atol=1e-8)


@pytest.mark.parametrize("call", [xent.cross_entropy, xent.nll_loss], ids=["cross_entropy", "nll_loss"])
def test_a_bad_label_is_still_named_when_compiled(call):
    compiled = torch.compile(lambda x, y: call(x, y), fullgraph=True, backend="aot_eager")
    assert compiled(X, Y).isfinite()
    with pytest.raises(xent.TargetError, match=re.escape("target[1] = 5: not a class (classes are 0 ... 4)")) as error:
        compiled(X, torch.tensor([0, 5, 1, 2]))
    assert isinstance(error.value, IndexError)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((X, Y[:3]), "batches differ"), ((X, F.one_hot(Y.clamp_min(0), 5)), "argmax"), ((X.long(), Y), "input.float")],
    ids=["another number of rows", "one-hot integers", "integer logits"],
)
def test_a_wrong_shape_or_dtype_is_refused_when_compiled(arguments, words):
    compiled = torch.compile(lambda x, y: xent.cross_entropy(x, y), backend="aot_eager")
    with pytest.raises(xent.XentError, match=words):
        compiled(*arguments)


# -- export, fake tensors, checkpoint ----------------------------------------------------------------


class Head(nn.Module):
    def __init__(self, criterion):
        super().__init__()
        self.linear = nn.Linear(5, 5)
        self.criterion = criterion

    def forward(self, x, y):
        return self.criterion(xent.log_softmax(self.linear(x), 1), y)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"weight": WEIGHT, "label_smoothing": 0.1}], ids=["plain", "weighted, smoothed"]
)
def test_export_and_back(strict, options, tmp_path):
    head = Head(xent.CrossEntropyLoss(**options))
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = {"x": {0: batch}, "y": {0: batch}}
    program = torch.export.export(head, (X.float(), Y), strict=strict, dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "head.pt2")
    loaded = torch.export.load(tmp_path / "head.pt2").module()
    for x, y in ((X.float(), Y), (torch.randn(9, 5), torch.arange(9) % 5)):
        assert_close(loaded(x, y), head(x, y), rtol=1e-6, atol=1e-7)
    # a strict graph switches gradients off and on; the error leaves in between
    with torch.no_grad(), pytest.raises(xent.TargetError, match=r"target\[0\] = 7"):
        loaded(X.float(), Y + 7)


@pytest.mark.parametrize("name", SAMPLES)
def test_an_op_called_by_name_records_nothing_inside(name):
    """An exported program calls the ops bare, with logits that need a gradient."""
    for args in SAMPLES[name]:
        tracked = [_tracked(a) for a in args]
        assert_close(_flat(getattr(OPS, name)(*tracked)), _flat(getattr(OPS, name)(*args)), rtol=0, atol=0)


def _tracked(value):
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.detach().clone().requires_grad_() if floats else value


def test_fake_tensors_go_forward_and_back():
    with FakeTensorMode():
        for shape, labels in (((4, 5), (4,)), ((2, 5, 3, 3), (2, 3, 3)), ((5,), ())):
            x = torch.randn(shape, dtype=torch.bfloat16, requires_grad=True)
            loss = xent.cross_entropy(x, torch.zeros(labels, dtype=torch.long), label_smoothing=0.1)
            loss.backward()
            assert (loss.shape, loss.dtype) == ((), torch.bfloat16)
            assert (x.grad.shape, x.grad.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_computes_the_same_gradient(reentrant):
    def f(x):
        return xent.cross_entropy(xent.log_softmax(x, 1) * 2, Y, label_smoothing=0.1)

    want = value_and_grad(f, X)
    x = X.clone().requires_grad_()
    loss = checkpoint(f, x, use_reentrant=reentrant)
    loss.backward()
    assert_close((loss.detach(), x.grad), want, rtol=0, atol=0)
