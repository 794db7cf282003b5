"""The walk shows the numbers that arithmetic done elsewhere gives."""

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F

import xent
from xent._explain.derivation import Derivation
from xent._explain.walk import explain

FIRST = torch.tensor(
    [
        [-2.9086, 0.3386, -1.4360],
        [-0.7140, -0.5427, -0.4925],
        [2.5223, 1.0760, -0.3562],
        [-0.0757, 0.6754, -0.0623],
        [-0.6869, -0.3563, 0.8194],
    ]
)
FIRST_TARGET = torch.tensor([0, 2, 1, 1, 0])
SECOND = torch.tensor(
    [
        [0.0590, 0.3317, 1.2978, -1.3694, 0.2554],
        [0.9160, 2.4308, -1.3641, -0.4327, 0.0316],
        [-0.7676, -0.6493, 0.0933, -0.9304, -1.1471],
    ]
)
SECOND_TARGET = torch.tensor([3, 0, 2])


def column(derivation, name):
    return torch.tensor(
        [[getattr(entry, name) for entry in row.entries] for row in derivation.rows], dtype=torch.float64
    )


def assert_as_printed(got, want):
    """The notebooks computed from more digits of the logits than they print: each rounded logit moves a result by
    up to 5e-5, an exp by 5e-5 of itself, and the print by 5e-5 more."""
    want = torch.as_tensor(want, dtype=torch.float64)
    torch.testing.assert_close(torch.as_tensor(got, dtype=torch.float64), want, rtol=5e-5, atol=1e-4)


class TestTheNotebooks:
    def test_first_intermediate_tables(self):
        walk = explain(FIRST, FIRST_TARGET)
        peak = torch.tensor([row.peak for row in walk.rows], dtype=torch.float64).exp()
        exps = column(walk, "exponential") * peak.unsqueeze(1)
        want = [
            [0.0546, 1.4029, 0.2379],
            [0.4897, 0.5812, 0.6111],
            [12.4571, 2.9328, 0.7003],
            [0.9271, 1.9648, 0.9396],
            [0.5032, 0.7003, 2.2692],
        ]
        assert_as_printed(exps, want)
        want = [
            [0.0322, 0.8275, 0.1403],
            [0.2911, 0.3455, 0.3633],
            [0.7742, 0.1823, 0.0435],
            [0.2420, 0.5128, 0.2452],
            [0.1449, 0.2016, 0.6535],
        ]
        assert_as_printed(column(walk, "probability"), want)
        sums = [(1 + row.rest) * math.exp(row.peak) for row in walk.rows]
        assert_as_printed(sums, [1.6953, 1.6820, 16.0903, 3.8314, 3.4727])

    def test_first_picks_and_loss(self):
        walk = explain(FIRST, FIRST_TARGET)
        assert_as_printed([row.picked.probability for row in walk.rows], [0.0322, 0.3633, 0.1823, 0.5128, 0.1449])
        assert_as_printed([row.loss for row in walk.rows], [3.4365, 1.0124, 1.7022, 0.6679, 1.9318])
        assert round(walk.loss, 4) == 1.7502
        assert {round(route.value, 4) for route in walk.routes} == {1.7502}

    def test_second(self):
        walk = explain(SECOND, SECOND_TARGET)
        want = [
            [-1.9771, -1.7044, -0.7383, -3.4055, -1.7807],
            [-1.8442, -0.3295, -4.1243, -3.1929, -2.7286],
            [-1.7959, -1.6776, -0.9350, -1.9587, -2.1754],
        ]
        assert_as_printed(column(walk, "log_probability"), want)
        assert round(walk.loss, 4) == 2.0616
        assert {round(route.value, 4) for route in walk.routes} == {2.0616}


