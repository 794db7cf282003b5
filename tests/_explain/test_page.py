"""The page in a real browser: what it shows is what xent computes, whatever is dragged; and it looks as it did."""

import json
import re
import sys

import pytest
import torch

import xent
from xent._explain.render import RENDERERS
from xent._explain.walk import explain

from .browser import chromium, opened, truth  # noqa: F401
from .test_explain import FIRST, FIRST_TARGET

NASTY = ["</script><script>alert(1)</script>", "\"'><img src=x onerror=alert(2)>", "<!--", "{{data}} &amp; ${1}"]


def wide(rows=2, classes=128_256):
    """Logits and labels from integer arithmetic, the first row confident: a loss of 1e-7 among so many classes."""
    at = torch.arange(rows * classes).reshape(rows, classes)
    logits = (at * 7919 % 10007).double() / 1250 - 4
    target = (torch.arange(rows) * 5003 + 17) % classes
    logits[0, target[0]] += 32
    return logits, target


CASES = {
    "plain": (FIRST, FIRST_TARGET, {}),
    "confident": (torch.tensor([[20.0, 0.0]]), torch.tensor([0]), {}),
    "confident, hardly smoothed": (torch.tensor([[30.0, 0.0, -1.0]]), torch.tensor([0]), {"label_smoothing": 1e-9}),
    "far": (torch.tensor([[0.0, 106.0, 3.0]]), torch.tensor([0]), {}),
    "weights": (FIRST, FIRST_TARGET, {"weight": torch.tensor([0.5, 2.0, 1.25])}),
    "smoothing": (FIRST, FIRST_TARGET, {"label_smoothing": 0.1, "weight": torch.tensor([0.5, 2.0, 1.25])}),
    "probabilities": (FIRST, FIRST.softmax(1) * torch.tensor([0.5, 1.5, 1.0]), {"label_smoothing": 0.2}),
    "z": (FIRST, FIRST_TARGET, {"z_loss": 0.01}),
    "everything": (
        FIRST,
        FIRST_TARGET,
        {
            "weight": torch.tensor([0.5, 2.0, 1.25]),
            "label_smoothing": 0.1,
            "softcap": 3.0,
            "logit_scale": 0.75,
            "z_loss": 0.02,
            "token_weight": torch.tensor([1.0, 0.5, 2.0, 1.0, 3.0]),
            "num_items": 7,
        },
    ),
    "sum": (FIRST, FIRST_TARGET, {"reduction": "sum", "logit_scale": 2.0}),
    "wide": (*wide(), {}),
    "wide, everything": (
        *wide(),
        {
            "weight": (torch.arange(128_256) % 7).double() / 4 + 0.25,
            "label_smoothing": 0.1,
            "softcap": 20.0,
            "z_loss": 1e-4,
        },
    ),
}
OF_A_ROW = ("weight", "label_smoothing", "softcap", "logit_scale", "z_loss")


class Case:
    """One of `CASES`, explained, and what is true of it when a logit moves."""

    def __init__(self, name):
        self.logits, self.target, self.options = CASES[name]
        self.walk = explain(self.logits, self.target, **self.options)

    def row(self, title):
        at = int(re.match(r"row (\d+)", title)[1])
        return next(row for row in self.walk.rows if row.position == at)

    def truth(self, row, moved=(), **knobs):
        logits = self.logits[row.position].double().clone()
        for index, value in dict(moved).items():
            logits[index] = value
        options = {name: value for name, value in self.options.items() if name in OF_A_ROW} | knobs
        loss, p, gradient = truth(logits, self.target[row.position], **options)
        shown = [entry.index for entry in row.entries]
        hidden = torch.ones(len(p), dtype=torch.bool)
        hidden[shown] = False
        rest = ([p[hidden].sum().item()], [gradient[hidden].sum().item()]) if row.others else ([], [])
        t = row.token_weight
        return loss * t, p[shown].tolist() + rest[0], [t * g for g in gradient[shown].tolist() + rest[1]]

    def agrees(self, found, moved=(), **knobs):
        """To 1e-12 of each number; of the gradient of many classes in one, to 1e-12 of the row's largest."""
        row = self.row(found["title"])
        loss, p, gradient = self.truth(row, moved, **knobs)
        assert found["loss"] == pytest.approx(loss, rel=1e-12, abs=0)
        assert found["p"] == pytest.approx(p, rel=1e-12, abs=0)
        size = max(abs(g) for g in gradient)
        assert found["g"][: len(row.entries)] == pytest.approx(
            gradient[: len(row.entries)], rel=1e-12, abs=1e-15 * size
        )
        if self.options.get("softcap") is None:
            assert found["g"] == pytest.approx(gradient, rel=1e-12, abs=1e-12 * size)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param)


