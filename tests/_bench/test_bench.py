"""What is called, how much memory a step takes, how far off it is: on small shapes, with no word about times."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import xent
from xent._bench import accuracy, memory, row, run
from xent._bench.cases import HEADS, LOGITS, Case, cases_of
from xent._bench.contestants import contestants
from xent._bench.floors import MARK, floors_of
from xent._bench.progress import Silence
from xent._bench.tasks import forward, problem_of, step
from xent._truth import arithmetic
from xent.errors import DeviceError, LoadError, OptionError, ShapeError

PAIR = ["xent", "torch"]
QUICK = {"measures": ["forward", "step"], "rounds": 1}

linux = pytest.mark.skipif(not memory.STATUS.exists(), reason="peaks are read from Linux's /proc")


def wrong_by_one(input, target, **options):
    """A loss that is off by one."""
    return F.cross_entropy(input, target, **options) + 1


def raises_on_a_step(input, target, **options):
    if torch.is_grad_enabled():
        raise RuntimeError("out of luck")
    return F.cross_entropy(input, target, **options)


def spoils(input, target, **options):
    """Writes over its logits, as a loss that keeps its gradient there."""
    loss = F.cross_entropy(input, target, **options)
    with torch.no_grad():
        input.fill_(7.0)
    return loss


HERE = __name__


def errors(case, function, rows):
    return [accuracy.error_of(case, problem_of(case), function, row) for row in rows]


class TestCases:
    @pytest.mark.parametrize("shapes", ["64x10", (64, 10), ["64x10"], [(64, 10)], "64X10"])
    def test_shapes_are_words_or_tuples_one_or_several(self, shapes):
        assert [case.shape for case in cases_of(shapes, "fp32", "cpu", "loss")] == [(64, 10)]

    @pytest.mark.parametrize("dtype", ["bf16", "bfloat16", torch.bfloat16])
    def test_a_dtype_has_a_short_name(self, dtype):
        assert cases_of("64x10", dtype, "cpu", "loss")[0].dtype == "bfloat16"

    def test_there_is_a_default_set(self):
        assert [case.shape for case in cases_of(None, "fp32", "cpu", "loss")] == list(LOGITS)
        assert [case.shape for case in cases_of([], "fp32", "cpu", "linear")] == list(HEADS)
        assert cases_of(None, "fp32", "cuda", "loss")[0].shape[0] > LOGITS[0][0]

    @pytest.mark.parametrize(
        ("shape", "task"), [("64", "loss"), ("64x0", "loss"), ("axb", "loss"), ("64x10", "linear"), (("a",), "loss")]
    )
    def test_a_shape_that_is_none_is_refused(self, shape, task):
        with pytest.raises(ShapeError, match="expected Nx"):
            cases_of([shape], "fp32", "cpu", task)

    def test_classes_and_results(self):
        assert Case("loss", (2, 5, 4, 4), "float32").classes == 5
        assert Case("loss", (2, 5, 4, 4), "float32").results == 2 * 5 * 16 * 4 / 1e6
        head = Case("linear", (64, 32, 1000), "bfloat16")
        assert head.classes == 1000
        assert head.results == (64 + 1000) * 32 * 2 / 1e6


class TestContestants:
    def test_a_label_stands_before_a_target(self):
        (one,) = contestants(["mine=torch"], "loss")
        assert (one.label, one.target, one.version) == ("mine", "torch", torch.__version__)

    def test_every_version_is_that_of_the_package(self):
        assert contestants(["xent"], "loss")[0].version == xent.__version__
        assert contestants(["liger"], "loss")[0].version is None or pytest.importorskip("liger_kernel")

    def test_names_that_are_none(self):
        with pytest.raises(OptionError, match="Did you mean torch"):
            contestants(["tprch"], "loss")
        with pytest.raises(OptionError, match="twice"):
            contestants(["torch", "torch"], "loss")
        with pytest.raises(OptionError, match="empty"):
            contestants([], "loss")

    @pytest.mark.parametrize(
        ("name", "case", "reason"),
        [
            ("optax", Case("loss", (2, 3), "float32"), "NumPy"),
            ("torch-linear", Case("loss", (2, 3), "float32"), "linear head"),
            ("torch-compile", Case("softmax", (2, 3), "float32"), "has no softmax"),
            ("cce", Case("linear", (2, 3, 4), "float32"), "not installed|GPU"),
            ("no.such.module:loss", Case("loss", (2, 3), "float32"), "cannot be loaded"),
        ],
    )
    def test_who_cannot_take_part_says_why(self, name, case, reason):
        refusal = contestants([name], case.task)[0].refusal(case)
        assert refusal is not None
        assert any(word in refusal for word in reason.split("|"))

    def test_a_loss_of_logits_is_given_those_of_a_head(self):
        case = Case("linear", (8, 4, 5), "float32")
        problem = problem_of(case)
        composed = contestants(["torch"], "linear")[0].function(case)
        want = F.cross_entropy(F.linear(*problem.leaves), problem.rest[0])
        assert torch.equal(composed(*problem.leaves, *problem.rest), want)

    def test_all_that_a_task_has_take_part(self):
        assert {"xent", "torch", "torch-compile", "liger"} <= {one.label for one in contestants(None, "loss")}
        assert {"xent-linear", "torch", "torch-linear", "cce"} <= {one.label for one in contestants(None, "linear")}


class TestTasks:
    @pytest.mark.parametrize("task", ["loss", "smoothing", "weights", "probabilities", "ignored"])
    def test_a_step_is_loss_and_gradient_of_the_same_numbers(self, task):
        case = Case(task, (6, 5), "float32")
        first, second = problem_of(case), problem_of(case)
        assert torch.equal(first.leaves[0], second.leaves[0])
        step(first, F.cross_entropy)()
        step(first, F.cross_entropy)()
        step(second, xent.cross_entropy)()
        torch.testing.assert_close(first.leaves[0].grad, second.leaves[0].grad)
        assert first.options.keys() == {"smoothing": {"label_smoothing"}, "weights": {"weight"}}.get(task, set())

    def test_an_ignored_task_ignores_some_rows_and_not_all(self):
        ignored = (problem_of(Case("ignored", (200, 5), "float32")).rest[0] == -100).float().mean()
        assert 0.15 < ignored < 0.45

    def test_a_forward_pass_keeps_no_gradient(self):
        problem = problem_of(Case("loss", (6, 5), "float32"))
        assert not forward(problem, F.cross_entropy)().requires_grad

    @pytest.mark.parametrize("task", ["softmax", "log_softmax"])
    def test_softmax_has_a_gradient_from_above(self, task):
        case = Case(task, (6, 5, 2), "bfloat16")
        problem = problem_of(case)
        for one in contestants(None, task):
            step(problem, one.function(case))()
            assert problem.leaves[0].grad.dtype is torch.bfloat16

    def test_floors(self):
        def names(task, shape, timed):
            case = Case(task, shape, "bfloat16")
            jobs = floors_of(case, problem_of(case), timed)
            for job in jobs.values():
                job()
            return {name.removeprefix(MARK).split()[0] for name in jobs}

        assert names("loss", (3, 5), "step") == {"copy"}
        assert names("loss", (3, 5), "forward") == names("loss", (4, 8), "forward") == {"read"}
        assert names("softmax", (3, 5), "forward") == {"copy"}
        assert names("linear", (3, 4, 5), "step") == {"products"}


class TestAccuracy:
    def rows(self, dtype="float32"):
        case = Case("loss", (5, 7), dtype)
        return case, accuracy.judged(case, problem_of(case))

    def test_a_right_loss_is_within_its_promise_and_a_wrong_one_far_off(self):
        case, rows = self.rows()
        right = errors(case, xent.cross_entropy, rows)
        wrong = errors(case, wrong_by_one, rows)
        assert [error.row for error in right] == ["random", "sure"]
        assert all(error.loss <= 2 and error.gradient <= 3 for error in right)
        assert wrong[0].loss > 1e6
        assert wrong[0].gradient == pytest.approx(right[0].gradient, abs=20)

    def test_the_sure_row_is_where_torch_loses_its_digits(self):
        case, rows = self.rows()
        sure = errors(case, F.cross_entropy, rows)[1]
        assert 1e-8 < rows[1].loss.high.item() < 1e-6
        assert sure.worst > 1e5

    def test_one_ulp_is_one_ulp_of_the_dtype(self):
        _, rows = self.rows("bfloat16")
        true = rows[0].loss
        near = true.high.to(torch.bfloat16)
        off = near + math.ldexp(1.0, math.frexp(float(near))[1] - 8)
        assert accuracy.ulps(near, true, "bfloat16") <= 0.5
        assert accuracy.ulps(off, true, "bfloat16") == pytest.approx(1, abs=0.5)
        assert accuracy.ulps(near.float() * math.nan, true, "bfloat16") != accuracy.ulps(near, true, "bfloat16")

    @pytest.mark.parametrize("shape", [(3, 5, 2, 2), (3, 5)])
    def test_the_call_is_that_of_the_whole_case(self, shape):
        case, seen = Case("loss", shape, "float32"), []

        def looks(input, target, **options):
            seen.append((tuple(input.shape), int((target != -100).sum())))
            return xent.cross_entropy(input, target, **options)

        errors(case, looks, accuracy.judged(case, problem_of(case)))
        assert seen == [(shape, 1), (shape, 1)]

    def test_the_loss_of_a_head_is_judged(self):
        case = Case("linear", (6, 64, 50), "float32")
        rows = accuracy.judged(case, problem_of(case))
        found = errors(case, xent.linear_cross_entropy, rows)
        assert found[0].loss < 3
        assert found[0].gradient is None
        assert 1e-9 < rows[1].loss.high.item() < 1e-3

    def test_where_there_is_no_truth(self):
        assert "no truth of softmax" in accuracy.unjudged(Case("softmax", (3, 5), "float32"))

    @pytest.mark.parametrize(("means", "most", "cure"), [("flint", 150_000, False), ("mpmath", 10_000, True)])
    def test_a_truth_that_takes_too_long_says_what_is_quicker(self, monkeypatch, means, most, cure):
        pytest.importorskip(means)
        monkeypatch.setattr(accuracy, "arithmetic", lambda: arithmetic(means))
        assert accuracy.unjudged(Case("loss", (3, most), "float32")) is None
        reason = accuracy.unjudged(Case("loss", (3, most + 1), "float32"))
        assert f"more than {most:,} classes" in reason
        assert ("xent[audit]" in reason) == cure


@linux
class TestMemory:
    def test_the_peak_of_a_step_is_one_gradient_with_xent_and_more_with_torch(self):
        case = Case("loss", (256, 16_384), "float32")  # 16.8 MB
        ours, theirs = (memory.peak_of(case, contestants([name], "loss")[0]) / case.results for name in PAIR)
        assert 0.9 < ours < 1.3
        assert 1.9 < theirs < 4.0

    @pytest.mark.long
    def test_a_compiler_s_own_memory_is_not_the_step_s(self):
        case = Case("loss", (256, 4096), "float32")  # 4.2 MB; Inductor takes 100 and more
        assert 0.9 < memory.peak_of(case, contestants(["torch-compile"], "loss")[0]) / case.results < 4

    def test_a_process_that_fails_says_so(self):
        case = Case("loss", (4, 5), "float32")
        with pytest.raises(RuntimeError, match="out of luck"):
            memory.peak_of(case, contestants([f"{HERE}:raises_on_a_step"], "loss")[0])


class TestRow:
    def measured(self, *names, measures=("forward", "step", "error")):
        case = Case("loss", (6, 5), "float32", measures=measures)
        return row.row_of(case, contestants(names, "loss"), 1, Silence())

    def test_one_that_fails_on_a_step_keeps_its_forward_pass(self):
        found = self.measured(f"bad={HERE}:raises_on_a_step", "xent")
        bad, ours = found.entries
        assert bad.status == "step: RuntimeError: out of luck"
        assert set(bad.times) == {"forward"}
        assert not bad.errors
        assert (ours.status, set(ours.times), len(ours.errors)) == ("measured", {"forward", "step"}, 2)
        assert "step: RuntimeError: out of luck" in str(
            replace(xent.bench("6x5", implementations=["xent"], **QUICK), rows=(found,))
        )

    def test_one_that_writes_over_its_logits_has_its_own(self, monkeypatch):
        seen, loss = [], xent.cross_entropy

        def looks(input, target, **options):
            seen.append(bool((input == 7.0).any()))
            return loss(input, target, **options)

        monkeypatch.setattr(xent, "cross_entropy", looks)
        self.measured(f"bad={HERE}:spoils", "xent")
        assert seen
        assert not any(seen)

    def test_what_cannot_be_measured_says_why(self, monkeypatch):
        monkeypatch.setattr(row, "can_be_read", lambda device: False)
        monkeypatch.setattr(accuracy, "CLASSES", {"Flint": 4, "Mpmath": 4})
        found = self.measured("torch", measures=("forward", "peak", "error"))
        assert [note.split(":")[0] for note in found.notes] == ["peak", "ulp"]
        bench = xent.bench("6x5", implementations=["torch"], **QUICK)
        shown = replace(bench, rows=(found,))
        assert all(note in str(shown) and note in shown.to_markdown() for note in found.notes)
        assert type(shown).from_dict(shown.to_dict()).rows[0].notes == found.notes
        assert bench.rows[0].notes == ()

    def test_only_what_is_asked_for_is_measured(self):
        found = self.measured("torch", measures=("forward",))
        assert set(found.floors) == set(found.entries[0].times) == {"forward"}
        assert found.entries[0].errors == ()


class TestBench:
    def test_it_measures_what_was_asked(self):
        found = xent.bench(["6x5", (2, 3, 2)], implementations=[*PAIR, "cce"], **QUICK)
        assert [r.case.shape for r in found.rows] == [(6, 5), (2, 3, 2)]
        assert [entry.name for entry in found.rows[0].entries] == [*PAIR, "cce"]
        assert found.rows[0].entries[2].status
        assert found.versions["torch"] == torch.__version__
        assert found.rounds == 1
        assert found.machine["cores"]
        assert "cce" in str(found)

    def test_threads_are_set_and_set_back(self):
        before = torch.get_num_threads()
        assert xent.bench("6x5", implementations=["xent"], threads=2, **QUICK).threads == 2
        assert torch.get_num_threads() == before

    def test_what_cannot_be_is_refused(self, monkeypatch):
        for options in ({"rounds": 0}, {"threads": 0}, {"dtype": "int8"}, {"task": "no"}, {"device": "tpu"}):
            with pytest.raises(OptionError):
                xent.bench("6x5", **options)
        with pytest.raises(OptionError, match="measures"):
            xent.bench("6x5", measures=[])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(DeviceError, match="sees no GPU"):
            xent.bench("6x5", device="cuda")

    def test_one_that_can_take_part_in_one_case_is_enough(self):
        work = [
            (Case(task, (6, 5), "float32", measures=("step",)), contestants(["torch-compile"], "loss"))
            for task in ("loss", "softmax")
        ]
        run._possible(work, 1, None)
        with pytest.raises(LoadError, match="has no softmax"):
            run._possible(work[1:], 1, None)

    def test_nobody_can_take_part(self):
        with pytest.raises(LoadError, match=r"no.such:loss: no\.such:loss cannot be loaded"):
            xent.bench("6x5", implementations=["no.such:loss"])
