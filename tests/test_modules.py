"""The modules: torch.nn's own classes to whoever asks, with their state, their repr and their samples."""

import copy
import functools
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.testing._internal.common_modules import module_db

import xent

from .formulas import Contributions

TWINS = {
    xent.Softmax: nn.Softmax,
    xent.LogSoftmax: nn.LogSoftmax,
    xent.NLLLoss: nn.NLLLoss,
    xent.CrossEntropyLoss: nn.CrossEntropyLoss,
}
LOSSES = (xent.NLLLoss, xent.CrossEntropyLoss)
ULPS = {torch.float64: (16, 256), torch.float32: (2, 3), torch.bfloat16: (0.51, 0.51), torch.float16: (0.51, 0.51)}
"""Of a value and of a gradient. In float64 the judge errs too, most where an entry is a difference."""


@pytest.mark.parametrize("ours", TWINS, ids=lambda kind: kind.__name__)
def test_a_module_is_one_of_torchs(ours):
    assert isinstance(ours(), TWINS[ours])
    assert ours.__name__ == TWINS[ours].__name__
    assert isinstance(ours(), nn.modules.loss._WeightedLoss) == (ours in LOSSES)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (xent.Softmax(dim=1), "Softmax(dim=1)"),
        (xent.LogSoftmax(dim=-1), "LogSoftmax(dim=-1)"),
        (xent.NLLLoss(), "NLLLoss(ignore_index=-100, reduction='mean')"),
        (
            xent.NLLLoss(torch.ones(3), ignore_index=255, reduction="sum"),
            "NLLLoss(weight=(3 classes, torch.float32), ignore_index=255, reduction='sum')",
        ),
        (
            xent.CrossEntropyLoss(torch.ones(10).double(), label_smoothing=0.1),
            "CrossEntropyLoss(weight=(10 classes, torch.float64), ignore_index=-100, reduction='mean',"
            " label_smoothing=0.1)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_repr_shows_the_configuration(module, text):
    assert repr(module) == text


@pytest.mark.parametrize("kind", LOSSES)
def test_the_old_names_of_the_reductions_are_converted(kind):
    for options in ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}):
        with pytest.warns(UserWarning, match="deprecated"):
            ours = kind(**options)
        with pytest.warns(UserWarning, match="deprecated"):
            theirs = TWINS[kind](**options)
        assert ours.reduction == theirs.reduction


def test_positional_arguments_come_in_torchs_order():
    weight = torch.ones(3)
    module = xent.CrossEntropyLoss(weight, None, 2, None, "sum", 0.25)
    assert (module.weight, module.ignore_index, module.reduction, module.label_smoothing) == (weight, 2, "sum", 0.25)
    module = xent.NLLLoss(weight, None, 2, None, "sum")
    assert (module.weight, module.ignore_index, module.reduction) == (weight, 2, "sum")


# -- the weight is a buffer --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSES)
def test_the_weight_is_a_buffer_that_follows_the_module(kind):
    module = kind(weight=torch.tensor([1.0, 2.0, 3.0]))
    assert dict(module.named_buffers()).keys() == {"weight"}
    assert list(module.parameters()) == []
    x, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    for dtype, move in ((torch.float16, "half"), (torch.bfloat16, "bfloat16"), (torch.float64, "double")):
        moved = getattr(copy.deepcopy(module), move)()
        assert moved.weight.dtype == dtype
        got = moved(x.to(dtype), target)
        assert got.dtype == dtype
        assert_close(got.double(), module(x.to(dtype).double(), target).double(), rtol=1e-2, atol=1e-2)
    assert module.to("meta").weight.device.type == "meta"
    assert module(x.to("meta"), target.to("meta")).device.type == "meta"


@pytest.mark.parametrize("kind", LOSSES)
def test_state_passes_between_ours_and_torchs(kind):
    ours, theirs = kind(weight=torch.tensor([1.0, 2.0, 3.0])), TWINS[kind](weight=torch.zeros(3))
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(theirs.weight, ours.weight)
    other = kind(weight=torch.ones(3))
    other.load_state_dict(theirs.state_dict())
    assert torch.equal(other.weight, ours.weight)
    assert kind().state_dict() == TWINS[kind]().state_dict() == {}


