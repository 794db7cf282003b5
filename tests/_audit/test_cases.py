"""The cases themselves: enough of them, each said in words, each with a reproducer that fits and compiles."""

import pytest
import torch
from torch.nn import functional as F

import xent
from xent._audit.case import CASES as REGISTER
from xent._audit.case import Probe, Values, case
from xent._audit.cases import CASES
from xent._audit.judge import Answer
from xent._audit.reproducer import LINES, reproducer
from xent._audit.setting import Setting
from xent._audit.target import OVER_MASK, OVER_SHORTER, PER_ROW, Way
from xent._implementations import find
from xent._truth import Worst

QUANTITIES = ("loss", "gradient", "hidden", "head", "bias")


def test_there_are_enough_and_each_says_what_it_breaks():
    assert len(CASES) >= 90
    assert all(len(one.breaks) > 10 and one.breaks.strip(".") == one.breaks for one in CASES.values())
    assert all(one.dtypes and one.signatures for one in CASES.values())


@pytest.mark.parametrize("name", sorted(CASES))
def test_its_reproducer_fits_in_eight_lines_and_compiles(name):
    one, setting = CASES[name], Setting(device="cuda", seed=7)
    heads = one.group == "heads"
    ways = [Way("head")] if heads else [Way("loss"), Way("head", OVER_SHORTER), Way("mean", PER_ROW)]
    quantities = [None] if isinstance(one.plan, Probe) else one.plan.judged
    for dtype in one.dtypes:
        for quantity in quantities:
            off = {} if quantity is None else {quantity: Worst(300.0, (1, 2), 0.0, 1.0, 1e-7, 0.0)}
            answer = Answer("FAIL", off, dict.fromkeys(QUANTITIES, 1.0))
            for way in ways:
                text = reproducer(one, dtype, answer, find("torch"), way, setting)
                assert len(text.split("\n")) <= LINES, text
                compile(text, name, "exec")


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_tensor_it_makes_is_the_same_again(name):
    one = CASES[name]
    first, again = (Setting().tensors(one, one.dtypes[0]) for _ in range(2))
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, again[key], rtol=0, atol=0, equal_nan=True)
            if value.is_floating_point() and key in ("x", "h", "w", "b"):
                assert value.dtype == getattr(torch, one.dtypes[0])


def test_a_case_is_one_function(monkeypatch):
    monkeypatch.delitem(REGISTER, "of_the_test", raising=False)

    @case("logits of 3")
    def of_the_test():
        return Values("x, y = torch.full((2, 4), 3.0), torch.tensor([0, 1])")

    try:
        report = xent.audit("torch", cases=["of_the_test"])
        assert report.passed
        assert report.outcomes[0].breaks == "logits of 3"
        with pytest.raises(ValueError, match="two cases called of_the_test"):
            case("again")(of_the_test)
    finally:
        del REGISTER["of_the_test"]


@pytest.mark.parametrize("shape", [(3, 7), (9, 4)])
def test_a_head_is_asked_for_the_loss_of_exactly_these_logits(shape):
    x, y = torch.randn(*shape, requires_grad=True), torch.randint(0, shape[1], (shape[0],))

    def head(hidden, weight, target, linear_bias=None, **options):
        return F.cross_entropy(F.linear(hidden, weight, linear_bias), target, **options)

    for around in (OVER_SHORTER, OVER_MASK):
        got, want = Way("head", around).loss(head)(x, y), F.cross_entropy(x, y)
        torch.testing.assert_close(got, want, rtol=0, atol=0)
        torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (got, want)), rtol=0, atol=0)
    masked = x.detach().clone()
    masked[:, 1] = -torch.inf
    y = torch.zeros_like(y)
    assert Way("head", OVER_MASK).loss(head)(masked, y) == F.cross_entropy(masked, y)


def test_a_loss_that_gives_a_mean_only_is_asked_row_by_row():
    def mean(x, y):
        return F.cross_entropy(x, y)

    report = xent.audit(mean, cases=["spread", "sum_of_rows", "weights", "batch_split"])
    assert [outcome.status for outcome in report.outcomes] == ["ok", "not offered", "not offered", "not offered"]
    assert report.outcomes[0].loss is not None
