"""Every option of the losses shows, and the numbers add up: against 60 digits and against torch's autograd."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import mpmath
import pytest
import torch
import torch.nn.functional as F

import xent
from xent._explain import exact, head
from xent._explain.call import ask
from xent._explain.walk import explain

from . import oracle

WEIGHT = torch.tensor([0.5, 2.0, 0.0, 1.0, 1.5])
TOKEN = torch.tensor([1.0, 0.5, 0.0, 2.0, 3.0, 1.0])
LABELS = torch.tensor([0, 3, 1, -100, 4, 2])

OPTIONS = [
    {"softcap": 5.0},
    {"logit_scale": 0.25},
    {"softcap": 2.0, "logit_scale": 3.0},
    {"z_loss": 0.125},
    {"token_weight": TOKEN},
    {"num_items": 7},
    {"token_weight": TOKEN, "weight": WEIGHT, "z_loss": 0.01},
    {"weight": WEIGHT, "label_smoothing": 0.3, "softcap": 5.0, "z_loss": 0.5},
    {
        "weight": WEIGHT,
        "label_smoothing": 0.1,
        "softcap": 3.0,
        "logit_scale": torch.tensor(0.75),
        "z_loss": 1e-3,
        "token_weight": TOKEN,
        "num_items": torch.tensor(9),
    },
]
REDUCTIONS = ("mean", "sum")


def settled(options, reduction):
    kept = {name: value for name, value in options.items() if name != "num_items" or reduction == "mean"}
    return {**kept, "reduction": reduction}


def truth(logits, target, options):
    """The row losses with 60 digits, None where a row is left out, and the divisor of a mean."""
    weight = options.get("weight", torch.ones(logits.shape[1])).tolist()
    token = options.get("token_weight", torch.ones(len(logits))).tolist()
    soft = target.is_floating_point()
    with mpmath.workdps(60):
        rows, divisor = [], mpmath.mpf(0)
        for n, row in enumerate(logits.tolist()):
            if token[n] == 0 or (not soft and target[n] == -100):
                rows.append(None)
                continue
            share = target[n].tolist() if soft else oracle.one_hot(int(target[n]), len(row))
            x = [shaped(z, options.get("softcap"), float(options.get("logit_scale", 1.0))) for z in row]
            loss = oracle.loss(x, oracle.asked(share, weight, options.get("label_smoothing", 0.0)))
            loss += mpmath.mpf(options.get("z_loss", 0.0)) * mpmath.log(mpmath.fsum(map(mpmath.exp, x))) ** 2
            rows.append(loss * mpmath.mpf(token[n]))
            divisor += mpmath.mpf(token[n]) * (1 if soft else mpmath.mpf(weight[int(target[n])]))
        return rows, mpmath.mpf(float(options["num_items"])) if "num_items" in options else divisor


def shaped(z, cap, scale):
    x = mpmath.mpf(scale) * mpmath.mpf(z)
    return x if cap is None else mpmath.mpf(cap) * mpmath.tanh(x / mpmath.mpf(cap))


def plain(logits, target, options):
    """The sum of the rows' losses in torch, for its gradient."""
    x = logits * float(options.get("logit_scale", 1.0))
    cap = options.get("softcap")
    x = x if cap is None else cap * torch.tanh(x / cap)
    weight, soft = options.get("weight"), target.is_floating_point()
    rows = F.cross_entropy(
        x,
        target.double() if soft else target,
        None if weight is None else weight.double(),
        reduction="none",
        label_smoothing=options.get("label_smoothing", 0.0),
    )
    kept = torch.ones(len(x)) if soft else (target != -100)
    rows = rows + options.get("z_loss", 0.0) * x.logsumexp(1) ** 2 * kept
    return (rows * options.get("token_weight", torch.ones(len(x)))).sum()


@pytest.fixture(params=["labels", "probabilities"])
def target(request):
    return LABELS if request.param == "labels" else torch.randn(6, 5).softmax(1)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options))
