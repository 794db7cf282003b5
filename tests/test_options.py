"""The options that torch has not: of both losses, by their definition on the losses of the rows."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import xent


def logits_loss(hidden, head, target, **options):
    return xent.cross_entropy(hidden @ head.T, target, **options)


def head_loss(hidden, head, target, **options):
    return xent.linear_cross_entropy(hidden, head, target, **options)


@pytest.fixture(params=[logits_loss, head_loss], ids=["logits", "head"])
def loss(request):
    return request.param


def some(n=9, d=4, v=7, dtype=torch.float64):
    hidden, weight = torch.randn(n, d, dtype=dtype), torch.randn(v, d, dtype=dtype)
    target = torch.randint(v, (n,))
    target[2] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), target


def assert_same(got, want, leaves, upstream=None):
    assert_close(got, want, equal_nan=True)
    grads, want_grads = (torch.autograd.grad(t, leaves, upstream, retain_graph=True) for t in (got, want))
    assert_close(grads, want_grads)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("options", [{}, {"weight": True}, {"label_smoothing": 0.2}, {"soft": True}], ids=str)
def test_token_weights_multiply_the_losses_and_weigh_in_the_mean(loss, reduction, options):
    hidden, weight, target = some()
    options, class_weight = dict(options), torch.rand(7, dtype=torch.float64)
    mass = class_weight[target.clamp_min(0)] if options.pop("weight", False) else torch.ones(9, dtype=torch.float64)
    if len(set(mass.tolist())) > 1:
        options["weight"] = class_weight
    mass = mass.where(target != -100, 0.0)
    if options.pop("soft", False):
        target, mass = torch.randn(9, 7, dtype=torch.float64).softmax(1), torch.ones(9, dtype=torch.float64)
    token = torch.rand(9, dtype=torch.float64)
    token[0] = 0.0
    token.requires_grad_()
    rows = token * F.cross_entropy(hidden @ weight.T, target, reduction="none", **options)
    want = {"none": rows, "sum": rows.sum(), "mean": rows.sum() / (token * mass).sum()}[reduction]
    got = loss(hidden, weight, target, token_weight=token, reduction=reduction, **options)
    assert_same(got, want, (hidden, weight, token), torch.rand_like(want))


def test_a_token_weight_of_zero_leaves_out_what_is_not_finite(loss):
    hidden, weight, target = some()
    token = torch.ones(9)
    with torch.no_grad():
        hidden[0] = torch.inf
    token[0] = 0.0
    got = loss(hidden, weight, target, token_weight=token)
    assert_close(got, F.cross_entropy((hidden @ weight.T)[1:], target[1:]))


@pytest.mark.parametrize("kind", [int, float, lambda n: torch.tensor(n), lambda n: torch.tensor([float(n)])])
def test_means_of_micro_batches_add_up(loss, kind):
    hidden, weight, target = some(12)
    whole = F.cross_entropy(hidden @ weight.T, target)
    items = kind(int((target != -100).sum()))
    parts = [loss(h, weight, t, num_items=items) for h, t in zip(hidden.split(5), target.split(5), strict=True)]
    assert_same(sum(parts), whole, (hidden, weight))


def test_a_mean_over_nothing(loss):
    hidden, weight, target = some()
    target.fill_(-100)
    for options, value in (({}, torch.nan), ({"all_ignored": "zero"}, 0.0), ({"num_items": 5}, 0.0)):
        got = loss(hidden, weight, target, **options)
        assert_close(got.item(), value, equal_nan=True)
        assert not any(g.any() for g in torch.autograd.grad(got, (hidden, weight)))
    assert loss(hidden, weight, target, num_items=0, all_ignored="zero") == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_of_sixteen_bits_in_full(loss, dtype):
    hidden, weight, target = some(dtype=torch.float32)
    hidden, weight = hidden.detach().bfloat16(), weight.detach().bfloat16()
    got = loss(hidden, weight, target, dtype=dtype)
    assert got.dtype is dtype
    assert_close(got, F.cross_entropy((hidden @ weight.T).to(dtype), target), rtol=1e-6, atol=0)


def test_they_compose_with_transforms_and_second_derivatives(loss):
    hidden, weight, target = some(5)
    token = torch.rand(5, dtype=torch.float64, requires_grad=True)

    def f(hidden, weight, token):
        return loss(hidden, weight, target, token_weight=token, num_items=3, label_smoothing=0.1)

    assert torch.autograd.gradcheck(f, (hidden, weight, token), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (hidden, weight, token))
    assert_close(torch.func.grad(f, 2)(hidden, weight, token), torch.autograd.grad(f(hidden, weight, token), token)[0])


@pytest.mark.parametrize("label", [torch.int64, torch.uint8], ids=str)
@pytest.mark.parametrize("shift", [0, 1, 2, 5, 9])
def test_shift_asks_for_a_later_token(label, shift):
    hidden, head = torch.randn(2, 5, 4), torch.randn(7, 4)
    target, token = torch.randint(7, (2, 5)).to(label), torch.rand(2, 5)
    later = F.pad(target.long()[:, shift:], (0, min(shift, 5)), value=-100)
    weights = F.pad(token[:, shift:], (0, min(shift, 5)))
    want = weights * F.cross_entropy((hidden @ head.T).mT, later, reduction="none")
    options = {"token_weight": token, "shift": shift, "reduction": "none"}
    assert_close(xent.linear_cross_entropy(hidden, head, target, **options), want)
    assert_close(xent.cross_entropy(hidden @ head.T, target, dim=-1, **options), want)
    mean = F.cross_entropy((hidden @ head.T).mT, later)
    assert_close(xent.linear_cross_entropy(hidden, head, target, shift=shift), mean, equal_nan=True)
    assert_close(xent.cross_entropy(hidden @ head.T, target, dim=2, shift=shift), mean, equal_nan=True)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -4])
@pytest.mark.parametrize("soft", [False, True])
def test_classes_on_any_dimension(dim, soft):
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    classes = logits.movedim(dim, 1)
    labels = torch.randint(classes.shape[1], (classes.shape[0], *classes.shape[2:]))
    target, theirs = labels, labels
    if soft:
        target = torch.randn_like(logits).softmax(dim)
        theirs = target.movedim(dim, 1)
    assert_same(xent.cross_entropy(logits, target, dim=dim), F.cross_entropy(classes, theirs), (logits,))
    one = torch.randn(5)
    assert xent.cross_entropy(one, torch.tensor(2), dim=0) == xent.cross_entropy(one, torch.tensor(2))


def test_dims_and_shifts_that_are_none():
    logits, target = torch.randn(2, 3), torch.tensor([0, 1])
    with pytest.raises(xent.DimError, match="dim 2 is out of range"):
        xent.cross_entropy(logits, target, dim=2)
    with pytest.raises(xent.ArgumentError, match="shift must be an int of at least 0, got float"):
        xent.cross_entropy(logits, target, shift=1.0)
    with pytest.raises(xent.OptionError, match="shift=1 moves labels"):
        xent.cross_entropy(logits, logits.softmax(1), shift=1)


def test_of_maps_and_dimensional_heads():
    logits, target = torch.randn(2, 5, 3), torch.randint(5, (2, 3))
    token = torch.rand(2, 3)
    want = (token * F.cross_entropy(logits, target, reduction="none")).sum() / token.sum()
    assert_close(xent.cross_entropy(logits, target, token_weight=token), want)
    hidden, head = torch.randn(2, 4), torch.randn(5, 3, 4)
    rows = F.cross_entropy(torch.tensordot(hidden, head, ([-1], [-1])), target, reduction="none")
    got = xent.linear_cross_entropy(hidden, head, target, token_weight=token)
    assert_close(got, (token * rows).sum() / token.sum())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"token_weight": torch.ones(7)}, xent.ShapeError, r"expected \(9,\), that of the labels"),
        ({"token_weight": [1.0]}, xent.ArgumentError, "must be a torch.Tensor"),
        ({"token_weight": torch.ones(9) * 1j}, xent.DtypeError, "real numbers"),
        ({"num_items": 3, "reduction": "sum"}, xent.OptionError, "divides a mean"),
        ({"num_items": -1}, xent.OptionError, "num_items is -1"),
        ({"num_items": True}, xent.ArgumentError, "got bool"),
        ({"num_items": torch.ones(2)}, xent.ShapeError, "one number"),
        ({"all_ignored": "0"}, xent.OptionError, "'nan' .as torch. or 'zero'"),
        ({"dtype": torch.int64}, xent.DtypeError, "none for a loss"),
        ({"dtype": "float32"}, xent.ArgumentError, "torch.dtype"),
    ],
)
def test_refusals(loss, options, error, words):
    with pytest.raises(error, match=words):
        loss(*some(), **options)