@pytest.mark.parametrize("ours", TWINS, ids=lambda kind: kind.__name__)
def test_a_copy_of_any_kind_computes_the_same(ours):
    options = {"weight": torch.rand(3), "ignore_index": 1, "reduction": "none"} if ours in LOSSES else {"dim": 1}
    module = ours(**options)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    copies = copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)
    inputs = (torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))[: 2 if ours in LOSSES else 1]
    for other in copies:
        assert type(other) is ours
        assert repr(other) == repr(module)
        assert torch.equal(other(*inputs), module(*inputs))


# -- in larger things --------------------------------------------------------------------------------


def test_an_implicit_dim_warns_in_modules_too():
    for kind in (xent.Softmax, xent.LogSoftmax):
        with pytest.warns(UserWarning, match="Implicit dimension choice"):
            got = kind()(torch.zeros(2, 3, 4))
        assert_close(got, TWINS[kind](dim=0)(torch.zeros(2, 3, 4)))


def test_training_in_a_sequential_goes_where_torchs_goes():
    x, target = torch.randn(32, 4, dtype=torch.float64), torch.randint(3, (32,))
    weights = []
    for log_softmax, nll, loss in (
        (xent.LogSoftmax, xent.NLLLoss, xent.CrossEntropyLoss),
        (nn.LogSoftmax, nn.NLLLoss, nn.CrossEntropyLoss),
    ):
        torch.manual_seed(1)
        linear = nn.Linear(4, 3, dtype=torch.float64)
        optimizer = torch.optim.SGD(linear.parameters(), lr=0.5)
        model, nll, loss = nn.Sequential(linear, log_softmax(dim=1)), nll(), loss(label_smoothing=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            (nll(model(x), target) + loss(linear(x), target)).backward()
            optimizer.step()
        weights.append(linear.weight.detach())
    assert_close(*weights, rtol=1e-10, atol=1e-12)


def test_skorch_takes_the_criterion_and_its_options():
    np = pytest.importorskip("numpy")
    skorch = pytest.importorskip("skorch")
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 120)
    x = (np.eye(3)[y] * 4 + generator.normal(size=(120, 3))).astype(np.float32)
    fits = []
    for criterion in (xent.CrossEntropyLoss, nn.CrossEntropyLoss):
        torch.manual_seed(0)
        net = skorch.NeuralNetClassifier(
            functools.partial(nn.Linear, 3, 3),
            criterion=criterion,
            criterion__label_smoothing=0.05,
            criterion__weight=torch.tensor([1.0, 2.0, 1.0]),
            max_epochs=5,
            lr=0.5,
            train_split=None,
            verbose=0,
        )
        net.fit(x, y)
        assert isinstance(net.criterion_, criterion)
        assert_close(net.predict_proba(x).sum(1), np.ones(120, dtype=np.float32), rtol=1e-5, atol=1e-5)
        fits.append((net.score(x, y), net.history[:, "train_loss"]))
    assert fits[0][0] == fits[1][0] > 0.9
    assert_close(torch.tensor(fits[0][1]), torch.tensor(fits[1][1]), rtol=1e-5, atol=1e-6)


# -- torch's own samples -----------------------------------------------------------------------------

INFOS = {info.module_cls: info for info in module_db}


@pytest.mark.filterwarnings("ignore:Implicit dimension", "ignore:size_average and reduce")
@pytest.mark.parametrize("dtype", ULPS, ids=str)
@pytest.mark.parametrize("ours", TWINS, ids=lambda kind: kind.__name__)
def test_torchs_module_samples(ours, dtype, assert_within_ulps):
    """The judge is torch in float64 on the same numbers; 16-bit results must be its, rounded once."""
    theirs = TWINS[ours]
    samples = INFOS[theirs].module_inputs_func(INFOS[theirs], "cpu", dtype, requires_grad=True, training=True)
    assert len(samples) >= 3
    for sample in samples:
        built = [_wide(sample.constructor_input, kind, dtype) for kind in (ours, theirs)]
        value, *grads = _run(built[0], sample.forward_input, torch.Tensor.clone)
        want, *want_grads = _run(built[1].double(), sample.forward_input, torch.Tensor.double)
        with Contributions():
            whole, *sizes = _run(built[1], sample.forward_input, torch.Tensor.double)
        assert value.dtype == dtype
        assert_within_ulps(value, want, ULPS[dtype][0], size=None if dtype is torch.float64 else whole)
        for grad, want_grad, size in zip(grads, want_grads, sizes, strict=True):
            assert grad.dtype == dtype
            assert_within_ulps(grad, want_grad, ULPS[dtype][1], size=None if dtype is torch.float64 else size)


