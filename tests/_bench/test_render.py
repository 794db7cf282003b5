"""Tables and pictures: what they show, and that they stay as they are."""

import re
import sys
import xml.etree.ElementTree as tree
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from xent._bench.render.figure import figure
from xent._bench.render.svg import LEFT, RIGHT, Axis, svg
from xent._bench.results import Measurements
from xent.errors import FileError, OptionError

from .given import measurements

GOLDEN = Path(__file__).parent / "golden"


def same_as_stored(name, shown):
    """Write the file anew by deleting it; then look at what it shows."""
    path = GOLDEN / name
    if not path.exists():
        path.write_text(shown, encoding="utf-8")
        pytest.fail(f"{name} was written: look at it, and run again")
    assert shown == path.read_text(encoding="utf-8")


def test_text():
    same_as_stored("table.txt", str(measurements()) + "\n")


def test_markdown():
    shown = measurements(waited=0.3).to_markdown()
    same_as_stored("table.md", shown)
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_comparison():
    same_as_stored("comparison.txt", str(measurements().against(measurements(scale=0.5))) + "\n")


def test_plot():
    shown = svg(figure(measurements()))
    same_as_stored("plot.svg", shown)
    root = tree.fromstring(shown)
    lines = [part for part in root.iter() if "line" in part.get("class", "").split()]
    assert len(lines) == 3  # xent, torch, floor; liger has no time
    words = [part.text for part in root.iter() if part.text]
    for expected in ("loss, forward + backward, float32, cpu", "milliseconds", "32,000", "512x32000", "floor 1 ms"):
        assert expected in words
    assert "prefers-color-scheme: dark" in shown


def test_points_are_in_the_order_of_their_classes():
    drawn = figure(measurements())
    assert [x for x, _ in drawn.lines[0].points] == [10, 1000, 32000]
    assert drawn.lines[-1].floor


def test_both_axes_are_logarithmic():
    axis = Axis([10, 1000], LEFT, RIGHT)
    assert axis(100) == pytest.approx((axis(10) + axis(1000)) / 2, abs=0.2)
    assert LEFT < axis(10) < axis(1000) < RIGHT
    assert axis.ticks() == [10.0, 100.0, 1000.0]
    assert len(Axis([3.0, 4.0], LEFT, RIGHT).ticks()) >= 1


def test_names_of_lines_that_end_together_do_not_meet():
    shown = svg(figure(measurements(scale=0.42)))  # xent ends where the floor does
    heights = sorted(float(y) for y in re.findall(rf'<text x="{RIGHT + 10}" y="([\d.]+)"', shown))
    assert all(b - a >= 16.9 for a, b in pairwise(heights))


def test_forward_passes_are_drawn_where_there_are_no_steps():
    found = measurements()
    rows = tuple(replace(row, case=row.case._replace(measures=("forward",))) for row in found.rows)
    assert "loss, forward, float32" in figure(replace(found, rows=rows)).title


def test_nothing_to_draw():
    with pytest.raises(FileError, match="nothing was measured"):
        figure(Measurements("2026-11-01", {}, {}, 1, 1, ()))


class TestFiles:
    def test_svg_and_png(self, tmp_path):
        pytest.importorskip("matplotlib")
        measurements().plot(tmp_path / "a.svg")
        measurements().plot(tmp_path / "a.png")
        assert (tmp_path / "a.svg").read_text().startswith("<svg")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

    def test_another_suffix(self, tmp_path):
        with pytest.raises(OptionError, match=r"expected .svg or .png"):
            measurements().plot(tmp_path / "a.pdf")

    def test_png_without_matplotlib_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(FileError, match=r'pip install "xent\[bench\]"'):
            measurements().plot(tmp_path / "a.png")
        measurements().plot(tmp_path / "a.svg")

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(FileError, match="no folder"):
            measurements().plot(tmp_path / "new" / "a.svg")