class TestEveryTermOfTheLoss:
    logits = (torch.arange(30).reshape(6, 5) * 7919 % 101).float() / 10 - 5

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_fifty_digits(self, options, target, reduction):
        walk = explain(self.logits, target, **settled(options, reduction))
        rows, divisor = truth(self.logits, target, options)
        with mpmath.workdps(60):
            want = mpmath.fsum(loss for loss in rows if loss is not None)
            want = want / divisor if reduction == "mean" else want
            assert abs(mpmath.mpf(walk.exact.digits) / want - 1) < mpmath.mpf("5.1e-50")
        assert walk.loss == walk.exact.value
        ours = {route.name: route.status for route in walk.routes if route.name.startswith("xent.cross")}
        assert ours == {"xent.cross_entropy": "ok"}

    def test_rows(self, options, target):
        walk = explain(self.logits, target, rows="all", **settled(options, "mean"))
        rows, divisor = truth(self.logits, target, options)
        for row, want in zip(walk.rows, rows, strict=True):
            assert row.ignored == (want is None)
            assert row.loss == pytest.approx(float(want or 0), rel=2e-14)
        assert walk.reduction.divisor == pytest.approx(float(divisor), rel=1e-15)
        assert walk.reduction.total == pytest.approx(float(sum(loss for loss in rows if loss is not None)), rel=1e-14)

    def test_terms_add_up(self, options, target):
        walk = explain(self.logits, target, rows="all", **settled(options, "mean"))
        for row in walk.rows:
            if row.ignored:
                assert [term.name for term in row.terms] == ["ignored"]
                continue
            parts = [term.value for term in row.terms if term.adds]
            plain = sum(entry.asked * -entry.log_probability for entry in row.entries if entry.asked)
            z = options.get("z_loss", 0.0) * row.logsumexp**2
            assert sum(parts) == pytest.approx(plain + z if parts else 0.0, rel=1e-13)
            assert row.loss == pytest.approx(row.token_weight * (plain + z), rel=1e-13)

    def test_every_option_has_its_term(self, options):
        walk = explain(self.logits, LABELS, rows=[0], **settled(options, "mean"))
        (row,) = walk.rows
        names = {step.name for step in row.steps} | {term.name for term in row.terms}
        shows = {
            "softcap": "shape",
            "logit_scale": "shape",
            "z_loss": "z-loss",
            "token_weight": "token weight",
            "weight": "class weight",
            "label_smoothing": "label smoothing",
        }
        for option, name in shows.items():
            if option in ("softcap", "logit_scale"):
                assert (name in names) == ("softcap" in options or "logit_scale" in options)
            else:
                assert (name in names) == (option in options), name
        assert (walk.reduction.formula == "num_items, as given") == ("num_items" in options)

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_gradient(self, options, target, reduction):
        walk = explain(self.logits, target, rows="all", **settled(options, reduction))
        double = self.logits.double().requires_grad_()
        (want,) = torch.autograd.grad(plain(double, target, options), double)
        for row in walk.rows:
            if not row.ignored:
                got = [entry.gradient * walk.reduction.divisor for entry in row.entries]
                assert got == pytest.approx(want[row.position].tolist(), rel=1e-11, abs=1e-15)

    def test_the_others_lose_nothing(self, options, target):
        """One shown class, and the rest as one line: the same loss."""
        walk = explain(self.logits, target, rows="all", top=1, **settled(options, "mean"))
        e = options.get("label_smoothing", 0.0)
        for row in walk.rows:
            if row.ignored:
                continue
            others = row.others
            assert others.asked == pytest.approx((1 - e) * others.shares + e / 5 * others.weights, rel=1e-14, abs=1e-16)
            loss = sum(entry.asked * -entry.log_probability for entry in row.entries if entry.asked)
            loss += others.asked * (row.logsumexp - others.logsumexp)
            loss += (1 - e) * others.crowd.shared + e / 5 * others.crowd.weighted
            loss += options.get("z_loss", 0.0) * row.logsumexp**2
            assert row.loss == pytest.approx(row.token_weight * loss, rel=1e-13)

    def test_survey(self, options, target):
        """What finds the worst rows knows every option too."""
        from xent._explain import survey

        call = ask(self.logits, target, options.get("weight"), -100, "none", options.get("label_smoothing", 0.0), **{
            name: value
            for name, value in options.items()
            if name not in ("weight", "label_smoothing", "num_items")
        })  # fmt: skip
        rows, _ = truth(self.logits, target, options)
        assert survey.take(call).loss.tolist() == pytest.approx([float(loss or 0) for loss in rows], rel=1e-13)


