"""Every caution is given where it belongs and nowhere else."""

import math

import pytest
import torch

import xent
from xent._explain.walk import explain


def kinds(*arguments, **options):
    return [caution.kind for caution in explain(*arguments, **options).cautions]


LOGITS = torch.tensor([[1.5, -0.5, 0.3], [0.2, 0.4, -2.0]])
TARGET = torch.tensor([0, 2])


def test_ordinary_inputs_deserve_none():
    assert kinds(LOGITS, TARGET) == []
    assert kinds(LOGITS, torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])) == []
    assert kinds(LOGITS, TARGET, torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1) == []


class TestProbabilities:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("classes", [2, 10, 1000])
    def test_softmax_of_the_logits(self, dtype, classes):
        logits = xent.softmax(torch.randn(20, classes).to(dtype), dim=1)
        assert kinds(logits, torch.zeros(20, dtype=torch.int64)) == ["probabilities"]

    @pytest.mark.parametrize("classes", [2, 10])
    def test_the_floor_is_reached_and_no_lower(self, classes):
        best = torch.eye(classes)[:1]
        walk = explain(best, torch.tensor([0]))
        assert walk.cautions[0].kind == "probabilities"
        assert f"{walk.loss:.4f}" in walk.cautions[0].text
        assert walk.loss == pytest.approx(math.log(math.e + classes - 1) - 1, rel=1e-7)

    def test_ignored_rows_have_no_say_but_kept_ones_do(self):
        p = LOGITS.softmax(1)
        p[1] = 5.0
        assert kinds(p, torch.tensor([0, -100])) == ["probabilities"]
        assert kinds(p, TARGET) == []

    def test_not_quite(self):
        p = LOGITS.softmax(1)
        assert kinds(p * 1.01, TARGET) == []
        assert kinds(p + torch.tensor([0.6, -0.3, -0.3]), TARGET) == []

    def test_log_probabilities_are_harmless(self):
        walk = explain(LOGITS.log_softmax(1), TARGET)
        assert [caution.kind for caution in walk.cautions] == ["log-probabilities"]
        assert walk.loss == pytest.approx(explain(LOGITS, TARGET).loss, rel=1e-6)
        assert kinds(LOGITS.log_softmax(1) - 0.01, TARGET) == []


def test_one_class():
    assert kinds(torch.tensor([[3.0], [1.0]]), torch.tensor([0, 0])) == ["one class"]
    assert kinds(torch.tensor([[1.0]]), torch.tensor([0])) == ["one class"]


class TestSoftTargets:
    def test_unnormalised(self):
        target = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.5, 0.5]])
        (caution,) = explain(LOGITS, target).cautions
        assert caution.kind == "unnormalised targets"
        assert "1 of 2 target rows do not sum to 1 (row 1: 1.5)" in caution.text

    def test_a_row_of_zeros_is_a_way_to_ignore_it(self):
        assert kinds(LOGITS, torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.0, 0.0]])) == []

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_rounded_probabilities_pass(self, dtype):
        assert kinds(torch.randn(8, 50), torch.randn(8, 50).softmax(1).to(dtype)) == []

    def test_negative(self):
        assert kinds(LOGITS, torch.tensor([[1.5, -0.5, 0.0], [0.0, 0.0, 1.0]])) == ["negative targets"]

    def test_on_the_last_dim(self):
        target = torch.randn(2, 3, 4).softmax(-1)
        (caution,) = explain(torch.randn(2, 3, 4), target).cautions
        assert caution.kind == "unnormalised targets"
        assert "movedim(-1, 1)" in caution.cure


class TestNothingKept:
    def test_all_ignored(self):
        walk = explain(LOGITS, torch.tensor([-100, -100]))
        assert [caution.kind for caution in walk.cautions] == ["nothing kept"]
        assert "all 2 rows are ignored (target = -100)" in walk.cautions[0].text
        assert math.isnan(walk.loss)
        assert kinds(LOGITS, torch.tensor([0, -100])) == []

    def test_a_sum_over_nothing_is_zero(self):
        walk = explain(LOGITS, torch.tensor([-100, -100]), reduction="sum")
        assert "the sum is 0" in walk.cautions[0].text
        assert walk.loss == 0.0

    def test_no_rows(self):
        assert kinds(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == ["nothing kept"]

    def test_no_weight(self):
        walk = explain(LOGITS, TARGET, torch.tensor([0.0, 1.0, 0.0]))
        assert [caution.kind for caution in walk.cautions] == ["nothing kept"]
        assert math.isnan(walk.loss)


class TestClassesLast:
    @pytest.mark.parametrize("shape", [(2, 3, 3), (2, 4, 4, 4)])
    def test_ambiguous(self, shape):
        target = torch.zeros(shape[:1] + shape[2:], dtype=torch.int64)
        assert kinds(torch.randn(shape), target) == ["classes last?"]

    @pytest.mark.parametrize("shape", [(3, 3), (2, 3, 4), (3, 3, 4), (2, 4, 4, 5)])
    def test_not_ambiguous(self, shape):
        target = torch.zeros(shape[:1] + shape[2:], dtype=torch.int64)
        assert kinds(torch.randn(shape), target) == []


class TestWeightCancels:
    weight = torch.tensor([1.0, 5.0, 9.0])

    @pytest.mark.parametrize(("logits", "target"), [(LOGITS[:1], TARGET[:1]), (LOGITS, torch.tensor([0, -100]))])
    def test_one_row_kept(self, logits, target):
        assert kinds(logits, target, self.weight) == ["weight cancels"]
        assert explain(logits, target, self.weight).loss == pytest.approx(explain(logits, target).loss, rel=1e-12)

    @pytest.mark.parametrize("options", [{"reduction": "sum"}, {"label_smoothing": 0.1}])
    def test_it_does_not(self, options):
        assert kinds(LOGITS[:1], TARGET[:1], self.weight, **options) == []
        assert kinds(LOGITS, TARGET, self.weight) == []
