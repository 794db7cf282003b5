"""What a notebook, a report, a sheet of paper and a document show; golden files hold the form.

`XENT_GOLDEN=write pytest tests/_explain/test_renderers.py` writes them anew; read the difference before you keep it.
"""

import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import xent
from xent._explain import figure
from xent._explain.render import RENDERERS
from xent._explain.walk import explain

from .browser import chromium, opened  # noqa: F401
from .test_explain import FIRST, FIRST_TARGET
from .test_page import CASES, NASTY, wide

GOLDEN = Path(__file__).parent / "golden"
SUFFIX = {"markdown": "md", "latex": "tex", "svg": "svg"}
WALKS = {
    "first_notebook": lambda: explain(FIRST, FIRST_TARGET, rows=[0, 3], labels=["cat", "dog", "llama"]),
    "confident": lambda: explain([[20.0, 0.0]], [0]),
    "everything": lambda: explain(CASES["everything"][0], CASES["everything"][1], rows=[2], **CASES["everything"][2]),
    "many_classes": lambda: explain(*wide(), rows=[1]),
    "all_ignored": lambda: explain(FIRST[:2], [-100, -100]),
}


@pytest.mark.parametrize("renderer", SUFFIX)
@pytest.mark.parametrize("name", WALKS)
def test_golden(name, renderer):
    page, path = RENDERERS[renderer](WALKS[name]()), GOLDEN / f"{name}.{SUFFIX[renderer]}"
    page = page.split("| route |")[0].rstrip() + "\n"  # the last digits of the routes depend on the machine
    if os.environ.get("XENT_GOLDEN") == "write":
        path.write_text(page, encoding="utf-8")
    assert page == path.read_text(encoding="utf-8")


def test_the_picture_of_the_documents():
    """`docs/explain.md` has it."""
    path = Path(__file__).parents[2] / "docs" / "_static" / "explain.svg"
    picture = explain(FIRST, FIRST_TARGET, labels=["cat", "dog", "llama"]).to_svg()
    if os.environ.get("XENT_GOLDEN") == "write":
        path.write_text(picture, encoding="utf-8")
    assert picture == path.read_text(encoding="utf-8")


