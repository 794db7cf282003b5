"""Every route is judged by an exact value, and its failures are called by their names."""

import math
from decimal import Decimal

import mpmath
import pytest
import torch
import torch.nn.functional as F

from xent._explain import exact
from xent._explain.call import ask
from xent._explain.walk import explain

from . import oracle

HAND = ("softmax → pick → −log → mean", "log_softmax → pick → −mean")
TORCH = ("F.softmax → log → pick → −mean", "F.log_softmax + F.nll_loss", "F.cross_entropy", "torch.nn.CrossEntropyLoss")
OURS = ("xent.log_softmax + xent.nll_loss", "xent.cross_entropy", "xent.CrossEntropyLoss")


def statuses(*arguments, **options):
    return {route.name: route.status for route in explain(*arguments, **options).routes}


def digits_of(logits, target, weight=None, smoothing=0.0, reduction="sum"):
    return exact.evaluate(ask(logits, target, weight, -100, reduction, smoothing))


class TestExact:
    ROWS = (
        [0.0, 0.0],
        [20.0, 0.0],
        [0.0, -60.0],
        [0.0, 106.0, 3.5],
        [1e-30, -1e-30, 0.0],
        [1e30, 1e30, -1e30],
        [709.0, -709.0, 0.1, 0.2],
        [0.0, -500.0, -700.0],
        [5.0, -math.inf, 4.75],
        [0.1 * k for k in range(40)],
    )

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("row", ROWS, ids=str)
    def test_fifty_digits(self, row, smoothing):
        if smoothing and -math.inf in row:
            pytest.skip("a masked class asked of is an infinite loss")
        classes = len(row)
        weight = [0.5 + j for j in range(classes)]
        for label in (0, classes - 1):
            found = digits_of(
                torch.tensor([row], dtype=torch.float64),
                torch.tensor([label]),
                torch.tensor(weight, dtype=torch.float64),
                smoothing,
            )
            want = oracle.loss(row, oracle.asked(oracle.one_hot(label, classes), weight, smoothing))
            assert found.method == "50 digits"
            with mpmath.workdps(60):
                assert abs(mpmath.mpf(found.digits) / want - 1) < mpmath.mpf("5.1e-50")

    def test_probabilities(self):
        logits, target = torch.randn(1, 6) * 9, torch.randn(1, 6).softmax(1)
        found = digits_of(logits, target)
        want = oracle.loss(logits[0].tolist(), target[0].tolist())
        with mpmath.workdps(60):
            assert abs(mpmath.mpf(found.digits) / want - 1) < mpmath.mpf("5.1e-50")

    def test_mean_divides_by_the_weights_of_the_rows_kept(self):
        weight = torch.tensor([1.0, 3.0])
        found = digits_of(torch.zeros(3, 2), torch.tensor([0, 1, -100]), weight, reduction="mean")
        with mpmath.workdps(60):
            assert abs(mpmath.mpf(found.digits) - mpmath.log(2)) < mpmath.mpf("1e-49")

    @pytest.mark.parametrize(
        ("row", "want"), [([math.nan, 0.0], "nan"), ([math.inf, 0.0], "nan"), ([-math.inf, 0.0], "inf")]
    )
    def test_not_a_number_is_said_so(self, row, want):
        assert digits_of(torch.tensor([row]), torch.tensor([0])).digits == want

    def test_a_probability_of_zero_is_left_out(self):
        found = digits_of(torch.tensor([[0.0, -math.inf]]), torch.tensor([[1.0, 0.0]]))
        assert found.value == 0.0

    def test_a_loss_that_no_float_can_hold(self):
        found = digits_of(torch.tensor([[2000.0, 0.0]]), torch.tensor([0]))
        assert found.value == 0.0
        assert Decimal(found.digits).adjusted() == -869  # e^-2000 = 2.57e-869

    def test_beyond_the_limit_it_does_not_claim_fifty_digits(self):
        logits, target = torch.randn(1, exact.LIMIT + 1), torch.tensor([3])
        found = digits_of(logits, target)
        assert found.method == "float64, 15 digits"
        want = oracle.loss(logits[0].tolist(), oracle.one_hot(3, exact.LIMIT + 1))
        assert found.value == pytest.approx(float(want), rel=1e-15)

    def test_at_the_limit_it_does(self):
        assert digits_of(torch.randn(4, exact.LIMIT // 4), torch.tensor([3, 2, 1, 0])).method == "50 digits"


class TestValues:
    def test_values_and_errors_are_those_of_the_call(self):
        logits, target = torch.randn(6, 7), torch.randint(0, 7, (6,))
        walk = explain(logits, target)
        routes = {route.name: route for route in walk.routes}
        torchs = F.cross_entropy(logits, target).item()
        assert routes["F.cross_entropy"].value == torchs
        assert routes["F.cross_entropy"].error == pytest.approx(
            float(Decimal(torchs) - Decimal(walk.exact.digits)), rel=1e-12
        )

    def test_every_route_agrees_on_easy_rows(self):
        found = statuses(torch.randn(6, 7), torch.randint(0, 7, (6,)), torch.rand(7) + 0.5)
        assert found == dict.fromkeys((*HAND, *TORCH, *OURS), "ok")

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 4, 3), (2, 4, 3, 2)])
    def test_every_route_reads_every_shape(self, shape, reduction):
        labels = shape[:1] + shape[2:] if len(shape) > 1 else ()
        target = torch.randint(0, 4, labels)
        if labels:
            target.view(-1)[1] = 7
        found = statuses(torch.randn(shape), target, torch.rand(4) + 0.5, ignore_index=7, reduction=reduction)
        assert set(found.values()) == {"ok"}

    def test_without_reduction_the_worst_row_is_compared(self):
        logits, target = torch.randn(9, 4), torch.randint(0, 4, (9,))
        walk = explain(logits, target, reduction="none")
        losses = F.cross_entropy(logits.double(), target, reduction="none")
        assert walk.exact.value == pytest.approx(losses.max().item(), rel=1e-12)
        assert walk.scope == f"row {int(losses.argmax())} alone"