class TestOtherTemperatures:
    def test_each_is_the_call_with_that_scale(self):
        logits, target = torch.randn(2, 40) * 4, torch.tensor([3, 17])
        options = {"softcap": 6.0, "logit_scale": 0.5, "weight": torch.rand(40), "label_smoothing": 0.2}
        walk = explain(logits, target, top=3, **options)
        for row in walk.rows:
            shown = [entry.index for entry in row.entries]
            for crowd in row.others.crowds:
                x = 6.0 * torch.tanh(logits[row.position].double() * (0.5 / crowd.temperature) / 6.0)
                hidden = torch.ones(40, dtype=torch.bool)
                hidden[shown] = False
                weight = options["weight"].double()[hidden]
                logsumexp = x[hidden].logsumexp(0)
                assert crowd.logsumexp == pytest.approx(logsumexp.item(), rel=1e-14)
                exponentials = (x[hidden] - x[hidden].max()).exp().sort().values
                assert crowd.rest == pytest.approx(exponentials[:-1].sum().item(), rel=1e-14)
                assert crowd.weighted == pytest.approx((weight * (logsumexp - x[hidden])).sum().item(), rel=1e-13)
                assert crowd.shared == 0.0
            assert row.others.crowd.temperature == 1.0
            assert row.others.crowd.logsumexp == row.others.logsumexp

    def test_masked_classes_are_at_no_distance_unless_asked_of(self):
        logits = torch.tensor([[1.0, 2.0, -math.inf, -math.inf]])
        alone = explain(logits, torch.tensor([0]), top=2).rows[0].others.crowd
        assert (alone.logsumexp, alone.weighted, alone.shared) == (-math.inf, 0.0, 0.0)
        logits[0, 2] = 0.5
        mixed = explain(logits, torch.tensor([0]), top=2).rows[0].others.crowd
        assert (mixed.logsumexp, mixed.weighted, mixed.shared) == (0.5, math.inf, 0.0)


class TestExactTanh:
    @pytest.mark.parametrize("x", [1e-300, 1e-20, 3e-5, 0.5, 7.0, 79.0, 81.0, 1e300, -0.25, 0.0])
    def test_sixty_digits(self, x):
        from decimal import Decimal, localcontext

        with localcontext(exact.CONTEXT), mpmath.workdps(80):
            found, want = exact._tanh(Decimal(x)), mpmath.tanh(mpmath.mpf(x))
            assert mpmath.mpf(str(found)) == pytest.approx(want) if x == 0 else True
            assert x == 0 or abs(mpmath.mpf(str(found)) / want - 1) < mpmath.mpf("1e-57")

    def test_what_is_no_number(self):
        assert explain([[-math.inf, 1.0]], [0], softcap=2.0).loss == pytest.approx(
            math.log1p(math.exp(2 + 2 * math.tanh(0.5))), rel=1e-14
        )
        assert math.isnan(explain([[math.nan, 1.0]], [0], softcap=2.0).loss)