OPTIONS = [
    {},
    {"label_smoothing": 0.1},
    {"weight": torch.tensor([0.5, 2.0, 0.0, 1.0])},
    {"weight": torch.tensor([0.5, 2.0, 0.0, 1.0]), "label_smoothing": 0.3},
    {"reduction": "sum"},
    {"reduction": "none", "label_smoothing": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("soft", [False, True])
class TestAgainstAutograd:
    """torch in float64 on moderate logits is right to 1e-13, gradient and all."""

    def both(self, soft, options):
        logits = torch.randn(5, 4, requires_grad=True)
        target = torch.randn(5, 4).softmax(1) if soft else torch.tensor([0, 3, -100, 1, 2])
        double = logits.detach().double().requires_grad_()
        weight = options.get("weight")
        settings = {**options, "weight": None if weight is None else weight.double()}
        loss = F.cross_entropy(double, target.double() if soft else target, **settings)
        rows = F.cross_entropy(double, target.double() if soft else target, **{**settings, "reduction": "none"})
        loss.sum().backward()
        return explain(logits, target, **options), loss, rows, double.grad

    def test_losses(self, soft, options):
        walk, loss, rows, _ = self.both(soft, options)
        assert [row.loss for row in walk.rows] == pytest.approx(rows.tolist(), rel=1e-12)
        if options.get("reduction") == "none":
            assert walk.loss is None
        else:
            assert walk.loss == pytest.approx(loss.item(), rel=1e-12)
            assert walk.reduction.total / walk.reduction.divisor == pytest.approx(loss.item(), rel=1e-12)

    def test_gradients(self, soft, options):
        walk, _, _, gradient = self.both(soft, options)
        for row, want in zip(walk.rows, gradient.tolist(), strict=True):
            if not row.ignored:
                assert [entry.gradient for entry in row.entries] == pytest.approx(want, rel=1e-11, abs=1e-17)

    def test_what_is_asked_makes_the_loss(self, soft, options):
        walk, _, _, _ = self.both(soft, options)
        for row in walk.rows:
            if not row.ignored:
                parts = (entry.asked * -entry.log_probability for entry in row.entries)
                assert sum(parts) == pytest.approx(row.loss, rel=1e-12)

    def test_terms_add_up(self, soft, options):
        walk, _, _, _ = self.both(soft, options)
        for row in walk.rows:
            terms = {term.name: term.value for term in row.terms}
            if "label_smoothing" in options and not row.ignored:
                assert terms["target's share"] + terms["label smoothing"] == pytest.approx(row.loss, rel=1e-12)
            elif "weight" in options and not soft and not row.ignored:
                assert terms == {"class weight": pytest.approx(row.loss, rel=1e-12)}
            else:
                assert set(terms) == ({"ignored"} if row.ignored else set())


class TestSteps:
    def test_values_and_substituted_numbers(self):
        row = explain([[2.0, 1.0, 0.1]], [0]).rows[0]
        steps = {step.name: step for step in row.steps}
        assert list(steps) == ["peak", "sum", "pick", "−log", "gradient"]
        assert steps["sum"].value == pytest.approx(1 + math.exp(-1.0) + math.exp(-1.9), rel=1e-7)
        assert "logsumexp = 2.0000 + 0.417030 = 2.417030" in steps["sum"].substituted
        assert steps["pick"].substituted == "exp(2.0000 − 2.4170) = 0.659001"
        assert steps["−log"].value == pytest.approx(0.4170300, rel=1e-6)
        assert steps["gradient"].substituted == "(0.659001 − 1) × 1.000000 = -0.3410"

    def test_a_confident_row_keeps_its_digits(self):
        row = explain(torch.tensor([[20.0, 0.0]]), torch.tensor([0])).rows[0]
        assert row.rest == pytest.approx(math.exp(-20), rel=1e-14)
        assert row.loss == pytest.approx(2.0611536181902037e-09, rel=1e-14)
        assert row.picked.gradient == pytest.approx(-2.0611536139418493e-09, rel=1e-14)


class TestOthers:
    @pytest.mark.parametrize("classes", [13, 131_072])
    def test_nothing_is_lost_in_the_one_line(self, classes):
        logits, target = torch.randn(6, classes) * 3, torch.randint(0, classes, (6,))
        target[4] = -100
        walk = explain(logits, target, rows="all")
        for row in walk.rows[:4]:
            others = row.others
            assert others.count + len(row.entries) == classes
            for name, whole in (("probability", 1.0), ("gradient", 0.0), ("asked", 1.0)):
                assert getattr(others, name) + sum(getattr(entry, name) for entry in row.entries) == pytest.approx(
                    whole, abs=1e-13
                )
            exponentials = others.exponentials + sum(entry.exponential for entry in row.entries)
            assert exponentials == pytest.approx(1 + row.rest, rel=1e-13)
            assert others.logsumexp == pytest.approx(row.peak + math.log(others.exponentials), rel=1e-13)
            hidden = set(range(classes)) - {entry.index for entry in row.entries}
            assert others.max_logit == logits[row.position, list(hidden)].max().item()

    def test_the_target_is_shown_whatever_its_rank(self):
        logits = torch.arange(1000.0).reshape(1, -1)
        row = explain(logits, torch.tensor([7])).rows[0]
        assert [entry.index for entry in row.entries] == [999, 998, 997, 996, 995, 7]
        assert (row.picked.index, row.picked.rank) == (7, 993)

    def test_top_zero_leaves_the_target(self):
        row = explain([[3.0, 2.0, 1.0]], [2], top=0).rows[0]
        assert [entry.index for entry in row.entries] == [2]
        assert row.others.count == 2

    def test_ranks_of_equal_logits_are_equal(self):
        row = explain([[1.0, 2.0, 2.0, 0.0]], [3]).rows[0]
        assert [entry.rank for entry in row.entries] == [3, 1, 1, 4]


class TestSelection:
    logits = torch.tensor([[0.0, float(k)] for k in (3, 9, 1, 7, 5, 2)])
    target = torch.zeros(6, dtype=torch.int64)

    def positions(self, **options):
        return [row.position for row in explain(self.logits, self.target, **options).rows]

    def test_the_worst_three_of_many(self):
        assert self.positions() == [1, 3, 4]

    def test_all_of_few(self):
        assert [row.position for row in explain(self.logits[:5], self.target[:5]).rows] == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize(("rows", "want"), [(2, [2]), (-1, [5]), ([0, (4,)], [0, 4]), ("all", [0, 1, 2, 3, 4, 5])])
    def test_asked_for(self, rows, want):
        assert self.positions(rows=rows) == want

    def test_nan_is_the_worst_and_ignored_rows_are_not(self):
        logits, target = self.logits.clone(), self.target.clone()
        logits[2, 0], target[1] = math.nan, -100
        assert [row.position for row in explain(logits, target).rows] == [2, 3, 4]

    @pytest.mark.parametrize("rows", [6, -7, (0, 0), "best", [(9,)]])
    def test_refused(self, rows):
        with pytest.raises(xent.OptionError):
            self.positions(rows=rows)

    def test_index_of_a_pixel(self):
        logits, target = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
        losses = F.cross_entropy(logits.double(), target, reduction="none")
        row = explain(logits, target).rows[0]
        assert row.index == tuple(int(i) for i in (losses == losses.max()).nonzero()[0])
        assert row.loss == pytest.approx(losses.max().item(), rel=1e-12)
        assert explain(logits, target, rows=(1, 3, 2)).rows[0].position == 1 * 20 + 3 * 5 + 2


class TestInputs:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("integer", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.uint64])
    def test_dtypes(self, dtype, integer):
        logits = torch.randn(3, 4).to(dtype)
        walk = explain(logits, torch.tensor([0, 1, 3]).to(integer))
        assert walk.loss == pytest.approx(F.cross_entropy(logits.double(), torch.tensor([0, 1, 3])).item(), rel=1e-12)
        assert walk.dtype == str(dtype).removeprefix("torch.")

    def test_lists_arrays_and_one_row(self):
        numpy = pytest.importorskip("numpy")
        want = explain(torch.tensor([2.0, 1.0, 0.1]), torch.tensor(0))
        assert want.rows[0].index == ()
        assert explain([2.0, 1.0, 0.1], 0) == want
        assert explain(numpy.array([2.0, 1.0, 0.1], dtype="float32"), numpy.array(0)) == want

    def test_inputs_are_left_alone(self):
        logits = torch.randn(7, 20, requires_grad=True)
        target, weight = torch.randn(7, 20).softmax(1), torch.rand(20)
        before = [tensor.detach().clone() for tensor in (logits, target, weight)]
        explain(logits, target, weight, label_smoothing=0.1)
        for tensor, was in zip((logits, target, weight), before, strict=True):
            assert torch.equal(tensor, was)
            assert tensor.grad is None
            assert tensor._version == 0

    def test_works_where_no_gradient_may_be_taken(self):
        with torch.inference_mode():
            assert explain(FIRST.clone(), FIRST_TARGET).rows[0].entries[0].gradient != 0

    @pytest.mark.parametrize(
        ("logits", "target", "options"),
        [
            (torch.randn(3, 4), torch.tensor([0, 4, 1]), {}),
            (torch.randn(3, 4), torch.tensor([0, 1]), {}),
            (torch.randn(3, 4), torch.tensor([0.0, 1.0, 2.0]), {}),
            (torch.randn(3, 4), torch.zeros(3, 4, dtype=torch.int64), {}),
            (torch.ones(3, 4, dtype=torch.int64), torch.tensor([0, 1, 2]), {}),
            (torch.randn(3, 4), torch.tensor([0, 1, 2]), {"weight": torch.ones(3)}),
            (torch.randn(3, 4), torch.tensor([0, 1, 2]), {"reduction": "average"}),
            (torch.randn(3, 4), torch.tensor([0, 1, 2]), {"label_smoothing": 1.5}),
            (torch.randn(3, 4), torch.rand(3, 4), {"ignore_index": 2}),
        ],
    )
    def test_refused_as_the_loss_refuses(self, logits, target, options):
        with pytest.raises(xent.XentError) as theirs:
            xent.cross_entropy(logits, target, **options)
        with pytest.raises(type(theirs.value)) as ours:
            explain(logits, target, **options)
        assert str(ours.value).replace("logits", "input") == str(theirs.value).replace("logits", "input")

    @pytest.mark.parametrize("options", [{"labels": ["a", "b"]}, {"top": -1}, {"top": 1.5}])
    def test_own_options_refused(self, options):
        with pytest.raises(xent.OptionError):
            explain(FIRST, FIRST_TARGET, **options)

    @pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)])
    def test_no_rows(self, shape):
        walk = explain(torch.zeros(shape), torch.zeros(shape[:1] + shape[2:], dtype=torch.int64))
        assert walk.rows == ()
        assert math.isnan(walk.loss)

    def test_ignored_rows_may_hold_anything(self):
        logits = FIRST.clone()
        logits[1] = math.nan
        walk = explain(logits, torch.tensor([0, -100, 1, 1, 0]))
        assert walk.rows[1].ignored
        assert (walk.rows[1].loss, walk.rows[1].entries) == (0.0, ())
        assert (walk.reduction.ignored, walk.reduction.divisor) == (1, 4.0)
        assert walk.loss == pytest.approx((3.4365 + 1.7022 + 0.6679 + 1.9318) / 4, abs=1e-4)

    def test_masked_classes(self):
        row = explain([[1.0, -math.inf, 0.0]], [0]).rows[0]
        assert row.loss == pytest.approx(math.log1p(math.exp(-1)), rel=1e-14)
        assert (row.entries[1].probability, row.entries[1].gradient) == (0.0, 0.0)


