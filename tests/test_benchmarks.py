"""The fixed set runs, is judged, and stands in the README as it was measured."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from xent._bench.cases import Case
from xent._bench.results import MEASURED, Entry, Floor, Measurements, Row, Times

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """The names of a script of benchmarks/."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield lambda name: runpy.run_path(str(BENCHMARKS / name))
    for name in ("cases", "goals"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("pattern", "ratio"),
    [
        ("(log_)?softmax 64x10 .*", "torch / xent"),
        pytest.param("loss 64x10 .*", "torch-compile / xent", marks=pytest.mark.long),
    ],
)
def test_one_shape_is_measured_judged_and_written(tmp_path, pattern, ratio):
    path = tmp_path / "result.json"
    command = [sys.executable, BENCHMARKS / "run.py", "--only", pattern, "--rounds", "1", "--json", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stored = json.loads(path.read_text())
    found = Measurements.from_dict(stored)
    assert len(stored["cases"]) == len(found.rows)
    assert all(re.fullmatch(pattern, case) for case in stored["cases"])
    goals = {(goal["case"], goal["ratio"]): goal for goal in stored["goals"]}
    for case, row in zip(stored["cases"], found.rows, strict=True):
        goal = goals[case, ratio]
        assert goal["median"] == pytest.approx(row.ratio(*ratio.split(" / "), "step").median, rel=0.01)
        assert goal["met"] == (goal["median"] >= goal["at least"])
        word = "met" if goal["met"] else "missed"
        assert re.search(rf"{ratio} [\d.e+]+ >= {goal['at least']:g} {word}", done.stdout)


@pytest.mark.parametrize(
    ("pattern", "shapes"),
    [
        ("64x10", {"64x10"}),
        ("loss 4096x1000 .*", {"4096x1000"}),
        ("memory", {"1024x32000", "256x128256", "2048x512x32000", "1024x1024x128256"}),
        ("train .*", {"2048x512x32000", "1024x1024x128256"}),
        ("4x10", set()),
    ],
)
def test_a_pattern_is_whole_words_of_a_row(script, pattern, shapes):
    cases = script("cases.py")
    every = cases["CASES"] + cases["MEMORY"] + cases["HEADS"]
    assert {case.shape for case in every if case.is_in(pattern)} == shapes


def test_no_two_rows_are_called_the_same(script):
    cases = script("cases.py")
    for rows in (cases["CASES"] + cases["MEMORY"], cases["HEADS"]):
        assert len({row.label for row in rows}) == len(rows)


def given(times=None, peak=None, task="loss", shape=(1000, 1000), measures=("step",), waited=0.0):
    entries = [
        Entry(name, "1", MEASURED, {} if times is None else {measures[0]: Times((ms,))}, peak)
        for name, ms in (times or {"xent": 0, "xent-linear": 0}).items()
    ]
    floor = {measures[0]: Floor("copy", Times((1.0,)))}
    return Row(Case(task, shape, "float32", measures=measures), tuple(entries), floor, waited)


class TestVerdicts:
    @pytest.fixture
    def judged(self, script):
        goals = script("goals.py")
        return lambda ratio, bound, value, row, stretch=None: goals["verdicts"](
            "a case", (goals["Goal"](ratio, bound, value, stretch),), row
        )

    def test_a_ratio_of_times(self, judged):
        row = given({"xent": 2.0, "torch": 20.0})
        (verdict,) = judged("torch / xent", "at least", 12, row)
        assert (verdict["median"], verdict["met"], verdict["busy"]) == (10.0, False, False)
        (verdict,) = judged("xent / floor", "at most", 2.0, row, stretch=1.5)
        assert (verdict["median"], verdict["met"], verdict["stretch met"]) == (2.0, True, False)

    def test_a_busy_row_says_so(self, judged):
        (verdict,) = judged("torch / xent", "at least", 2, given({"xent": 2.0, "torch": 20.0}, waited=0.5))
        assert verdict["busy"]

    def test_what_was_not_measured_has_no_verdict(self, judged):
        assert judged("torch / xent", "at least", 2, given({"xent": 2.0})) == []

    def test_a_peak_is_counted_in_gradients(self, judged):
        (verdict,) = judged("xent / gradient", "at most", 1.05, given(peak=4.4, measures=("peak",)))
        assert (verdict["median"], verdict["met"]) == (1.1, False)

    def test_a_head_keeps_to_its_budget_beyond_its_gradients(self, judged):
        row = given(peak=600.0, task="linear", shape=(10_000, 1000, 5000), measures=("peak",))  # gradients: 60 MB
        (verdict,) = judged("xent-linear / budget", "at most", 1.1, row)
        assert verdict["median"] == pytest.approx((600 - 60) * 1e6 / (512 << 20), rel=1e-3)
        row = given({"xent-linear": 1.0}, 600.0, "linear", (10_000, 1000, 5000), ("forward", "peak"))
        (verdict,) = judged("xent-linear / budget", "at most", 1.1, row)
        assert verdict["median"] == pytest.approx(600 * 1e6 / (512 << 20), rel=1e-3)

    def test_busy_verdicts_are_not_counted(self, script):
        verdicts = [{"met": True, "busy": False}, {"met": False, "busy": False}, {"met": True, "busy": True}]
        assert script("goals.py")["summary"](verdicts) == (
            "1 of 2 goals met; 1 measured on a busy machine are not counted"
        )


PAGES = ["README.md", "docs/design/cpu.md", "docs/design/linear.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_a_page_are_those_of_the_results(script, page):
    """`benchmarks/tables.py --write` writes them anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert script("tables.py")["placed"](ROOT / page, text) == text


@pytest.mark.parametrize("page", PAGES)
def test_a_drifted_page_is_seen(script, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    table = re.search(r"<!-- (\w+):begin -->(.*)<!-- \1:end -->", text, re.S)
    drifted = text.replace(table[2], table[2].replace("1", "2", 1))
    assert drifted != text
    assert script("tables.py")["placed"](ROOT / page, drifted) == text


@pytest.mark.parametrize("name", ["cpu.json", "linear_cpu.json"])
def test_a_page_can_have_every_row_with_its_goals(script, name):
    path = BENCHMARKS / "results" / name
    lines = [line for line in script("tables.py")["goals"](path).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(json.loads(path.read_text())["rows"])
    assert len({line.count("|") for line in lines}) == 1