@pytest.fixture(scope="module")
def kept(case, chromium, tmp_path_factory):  # noqa: F811
    """One page for all the tests of a case."""
    with opened(chromium, case.walk.to_html(), tmp_path_factory.mktemp("page") / "loss.html") as found:
        yield found


@pytest.fixture
def page(kept):
    """The page as it opens, and nothing to complain of in the end."""
    kept.page.reload()
    yield kept
    kept.settle()


class TestNumbers:
    def test_as_given(self, case, page):
        found = page.numbers()
        row = case.row(found["title"])
        assert row.loss == max(row.loss for row in case.walk.rows if not row.ignored)  # starts at the worst
        case.agrees(found)
        assert found["loss"] == pytest.approx(row.loss, rel=1e-14, abs=0)
        assert found["z"] == [entry.logit for entry in row.entries]
        assert found["whole"] == pytest.approx(case.walk.loss, rel=1e-14)
        assert found["steps"] == [[step.name, step.formula, step.substituted] for step in row.steps]
        assert found["terms"] == [[term.name, term.formula, term.substituted] for term in row.terms]

    def test_dragged_with_the_mouse(self, case, page):
        before = page.numbers()
        row = case.row(before["title"])
        for entry, to in ((row.picked, 0.8), (row.entries[0], 0.3), (row.picked, 0.05)):
            box = page.slider(entry.index).bounding_box()
            y = box["y"] + box["height"] / 2
            page.page.mouse.move(box["x"] + box["width"] / 2, y)
            page.page.mouse.down()
            page.page.mouse.move(box["x"] + box["width"] * to, y, steps=3)
            page.page.mouse.up()
        found = page.numbers()
        moved = dict(zip((entry.index for entry in row.entries), found["z"], strict=True))
        assert abs(moved[row.picked.index] - row.picked.logit) > 1
        assert moved[row.picked.index] == min(moved.values())
        case.agrees(found, moved)
        total = case.walk.reduction.total - before["loss"] + found["loss"]
        assert found["whole"] == pytest.approx(total / case.walk.reduction.divisor, rel=1e-14)

    def test_moved_with_the_keys(self, case, page):
        row = case.row(page.numbers()["title"])
        slider = page.slider(row.picked.index)
        start = row.picked.logit
        for keys, by in (("ArrowRight", 0.1), ("Shift+ArrowLeft", 0.09), ("PageUp", 1.09), ("ArrowDown", 0.99)):
            slider.press(keys)
            found = page.numbers()
            moved = found["z"][[entry.index for entry in row.entries].index(row.picked.index)]
            assert moved == pytest.approx(start + by, abs=1e-11)
            case.agrees(found, {row.picked.index: moved})
        page.page.get_by_role("button", name="Reset").click()
        case.agrees(page.numbers())

    def test_knobs(self, case, page):
        row, knobs = case.row(page.numbers()["title"]), {}
        if case.options.get("softcap") is None:
            page.page.get_by_label("temperature").press("ArrowRight")
            knobs["temperature"] = 2**0.25
            case.agrees(page.numbers(), **knobs)
        page.page.get_by_label("temperature").press("Home")
        knobs["temperature"] = 0.25
        case.agrees(page.numbers(), **knobs)
        smoothing = page.page.get_by_label("label smoothing")
        for _ in range(3):
            smoothing.press("ArrowUp")
        knobs["label_smoothing"] = case.options.get("label_smoothing", 0.0) + 0.03
        case.agrees(page.numbers(), **knobs)
        weights = page.page.get_by_label("class weights", exact=False)
        weights.check()
        page.page.get_by_role("spinbutton", name=f"weight of class {row.picked.index}").first.fill("2.5")
        weight = torch.ones(case.logits.shape[1]) if "weight" not in case.options else case.options["weight"]
        knobs["weight"] = weight.double().clone()
        knobs["weight"][row.picked.index] = 2.5
        case.agrees(page.numbers(), **knobs)
        page.page.get_by_role("button", name="Reset").click()
        case.agrees(page.numbers())

    def test_every_row_can_be_chosen(self, case, page):
        for at, row in enumerate(case.walk.rows):
            page.page.get_by_role("radio").nth(at).check(force=True)
            found = page.numbers()
            assert case.row(found["title"]) is row
            case.agrees(found)