class TestBig:
    def test_losses_of_the_survey_are_those_of_the_library(self):
        logits, target = torch.randn(9, 131_072) * 4, torch.randint(0, 131_072, (9,))
        logits[5, target[5]] += 200
        walk = explain(logits, target)
        losses = xent.cross_entropy(logits.double(), target, reduction="none")
        assert [row.position for row in walk.rows] == losses.sort(descending=True).indices[:3].tolist()
        assert walk.loss == pytest.approx(losses.mean().item(), rel=1e-13)
        assert walk.scope == "3 of the rows shown"
        assert walk.exact.value == pytest.approx(losses[[row.position for row in walk.rows]].mean().item(), rel=1e-14)

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    @pytest.mark.parametrize("soft", [False, True])
    def test_survey_in_blocks(self, monkeypatch, soft, options):
        from xent._explain import call, survey

        monkeypatch.setattr(survey, "BLOCK", 16)
        logits = torch.randn(3, 4, 7) * 20
        target = torch.randn(3, 4, 7).softmax(1) if soft else torch.randint(0, 4, (3, 7))
        question = call.ask(logits, target, options.get("weight"), -100, "none", options.get("label_smoothing", 0.0))
        want = xent.cross_entropy(
            logits.double(), target.double() if soft else target, **{**options, "reduction": "none"}
        )
        assert survey.take(question).loss.tolist() == pytest.approx(want.reshape(-1).tolist(), rel=1e-12, abs=1e-300)


