"""The benchmark runs, judges what it measured, and writes what its first lines say."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_one_shape_is_measured_judged_and_written(tmp_path):
    path = tmp_path / "new" / "result.json"
    command = [
        sys.executable,
        BENCHMARKS / "run.py",
        "--only",
        "64x10",
        "--rounds",
        "1",
        "--no-compile",
        "--json",
        path,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert result["compile"] == "not asked for"
    assert result["machine"]["threads"] >= 1
    assert [(row["what"], row["shape"]) for row in result["rows"]] == [
        ("loss", "64x10"),
        ("softmax", "64x10"),
        ("log_softmax", "64x10"),
    ]
    for row in result["rows"]:
        ms, ratio = row["ms"], row["ratios"]["torch / xent"]
        assert set(ms) == {"xent", "torch", "copy"}
        assert abs(ratio["median"] * ms["xent"]["median"] / ms["torch"]["median"] - 1) < 0.01
        assert ratio["met"] == (ratio["median"] >= ratio["at least"])
    assert "1.35 met" in done.stdout or "1.35 missed" in done.stdout


@pytest.mark.parametrize(
    ("pattern", "shapes"),
    [
        ("64x10", {"64x10"}),
        ("loss 4096x1000 .*", {"4096x1000"}),
        ("memory", {"1024x32000", "256x128256"}),
        ("4x10", set()),
    ],
)
def test_a_pattern_is_whole_words_of_a_row(pattern, shapes):
    cases = runpy.run_path(str(BENCHMARKS / "cases.py"))
    assert {case.shape for case in cases["CASES"] + cases["MEMORY"] if case.is_in(pattern)} == shapes