ODD = {
    "infinite": (torch.tensor([[torch.inf, 1.0, 0.0], [2.0, -torch.inf, 0.0], [1e30, -1e30, 1e-300]]), {}),
    "hidden peak": (torch.tensor([[1.0, 600.0, 700.0], [500.0, 3.0, 2.0]]), {"top": 0}),
    "hidden and smoothed": (torch.tensor([[1.0, 60.0, 20.0], [50.0, 3.0, 2.0]]), {"top": 1, "label_smoothing": 1.0}),
    "halves": (torch.tensor([[0.03125, -60.03125, 3.40625], [0.5, -0.96875, 2.0]]).half(), {"softcap": 30.0}),
    "tiny options": (torch.randn(2, 3), {"label_smoothing": 1e-9, "z_loss": 1e-5}),
    "nothing to divide by": (torch.randn(2, 3), {"weight": torch.tensor([0.0, 0.0, 1.0])}),
    "negative tokens": (torch.randn(2, 3), {"token_weight": torch.tensor([1.0, -1.0])}),
    "one class": (torch.randn(2, 1), {}),
}


def show(chromium, tmp_path, walk, **how):  # noqa: F811
    return opened(chromium, walk.to_html(), tmp_path / "loss.html", **how)


class TestOddRows:
    @pytest.mark.parametrize("name", ODD)
    def test_read_as_in_the_terminal(self, chromium, tmp_path, name):  # noqa: F811
        logits, options = ODD[name]
        walk = explain(logits, torch.arange(len(logits)) % min(2, logits.shape[1]), **options)
        with show(chromium, tmp_path, walk) as page:
            for at, row in enumerate(walk.rows):
                page.page.get_by_role("radio").nth(at).check(force=True)
                found = page.numbers()
                assert found["loss"] == pytest.approx(row.loss, rel=1e-14, abs=0, nan_ok=True)
                assert found["steps"] == [[step.name, step.formula, step.substituted] for step in row.steps]
                assert found["terms"] == [[term.name, term.formula, term.substituted] for term in row.terms]
                page.page.get_by_role("slider").first.press("ArrowUp")

    def test_masked_classes(self, chromium, tmp_path):  # noqa: F811
        logits = torch.tensor([[1.0, -torch.inf, 0.0]])
        with show(chromium, tmp_path, explain(logits, torch.tensor([0]))) as page:
            found = page.numbers()
            assert (found["p"][1], found["g"][1]) == (0, 0)
            assert found["loss"] == pytest.approx(truth(logits[0], torch.tensor(0))[0], rel=1e-14)
            page.slider(1).press("ArrowRight")
            logits[0, 1] = -3.9
            found = page.numbers()
            want = truth(torch.tensor([1.0, -3.9, 0.0], dtype=torch.float64), torch.tensor(0))
            assert found["loss"] == pytest.approx(want[0], rel=1e-12)
            page.page.get_by_label("label smoothing").press("ArrowRight")
            page.page.get_by_role("button", name="Reset").click()
            page.page.get_by_label("label smoothing").press("ArrowRight")
            assert page.numbers()["loss"] == torch.inf

    def test_ignored_rows_and_what_is_no_number(self, chromium, tmp_path):  # noqa: F811
        logits = torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [3.0, 1.0]])
        with show(chromium, tmp_path, explain(logits, torch.tensor([0, 1, -100]))) as page:
            assert page.numbers()["title"].startswith("row 1")
            assert page.page.locator("#loss").text_content() == "nan"
            assert page.page.locator("#rows b").all_text_contents() == ["1.3133", "nan", "ignored"]
            page.page.get_by_role("radio").nth(2).check(force=True)
            assert "ignored" in page.numbers()["title"]
            assert page.numbers()["steps"] == []
            page.page.get_by_role("radio").nth(0).check(force=True)
            assert page.numbers()["loss"] == pytest.approx(truth(logits[0], torch.tensor(0))[0], rel=1e-14)

    def test_no_rows_and_nothing_reduced(self, chromium, tmp_path):  # noqa: F811
        with show(chromium, tmp_path, explain(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))) as page:
            assert not page.page.locator("#app").is_visible()
        with show(chromium, tmp_path, explain(FIRST, FIRST_TARGET, reduction="none")) as page:
            assert page.page.locator("#whole").text_content() == "not reduced"

    def test_a_head(self, chromium, tmp_path):  # noqa: F811
        hidden, head = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.25]])
        walk = explain(hidden, torch.tensor([2]), linear_weight=head)
        with show(chromium, tmp_path, walk) as page:
            steps = page.numbers()["steps"]
            assert steps == [[step.name, step.formula, step.substituted] for step in walk.rows[0].steps]
            page.slider(2).press("ArrowUp")  # no product makes that logit
            assert [step[0] for step in page.numbers()["steps"]] == [step[0] for step in steps[1:]]