class TestShiftDimAndNothing:
    def test_shift_asks_every_token_for_the_next(self):
        logits, ids = torch.randn(2, 7, 4), torch.tensor([[1, 2, 3, 4], [5, 6, 0, 1]])
        walk = explain(logits, ids, shift=1, rows="all")
        assert walk.loss == pytest.approx(xent.cross_entropy(logits.double(), ids, shift=1).item(), rel=1e-14)
        assert [row.target for row in walk.rows] == [2, 3, 4, -100, 6, 0, 1, -100]

    def test_dim(self):
        logits, target = torch.randn(2, 3, 4, 5), torch.randint(0, 5, (2, 3, 4))
        walk = explain(logits, target, dim=-1)
        assert walk.loss == pytest.approx(xent.cross_entropy(logits.double(), target, dim=-1).item(), rel=1e-14)
        assert "classes last?" not in [caution.kind for caution in walk.cautions]

    @pytest.mark.parametrize(("asked", "want"), [("nan", math.nan), ("zero", 0.0)])
    def test_a_mean_over_nothing(self, asked, want):
        walk = explain(torch.zeros(2, 3), torch.tensor([-100, -100]), all_ignored=asked)
        assert walk.loss == pytest.approx(want, nan_ok=True)
        assert walk.exact.value == pytest.approx(want, nan_ok=True)

    def test_a_token_weight_of_zero_hides_what_is_no_number(self):
        logits = torch.tensor([[math.nan, 1.0], [2.0, 1.0]])
        walk = explain(logits, torch.tensor([0, 0]), token_weight=torch.tensor([0.0, 1.0]))
        assert walk.loss == pytest.approx(math.log1p(math.exp(-1)), rel=1e-15)
        assert walk.rows[0].terms[0].substituted == "token weight = 0"

    @pytest.mark.parametrize(
        "options",
        [
            {"token_weight": torch.ones(4)},
            {"num_items": -1},
            {"num_items": 3, "reduction": "sum"},
            {"softcap": 0.0},
            {"logit_scale": -1.0},
            {"z_loss": "much"},
            {"all_ignored": "none"},
            {"shift": -1},
            {"dim": 7},
        ],
        ids=str,
    )
    def test_refused_as_the_loss_refuses(self, options):
        logits, target = torch.randn(3, 5), torch.tensor([0, 1, 2])
        with pytest.raises(xent.XentError) as theirs:
            xent.cross_entropy(logits, target, **options)
        with pytest.raises(type(theirs.value)) as ours:
            explain(logits, target, **options)
        assert str(ours.value) == str(theirs.value)


class TestLinearHead:
    hidden, weight, bias = torch.randn(6, 4), torch.randn(5, 4), torch.randn(5)

    @pytest.mark.parametrize("options", [{}, *OPTIONS], ids=lambda options: "+".join(options) or "plain")
    @pytest.mark.parametrize("bias", [None, bias], ids=["no bias", "bias"])
    def test_is_the_walk_of_its_logits(self, options, bias, target):
        walk = explain(self.hidden, target, linear_weight=self.weight, linear_bias=bias, **options)
        want = explain(F.linear(self.hidden, self.weight, bias), target, **options)
        assert walk.loss == pytest.approx(want.loss, rel=1e-6)
        for row, wanted in zip(walk.rows, want.rows, strict=True):
            assert row.loss == pytest.approx(wanted.loss, rel=1e-5, abs=1e-6)
            assert row.terms == pytest.approx(wanted.terms) or [t.name for t in row.terms] == [
                t.name for t in wanted.terms
            ]
            if not row.ignored:
                assert row.steps[0].name == "head"
                assert row.picked.logit == row.steps[0].value

    def test_survey_finds_the_worst_rows_and_the_loss_of_all(self, monkeypatch):
        from xent._explain import walk

        monkeypatch.setattr(walk, "ROUTE_LIMIT", 40)
        hidden, weight, target = torch.randn(30, 4), torch.randn(20, 4) * 3, torch.randint(0, 20, (30,))
        target[4] = -100
        found = explain(hidden, target, linear_weight=weight)
        losses = F.cross_entropy(F.linear(hidden, weight).double(), target, reduction="none")
        assert [row.position for row in found.rows] == losses.sort(descending=True).indices[:3].tolist()
        assert found.loss == pytest.approx(losses.sum().item() / 29, rel=1e-6)
        assert found.scope == "2 of the rows shown"
        assert found.shape == (30, 20)

    def test_logits_are_made_of_the_rows_shown_alone(self, monkeypatch):
        made, linear = [], F.linear
        monkeypatch.setattr(head.F, "linear", lambda h, w, b=None: made.append(len(h)) or linear(h, w, b))
        monkeypatch.setattr("xent._explain.walk.ROUTE_LIMIT", 40)
        explain(torch.randn(300, 4), torch.zeros(300, dtype=torch.int64), linear_weight=torch.randn(20, 4), rows=[7, 9])
        assert sorted(made) == [1, 1, 2, 2]  # each row shown, and twice the two that the routes are compared on

    def test_further_dimensions_of_the_head(self):
        hidden, weight = torch.randn(3, 4), torch.randn(5, 2, 4)
        target = torch.randint(0, 5, (3, 2))
        walk = explain(hidden, target, linear_weight=weight, rows="all")
        logits = torch.einsum("nd,vkd->nvk", hidden, weight)
        want = explain(logits, target, rows="all")
        assert [row.index for row in walk.rows] == [row.index for row in want.rows]
        assert [row.loss for row in walk.rows] == pytest.approx([row.loss for row in want.rows], rel=1e-5)
        assert walk.loss == pytest.approx(want.loss, rel=1e-6)

    def test_shift(self):
        hidden, weight, ids = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randint(0, 5, (2, 3))
        walk = explain(hidden, ids, linear_weight=weight, shift=1)
        want = xent.linear_cross_entropy(hidden, weight, ids, shift=1, dtype=torch.float64)
        assert walk.loss == pytest.approx(want.item(), rel=1e-6)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"linear_bias": torch.ones(5)}, "linear_weight"),
            ({"linear_weight": torch.ones(5, 4), "dim": 1}, "dim=1"),
            ({"linear_weight": torch.ones(4, 5)}, "linear_weight.T"),
            ({"linear_weight": torch.ones(5, 4), "linear_bias": torch.ones(4)}, "linear_bias has shape"),
        ],
        ids=str,
    )
    def test_refused(self, options, says):
        with pytest.raises(xent.XentError, match=re.escape(says)):
            explain(self.hidden, LABELS, **options)