class TestFailures:
    def test_margin_of_106(self):
        """exp(-106) is no float32: a picked probability of 0, and -log 0."""
        logits = torch.tensor([[0.0, -106.0]])
        found = statuses(logits, torch.tensor([1]))
        assert found[HAND[0]] == found[TORCH[0]] == "underflow"
        assert {found[name] for name in (HAND[1], *TORCH[1:], *OURS)} == {"ok"}

    def test_logits_of_200(self):
        """exp(200) is no float32 either: no maximum was subtracted."""
        found = statuses(torch.tensor([[200.0, 199.0]]), torch.tensor([0]))
        assert found[HAND[0]] == found[HAND[1]] == "overflow"
        assert {found[name] for name in OURS} == {"ok"}

    def test_a_confident_row(self):
        """1 + e^-20 is 1 in float32, so torch's loss is 0; the truth is 2.06e-9."""
        found = statuses(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))
        assert {found[name] for name in (*HAND, *TORCH)} == {"underflow"}
        assert {found[name] for name in OURS} == {"ok"}

    def test_digits_lost_are_counted(self):
        walk = explain(torch.tensor([[14.0, 0.0]]), torch.tensor([0]))
        routes = {route.name: route for route in walk.routes}
        theirs, ours = routes["F.cross_entropy"], routes["xent.cross_entropy"]
        assert theirs.status == "inaccurate"
        ulp = 2.0**-44  # of a float32 between 2**-21 and 2**-20, where e^-14 = 8.3e-7 lies
        assert theirs.ulps == pytest.approx(abs(theirs.error) / ulp, rel=1e-12)
        assert theirs.ulps > 1000
        assert ours.ulps <= 0.51

    def test_float16_sums_overflow(self):
        logits = torch.zeros(8000, 2, dtype=torch.float16)
        logits[:, 1] = 20
        found = statuses(logits, torch.zeros(8000, dtype=torch.int64))
        assert {found[name] for name in OURS} == {"ok"}
        loss = F.cross_entropy(logits, torch.zeros(8000, dtype=torch.int64))
        assert found["F.cross_entropy"] == ("overflow" if loss.isinf() else "ok")

    def test_zero_times_infinity(self):
        found = statuses(torch.tensor([[0.0, 1.0, -math.inf]]), torch.tensor([[0.5, 0.5, 0.0]]))
        assert found["F.cross_entropy"] == "nan"
        assert found["xent.cross_entropy"] == "ok"

    def test_a_loss_that_is_infinite_is_no_failure(self):
        assert statuses(torch.tensor([[0.0, -math.inf]]), torch.tensor([1]))["F.cross_entropy"] == "ok"


class TestNotApplicable:
    def test_nll_loss_and_smoothing(self):
        walk = explain(torch.randn(3, 4), torch.tensor([0, 1, 2]), label_smoothing=0.1)
        found = {route.name: (route.status, route.reason) for route in walk.routes}
        for name in ("F.log_softmax + F.nll_loss", "xent.log_softmax + xent.nll_loss"):
            assert found.pop(name) == ("not applicable", "nll_loss has no label smoothing")
        assert {status for status, _ in found.values()} == {"ok"}

    def test_nll_loss_and_probabilities(self):
        found = statuses(torch.randn(3, 4), torch.randn(3, 4).softmax(1), torch.rand(4))
        assert found.pop("F.log_softmax + F.nll_loss") == "not applicable"
        assert found.pop("xent.log_softmax + xent.nll_loss") == "not applicable"
        assert set(found.values()) == {"ok"}

    def test_what_torch_refuses_is_told_in_its_words(self):
        walk = explain(torch.randn(3, 4), torch.tensor([0, 1, 2], dtype=torch.int16))
        routes = {route.name: route for route in walk.routes}
        assert routes["F.cross_entropy"].status == "not applicable"
        assert routes["F.cross_entropy"].reason.startswith("refused: ")
        assert routes["F.cross_entropy"].value is None
        assert routes["xent.cross_entropy"].status == "ok"