def _wide(arguments, kind, dtype):
    return kind(*copy.deepcopy(arguments.args), **copy.deepcopy(arguments.kwargs)).to(dtype)


def _run(module, arguments, convert):
    tensors = [convert(a.detach()).requires_grad_() if a.is_floating_point() else a for a in arguments.args]
    out = module(*tensors, **arguments.kwargs)
    leaves = [t for t in tensors if t.requires_grad]
    slope = torch.linspace(1.0, 2.0, out.numel()).to(torch.bfloat16).to(out.dtype).reshape(out.shape)
    return out.detach(), *torch.autograd.grad(out, leaves, slope)


def test_the_modules_call_xent_and_not_torch():
    x, target = torch.tensor([[20.0, 0.0]]), torch.tensor([0])
    assert F.cross_entropy(x, target) == 0
    assert xent.CrossEntropyLoss()(x, target).item() == pytest.approx(2.0611536e-9, rel=1e-6)
    assert xent.NLLLoss()(xent.LogSoftmax(dim=1)(x), target).item() == pytest.approx(2.0611536e-9, rel=1e-6)
    assert xent.Softmax(dim=1)(torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16)).dtype == torch.bfloat16


HEAD_OPTIONS = {"all_ignored": "zero", "shift": 1, "softcap": 2.0, "logit_scale": 0.5, "z_loss": 0.1}
OPTIONS = {"dtype": torch.float64, "dim": -1, **HEAD_OPTIONS}


def test_options_that_torch_has_not_are_those_of_the_functions():
    logits, target, token = torch.randn(2, 3, 5), torch.randint(5, (2, 3)), torch.rand(2, 3)
    loss = xent.CrossEntropyLoss(**OPTIONS)
    assert torch.equal(
        loss(logits, target, token_weight=token), xent.cross_entropy(logits, target, token_weight=token, **OPTIONS)
    )
    head = xent.LinearCrossEntropyLoss(5, 7, **HEAD_OPTIONS)
    want = xent.linear_cross_entropy(logits, head.linear.weight, target, num_items=4, **HEAD_OPTIONS)
    assert torch.equal(head(logits, target, num_items=4), want)
    for module in (loss, head):
        again = pickle.loads(pickle.dumps(module))
        assert repr(again) == repr(copy.deepcopy(module)) == repr(module)
        assert torch.equal(again(logits, target), module(logits, target))
        assert "shift=1, softcap=2.0, logit_scale=0.5, z_loss=0.1" in repr(module)
    scale = torch.tensor(0.5, requires_grad=True)
    assert torch.autograd.grad(loss(logits, target, logit_scale=scale), scale)[0] != 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"softcap": -1.0}, xent.OptionError),
        ({"logit_scale": 0}, xent.OptionError),
        ({"z_loss": "1"}, xent.ArgumentError),
        ({"all_ignored": "0"}, xent.OptionError),
        ({"shift": -1}, xent.ArgumentError),
        ({"dim": 1.0}, xent.ArgumentError),
        ({"dtype": torch.int64}, xent.DtypeError),
    ],
    ids=str,
)
def test_they_are_refused_at_construction(options, error):
    with pytest.raises(error):
        xent.CrossEntropyLoss(**options)
    if options.keys().isdisjoint({"dim", "dtype"}):  # a head has no dim, and its dtype is that of its parameters
        with pytest.raises(error):
            xent.LinearCrossEntropyLoss(3, 5, **options)
