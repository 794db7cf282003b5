"""What was measured as data: ratios, JSON and back, comparisons."""

import json

import pytest

from xent._bench import compare
from xent._bench.results import Floor, Measurements, Row, Times, as_json
from xent.errors import FileError

from .given import MACHINE, measurements


def test_a_ratio_is_of_the_rounds_that_have_both():
    ratio = Times((20.0, 30.0, None)).over(Times((2.0, 6.0, 1.0)))
    assert ratio.rounds == (10.0, 5.0)
    assert ratio.median == 7.5
    assert Times((None, 8.0)).over(Times((2.0,))).rounds == (4.0,)


def test_the_spread_is_the_largest_distance_from_the_median():
    assert Times((1.0, 2.0, 2.5)).spread == 0.5
    assert Times((2.0, None)).spread == 0.0


def test_a_row_has_ratios_of_implementations_and_of_the_floor():
    row = measurements().rows[0]
    assert row.ratio("torch", "xent", "step").rounds == (10.0, 10.0)
    assert row.ratio("xent", "floor", "step").rounds == (2.0, 3.0, 1.25)
    assert row.ratio("xent", "floor", "forward") is None  # it has no floor
    assert row.ratio("liger", "xent", "step") is None
    assert row.ratio("nobody", "xent", "step") is None


def test_json_and_back():
    found = measurements()
    stored = json.loads(as_json(found.to_dict()))
    assert stored["schema"] == "xent.bench/1"
    step = stored["rows"][0]["entries"][0]["ms"]["step"]
    assert step == {"median": 2.5, "min": 2.0, "max": 3.0, "rounds": [2.0, 3.0, 2.5]}
    assert stored["rows"][0]["entries"][0]["errors"][0]["gradient"] == "inf"
    assert Measurements.from_dict(stored) == found


def test_json_has_the_numbers_of_a_list_in_one_line():
    lines = as_json(measurements().to_dict()).splitlines()
    assert any(line.strip() == '"rounds": [2.0, 3.0, 2.5]' for line in lines)
    assert any(line.strip() == '"shape": [4096, 1000],' for line in lines)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"schema": "xent.explain/1"}, "'xent.explain/1': expected 'xent.bench/1'"),
        ([], "'list'"),
        ({"schema": "xent.bench/1"}, "KeyError"),
        ({**measurements().to_dict(), "rows": [{"task": "loss"}]}, "KeyError"),
    ],
)
def test_what_is_no_measurement_is_refused(stored, words):
    with pytest.raises(FileError, match=words):
        Measurements.from_dict(stored)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileError, match=r"nothing\.json"):
        Measurements.read(tmp_path / "nothing.json")
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    with pytest.raises(FileError, match=r"bad.json: schema None"):
        Measurements.read(bad)


class TestComparison:
    def test_a_change_is_the_ratio_of_the_medians_and_its_spread(self):
        changes = measurements().against(measurements(scale=0.5)).changes
        step = next(one for one in changes if (one.implementation, one.measure) == ("xent", "step"))
        assert (step.before, step.after, step.ratio) == (2.5, 1.25, 0.5)
        assert (step.low, step.high) == (1.0 / 3.0, 1.5 / 2.0)
        assert step.word == "less"

    @pytest.mark.parametrize(("scale", "word"), [(1.0, "same"), (1.4, "same"), (1.6, "more"), (0.5, "less")])
    def test_what_lies_within_the_spread_is_no_change(self, scale, word):
        changes = measurements().against(measurements(scale=scale)).changes
        assert {one.word for one in changes if one.implementation == "xent" and one.measure == "step"} == {word}

    def test_floors_and_peaks_are_compared_too(self):
        seen = {(one.implementation, one.measure) for one in measurements().against(measurements()).changes}
        assert {("floor", "step"), ("xent", "peak"), ("torch", "forward")} <= seen

    def test_a_word_where_the_machines_differ(self):
        other = measurements(machine={**MACHINE, "processor": "Another"})
        found = measurements().against(other)
        assert found.differences == {"processor": ("A Processor", "Another")}
        assert "measured on different ground" in str(found)
        assert "processor: A Processor -> Another" in str(found)
        assert "different ground" not in str(measurements().against(measurements()))

    def test_the_load_is_no_difference(self):
        found = measurements(machine={**MACHINE, "load before": 2.0}).against(measurements())
        assert found.differences == {}

    def test_what_only_one_has_is_named(self):
        whole = measurements()
        part = Measurements(
            *(getattr(whole, name) for name in ("date", "machine", "versions", "threads", "rounds")), whole.rows[:2]
        )
        found = whole.against(part)
        assert "loss 512x32000 float32 cpu xent: forward, step, peak" in found.gone
        assert part.against(whole).new == found.gone
        assert "gone: loss 512x32000 float32 cpu xent: forward, step, peak" in str(found)

    def test_json(self):
        stored = json.loads(as_json(measurements().against(measurements(scale=2.0)).to_dict()))
        assert stored["schema"] == compare.SCHEMA
        assert stored["changes"][0].keys() >= {"case", "implementation", "measure", "before", "after", "ratio", "word"}


def test_a_row_without_a_floor_is_shown(capsys):
    row = measurements().rows[0]
    bare = Row(row.case, row.entries, {"step": Floor("copy", Times((1.0,)))}, 0.2)
    shown = str(Measurements("2026-11-01", {}, {}, 1, 1, (bare,)))
    assert "busy: 20%" in shown