class TestSafeAndSound:
    def test_names_are_text_and_nothing_else(self, chromium, tmp_path):  # noqa: F811
        walk = explain(torch.zeros(1, 4), torch.tensor([0]), labels=NASTY)
        with show(chromium, tmp_path, walk) as page:
            heads = page.page.locator("#classes tbody th").all_text_contents()
            assert heads == [f"{'→ ' * (j == 0)}{j} {name}" for j, name in enumerate(NASTY)]
            assert page.page.locator("script").count() == 2
            assert page.page.locator("img").count() == 0

    def test_nothing_may_be_loaded(self, chromium, tmp_path):  # noqa: F811
        """The page says so to the browser, which holds it to that."""
        with show(chromium, tmp_path, explain(FIRST, FIRST_TARGET)) as page:
            tried = (
                "new Promise(end => { const it = new Image(); it.onload = it.onerror = e => end(e.type); it.src = U })"
            )
            assert page.page.evaluate(tried.replace("U", "'http://127.0.0.1:9/x.png'")) == "error"
            assert page.complaints
            assert all("Content Security Policy" in text for text in page.complaints)
            page.complaints.clear()
            page.requests[:] = [url for url in page.requests if not url.startswith("http://127")]

    def test_without_a_script_the_table_is_there(self, chromium, tmp_path):  # noqa: F811
        path = tmp_path / "loss.html"
        path.write_text(explain(FIRST, FIRST_TARGET, labels=["cat", "dog", "<i>"]).to_html(), encoding="utf-8")
        context = chromium.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(path.as_uri())
        assert "→ 0 cat" in page.locator("noscript").inner_text()
        assert "2 <i>" in page.locator("noscript").inner_text()
        context.close()

    @pytest.mark.parametrize("size", [(980, 1000), (380, 800)])
    def test_nothing_overlaps_and_the_table_scrolls(self, chromium, tmp_path, size):  # noqa: F811
        walk = explain(
            *wide(), labels=[f"a rather long name of class {j}" for j in range(128_256)], label_smoothing=0.1
        )
        with show(chromium, tmp_path, walk, size=size) as page:
            if size[0] == 380:
                page.page.get_by_label("class weights").check()
            assert page.page.evaluate("document.documentElement.scrollWidth") <= size[0]
            table = page.page.get_by_role("region", name="Classes of the row")
            scrolls = table.evaluate("it => it.scrollWidth > it.clientWidth")
            assert scrolls == (size[0] == 380)
            assert page.measure("overlaps()") == []

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_contrast(self, chromium, tmp_path, scheme):  # noqa: F811
        """WCAG AA: 4.5 for text, 3 for what is not text (the bars, the sliders, the curve)."""
        walk = explain(torch.eye(3)[:2] * 20, torch.tensor([0, 1]), reduction="sum", z_loss=0.1)
        caution = explain(torch.eye(10)[:4] / 1.0, torch.tensor([0, 1, 2, 3]))
        for derivation in (walk, caution):
            with show(chromium, tmp_path, derivation, scheme=scheme) as page:
                found = page.measure("contrast()")
                assert len(found) > 40
                assert [text for text, ratio in found if ratio < 4.5] == []
                assert all(ratio >= 3 for ratio in page.measure("graphics()"))

    def test_everything_has_a_name_and_can_be_reached(self, chromium, tmp_path):  # noqa: F811
        with show(chromium, tmp_path, explain(FIRST, FIRST_TARGET, labels=["cat", "dog", "llama"])) as page:
            for role, name in (
                ("slider", "logit of class 1 dog"),
                ("slider", "temperature"),
                ("slider", "label smoothing"),
                ("checkbox", "class weights"),
                ("button", "Reset"),
                ("radio", "row 3"),
                ("radiogroup", "Loss of each row"),
                ("region", "Classes of the row"),
                ("img", "−log p of the target is 3.436526"),
            ):
                assert page.page.get_by_role(role, name=name).count() == 1, (role, name)
            for it in page.page.locator("input:visible, button:visible").all():
                assert it.evaluate("it => it.labels?.length > 0 || it.ariaLabel || it.textContent"), it
            reached = set()
            for _ in range(12):
                page.page.keyboard.press("Tab")
                reached.add(page.page.evaluate("document.activeElement.ariaLabel || document.activeElement.id"))
            assert {"logit of class 0 cat", "logit of class 2 llama", "t", "e", "w", "reset", "Routes"} <= reached
            assert page.slider(0).get_attribute("aria-valuetext") == "-2.9086, probability 0.0322"