class Shown(HTMLParser):
    """The text that is left where scripts, frames, styles and attributes are taken out, as GitHub does."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tags = "", []
        self.feed(re.sub(r"<(iframe|script|style)\b.*?</\1>", "", html, flags=re.S))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += f" {data} "


class TestNotebook:
    def test_the_tables_come_first_and_need_nothing(self):
        walk = explain(FIRST, FIRST_TARGET, labels=["cat", "dog", "llama"])
        page = walk._repr_html_()
        shown = Shown(page)
        assert page.index("<table>") < page.index("<iframe")
        assert set(shown.tags) <= {
            *(
                "p",
                "b",
                "table",
                "caption",
                "thead",
                "tbody",
                "tr",
                "th",
                "td",
                "ol",
                "li",
                "code",
                "details",
                "summary",
            )
        }
        for words in ("loss 1.7501708867 nats", "→ 0 cat", "0.0322", "-0.1936", "row 4", "F.cross_entropy", "3.436526"):
            assert words in shown.text
        assert shown.text.index("row 0") < shown.text.index("row 1")  # the worst, before the folded others

    def test_names_are_text(self):
        shown = Shown(explain(torch.zeros(1, 4), torch.tensor([0]), labels=NASTY)._repr_html_())
        assert "img" not in shown.tags
        for j, name in enumerate(NASTY):
            assert f"{j} {name}" in shown.text

    def test_the_frame_moves(self, chromium, tmp_path):  # noqa: F811
        walk = explain(FIRST, FIRST_TARGET, labels=[*NASTY[:2], "llama"])
        with opened(chromium, f"<!doctype html><body>{walk._repr_html_()}", tmp_path / "notebook.html") as page:
            frame = page.page.frame_locator("iframe")
            frame.get_by_role("slider", name="logit of class 0").press("ArrowUp")
            moved = FIRST[0].double().clone()
            moved[0] += 0.1
            want = xent.cross_entropy(moved, FIRST_TARGET[0]).item()
            assert float(frame.locator("#loss").get_attribute("data-value")) == pytest.approx(want, rel=1e-12)

    def test_every_walk_has_every_form(self):
        for make in (*WALKS.values(), lambda: explain(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))):
            walk = make()
            forms = (walk._repr_html_(), walk._repr_markdown_(), walk._repr_latex_(), walk.to_svg(), walk.to_html())
            assert all(isinstance(form, str) and form for form in forms)


class TestMarkdown:
    def test_names_are_text(self):
        markdown = pytest.importorskip("markdown_it")
        names = [*NASTY, "a|b", "*bold* _x_ `code`", "[link](x)", "$x$"]
        page = explain(torch.zeros(1, 8), torch.tensor([0]), labels=names)._repr_markdown_()
        html = markdown.MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
        shown = Shown(html)
        for j, name in enumerate(names):
            assert f"{j} {name}" in re.sub(r"  +", "", shown.text).replace("\n", ""), name
        assert not {"img", "script", "a", "em"} & set(shown.tags)
        assert shown.tags.count("table") == 2


class TestLatex:
    @pytest.mark.parametrize("name", WALKS)
    def test_is_balanced_display_mathematics(self, name):
        page = WALKS[name]()._repr_latex_()
        assert page.startswith("$$\\begin{aligned}\n")
        assert page.endswith("\n\\end{aligned}$$")
        depth = 0
        for sign in page:
            depth += (sign == "{") - (sign == "}")
            assert depth >= 0
        assert depth == 0
        assert all(line.count("&") == 1 for line in page.splitlines()[1:-1])

    def test_small_numbers_are_powers_of_ten(self):
        assert r"2.0612 \times 10^{-9}" in WALKS["confident"]()._repr_latex_()


class TestSvg:
    def test_is_a_picture_with_the_numbers_as_text(self):
        walk = explain(FIRST, FIRST_TARGET, labels=NASTY[:3])
        tree = ElementTree.fromstring(walk.to_svg())
        texts = [it.text for it in tree.iter("{http://www.w3.org/2000/svg}text")]
        assert {"-2.9086", "0.0322", "-0.1936", "row 0, loss 3.4365 nats"} <= set(texts)
        assert not list(tree.iter("{http://www.w3.org/2000/svg}script"))
        assert "row 2, loss 1.7022 nats" in walk.to_svg(row=2)

    def test_bars_are_as_long_as_their_numbers(self):
        tree = ElementTree.fromstring(explain(FIRST[:1], FIRST_TARGET[:1]).to_svg())
        rects = list(tree.iter("{http://www.w3.org/2000/svg}rect"))
        long = {kind: [float(r.get("width")) for r in rects if r.get("class") == kind] for kind in ("p", "up", "down")}
        row = explain(FIRST[:1], FIRST_TARGET[:1]).rows[0]
        shares = [entry.probability for entry in row.entries]
        assert long["p"] == pytest.approx([share * max(long["p"]) / max(shares) for share in shares], abs=0.02)
        assert long["up"][0] == pytest.approx(sum(long["down"]), abs=0.02)  # they add up to zero

    def test_a_row_that_is_not_shown(self):
        walk = explain(FIRST, FIRST_TARGET, rows=[0, 3])
        with pytest.raises(xent.OptionError, match=r"row 2 is not among the rows shown: 0, 3."):
            walk.to_svg(row=2)

    def test_saved(self, tmp_path):
        walk = explain(FIRST, FIRST_TARGET)
        assert walk.save(tmp_path / "row.svg").read_text(encoding="utf-8") == walk.to_svg()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_nothing_overlaps(self, chromium, tmp_path, scheme):  # noqa: F811
        """The numbers that are longest, and names too long for their place."""
        walk = explain(*wide(), rows=[1], labels=["a name that is much too long for it"] * 128_256)
        page = f"<!doctype html><body>{walk.to_svg()}"
        with opened(chromium, page, tmp_path / "row.html", scheme) as found:
            boxes = found.measure("boxes('svg text, svg rect.track')")
        assert len(boxes) > 40
        for at, a in enumerate(boxes):
            for b in boxes[at + 1 :]:
                assert a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2], (a, b)


class TestPlot:
    @pytest.mark.parametrize("name", CASES)
    def test_the_surface_is_the_loss(self, name):
        """Where the target and its rival have other logits, to 1e-12."""
        numpy = pytest.importorskip("numpy")
        logits, target, options = CASES[name]
        options = {
            key: value for key, value in options.items() if key not in ("num_items", "token_weight", "reduction")
        }
        walk = explain(logits, target, **options)
        row = walk.rows[-1]
        ours, theirs = figure.rivals(row)
        moves = numpy.array([[-3.0, 0.0, 2.5], [1.0, 0.0, -40.0]])
        found = figure.losses_of(walk, row, {ours.index: ours.logit + moves[0], theirs.index: theirs.logit + moves[1]})
        double = {key: value.double() if key == "weight" else value for key, value in options.items()}
        for at in range(3):
            moved = logits[row.position].double().clone()
            moved[ours.index], moved[theirs.index] = ours.logit + moves[0, at], theirs.logit + moves[1, at]
            want = xent.cross_entropy(moved[None], target[row.position][None], reduction="sum", **double)
            assert found[at] == pytest.approx(want.item(), rel=1e-12)

    @pytest.mark.parametrize("name", WALKS)
    def test_four_panels(self, name, tmp_path):
        pytest.importorskip("matplotlib")
        walk = WALKS[name]()
        drawn = walk.plot()
        drawn.savefig(tmp_path / "row.png")
        titles = [panel.get_title() for panel in drawn.axes if panel.axison and panel.get_title()]
        assert len(titles) == (1 if name == "all_ignored" else 4)

    def test_bars_and_names(self):
        pytest.importorskip("matplotlib")
        walk = explain(FIRST, FIRST_TARGET, labels=["cat", "$x", "llama"])
        panels = walk.plot(row=2).axes
        row = walk.rows[2]
        assert [bar.get_width() for bar in panels[0].patches] == [entry.probability for entry in row.entries]
        assert [bar.get_width() for bar in panels[1].patches] == [entry.gradient for entry in row.entries]
        assert [bar.get_height() for bar in panels[2].patches] == [each.loss for each in walk.rows]

    def test_without_matplotlib(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ModuleNotFoundError, match=r'pip install "xent\[plot\]"'):
            explain(FIRST, FIRST_TARGET).plot()