class TestNames:
    class Tokenizer:
        tokens = ("<s>", "Ġthe", "a\nb", b"\xff", None)

        def convert_ids_to_tokens(self, ids):
            return [self.tokens[j] for j in ids]

    class Decoder:
        def decode(self, ids):
            return [" the", "  ", "x", "\u2028"][ids[0]]

    def names(self, labels, classes=5):
        row = explain(torch.zeros(1, classes), torch.tensor([0]), labels=labels).rows[0]
        return [entry.label for entry in row.entries]

    def test_a_tokenizer(self):
        assert self.names(self.Tokenizer()) == ["<s>", "Ġthe", "a\\nb", "\ufffd", None]

    def test_whatever_decodes_and_has_fewer_tokens_than_the_head(self):
        assert self.names(self.Decoder()) == ["␣the", "␣␣", "x", "\\u2028", None]

    def test_only_the_classes_shown_are_asked_for(self):
        asked = []
        tokenizer = self.Decoder()
        tokenizer.decode = lambda ids: asked.extend(ids) or "x"  # type: ignore[method-assign]
        explain(torch.arange(1000.0).reshape(1, -1), torch.tensor([7]), labels=tokenizer)
        assert sorted(asked) == [7, 995, 996, 997, 998, 999]

    @pytest.mark.parametrize("labels", [7, "abcde", iter("abcde")])
    def test_neither(self, labels):
        with pytest.raises(xent.ArgumentError, match="names of the classes, or a tokenizer"):
            self.names(labels)


CODE = r"""
import re, time, torch, xent
def kilobytes(name):
    return int(re.search(name + r":\s+(\d+)", open("/proc/self/status").read())[1])
rows, classes = 4096, 128_256
logits = torch.empty(rows, classes, dtype=torch.bfloat16)
for part in logits.split(256):
    part.copy_(torch.randn(len(part), classes) * 3)
target = torch.randint(classes, (rows,))
xent.explain(logits[:2, :9].contiguous(), torch.tensor([0, 1]))
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before, start = kilobytes("VmRSS"), time.process_time()
xent.explain(logits, target)
print("peak", (kilobytes("VmHWM") - before) / 1024, "seconds", time.process_time() - start)
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell its peak there")
def test_a_batch_of_a_training_run():
    """4096 x 128,256: 200 MB beyond the input, and 1.5 s of one thread; twice that is for slower machines."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # two threads that wait for each other count their waiting
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=environment)
    out = run.stdout
    found = re.search(r"peak (\S+) seconds (\S+)", out)
    assert found
    assert float(found[1]) < 200
    assert float(found[2]) < 3