class TestData:
    walks = (
        lambda: explain(FIRST, FIRST_TARGET, labels=["a", "b", "c"]),
        lambda: explain(torch.tensor([[0.0, 200.0]]), torch.tensor([0])),
        lambda: explain(torch.tensor([[math.nan, 1.0], [-math.inf, 2.0]]), torch.tensor([0, 0])),
        lambda: explain(torch.zeros(2, 3), torch.tensor([-100, -100])),
        lambda: explain(torch.randn(20, 30), torch.rand(20, 30), reduction="none"),
    )

    @pytest.mark.parametrize("make", walks)
    def test_json_round_trip(self, make):
        data = make().to_dict()
        assert data["schema"] == "xent.explain/1"
        assert json.loads(json.dumps(data, allow_nan=False)) == data

    def test_numbers_that_are_not_finite_survive(self):
        data = explain(torch.tensor([[0.0, 200.0]]), torch.tensor([1])).to_dict()
        assert data["routes"][0]["value"] == "nan"
        assert explain(torch.tensor([[-math.inf, 2.0]]), torch.tensor([0])).to_dict()["loss"] == "inf"

    @pytest.mark.parametrize("make", walks)
    def test_holds_plain_values_only(self, make):
        def leaves(value):
            if dataclasses.is_dataclass(value):
                for field in dataclasses.fields(value):
                    yield from leaves(getattr(value, field.name))
            elif isinstance(value, tuple):
                for item in value:
                    yield from leaves(item)
            else:
                yield type(value)

        assert set(leaves(make())) <= {int, float, str, bool, type(None)}

    def test_frozen(self):
        walk = explain(FIRST, FIRST_TARGET)
        assert isinstance(walk, Derivation)
        with pytest.raises(dataclasses.FrozenInstanceError):
            walk.loss = 0.0  # type: ignore[misc]

    def test_repr_is_two_lines(self):
        assert repr(explain(FIRST, FIRST_TARGET)) == (
            "Derivation: loss 1.750170887 nats (mean of 5 × 3 logits, float32)\n"
            "  worst row shown: [0], target 0, loss 3.43653"
        )

    def test_the_door_holds_the_function_whatever_was_imported_first(self):
        import xent._explain.walk

        assert xent.explain(FIRST, FIRST_TARGET).loss == explain(FIRST, FIRST_TARGET).loss
