"""The page as text, against golden files.

`XENT_GOLDEN=write pytest tests/_explain/test_text.py` writes the files anew; read the difference before you keep it.
"""

import os
import re
from pathlib import Path

import pytest
import torch

from xent._explain.numerals import number, short
from xent._explain.render import RENDERERS
from xent._explain.walk import explain

from .test_explain import FIRST, FIRST_TARGET, SECOND, SECOND_TARGET

GOLDEN = Path(__file__).parent / "golden"


def wide(classes):
    """Logits from integer arithmetic, the same everywhere: no random generator to depend on."""
    at = torch.arange(6 * classes).reshape(6, classes)
    return (at * 7919 % 10007).float() / 1000 - 5


def masked():
    logits, target = wide(3), torch.tensor([0, 1, 2, -100, 0, 1])
    logits[0, 1] = -torch.inf
    return logits[:5], target[:5]


CASES = {
    "first_notebook": lambda: explain(FIRST, FIRST_TARGET),
    "second_notebook": lambda: explain(SECOND, SECOND_TARGET),
    "confident": lambda: explain([[20.0, 0.0]], [0]),
    "margin_106": lambda: explain([[0.0, 106.0], [1.0, 2.0]], [0, 1], labels=["cat", "dog"]),
    "every_option": lambda: explain(
        *masked(), torch.tensor([1.0, 2.0, 0.5]), labels=["cat", "dog", "a rather long name"]
    ),
    "smoothing": lambda: explain(wide(4), torch.tensor([0, 1, 2, 3, 0, 1]), label_smoothing=0.1, reduction="sum"),
    "probabilities": lambda: explain(wide(3)[:2], torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 1.0]]), [1.0, 2.0, 3.0]),
    "many_classes": lambda: explain(wide(1000), torch.tensor([3, 700, 12, -100, 999, 0]), rows=[0, 3]),
    "softmax_twice": lambda: explain(torch.eye(10)[:4], torch.tensor([0, 1, 2, 4]), reduction="none", top=2),
    "shaped": lambda: explain(
        wide(4)[:3],
        torch.tensor([0, 1, 2]),
        softcap=3.0,
        logit_scale=0.5,
        z_loss=0.01,
        label_smoothing=0.1,
        token_weight=torch.tensor([1.0, 0.5, 0.0]),
        num_items=4,
    ),
    "head": lambda: explain(
        [[2.0, 1.0], [0.0, 3.0]],
        [2, 0],
        linear_weight=[[1.0, 0.0], [0.0, 1.0], [0.5, 0.25]],
        linear_bias=[0.0, 0.5, 0.0],
        labels=["cat", "dog", "llama"],
    ),
    "all_ignored": lambda: explain(FIRST[:2], [-100, -100]),
}


ROUTE = re.compile(r"^((?:softmax|log_softmax|F\.|torch\.|xent\.)[^\d\n]*?) +[-\d.e]+ +[-+\d.e]+  ok$", re.M)


def fixed(page):
    """The page less the digits of the routes, whose last ones depend on the machine and the backend."""
    return ROUTE.sub(r"\1 ...  ok", page)


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
    path, page = GOLDEN / f"{name}.txt", fixed(str(CASES[name]()) + "\n")
    if os.environ.get("XENT_GOLDEN") == "write":
        path.write_text(page, encoding="utf-8")
    assert page == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_eighty_columns_and_no_trailing_space(name):
    for line in str(CASES[name]()).splitlines():
        assert len(line) <= 80, line
        assert line == line.rstrip()


def test_str_is_the_text_renderer():
    walk = CASES["confident"]()
    assert str(walk) == RENDERERS["text"](walk)


def test_rich_prints_the_same_words():
    console_module = pytest.importorskip("rich.console")
    walk = CASES["margin_106"]()
    plain = console_module.Console(width=80, force_terminal=False, no_color=True)
    with plain.capture() as captured:
        plain.print(walk)
    assert [line.rstrip() for line in captured.get().splitlines()] == str(walk).splitlines()


def test_rich_paints_what_failed():
    console_module = pytest.importorskip("rich.console")
    colour = console_module.Console(width=80, force_terminal=True, color_system="standard", no_color=False, _environ={})
    with colour.capture() as captured:
        colour.print(CASES["margin_106"]())
    assert "\x1b[1;31m✗ overflow" in captured.get()


def test_a_half_goes_up_whatever_is_before_it():
    """Logits of 16 bits are full of them, and browsers round them so."""
    assert [short(value) for value in (0.03125, 0.09375, -0.03125, 2.0)] == ["0.0313", "0.0938", "-0.0313", "2.0000"]
    assert number(1.7976931348623157e308) == "1.7977e+308"