class TestSize:
    def template(self):
        module = sys.modules["xent._explain.render.html"]
        return sum(len(module._packed(name).encode()) for name in ("page.html", "page.css", "page.js"))

    def test_under_twenty_kilobytes(self):
        assert self.template() < 20_000

    def test_so_many_classes_are_a_page_of_the_same_size(self):
        few, many = (explain(*wide(classes=classes)).to_html() for classes in (13, 128_256))
        assert abs(len(few) - len(many)) < 600
        assert len(many) < 20_000 + 12_000

    def test_the_data_ends_no_script(self):
        page = explain(torch.zeros(1, 4), torch.tensor([0]), labels=NASTY).to_html()
        (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
        assert json.loads(found)["rows"][0]["names"] == NASTY
        assert not set("<>&") & set(found)

    def test_it_is_a_renderer(self, tmp_path):
        walk = explain(FIRST, FIRST_TARGET)
        assert RENDERERS["html"](walk) == walk.to_html()
        path = walk.save(tmp_path / "loss.html")
        assert path.read_text(encoding="utf-8") == walk.to_html()

    def test_it_is_shipped(self):
        from importlib.resources import files

        names = {path.name for path in files("xent._explain.render").joinpath("page").iterdir()}
        assert names == {"page.html", "page.css", "page.js"}


def test_the_door_has_it():
    assert xent.explain(FIRST, FIRST_TARGET).to_html().startswith("<!doctype html>")
