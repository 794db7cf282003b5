"""Every fenced ``python`` block of README, docs and notebooks runs, and prints what the document says it prints.

A block is written as a doctest. The blocks of one document share a namespace, in order, in which `torch` and `xent`
are not yet imported: a document imports what it uses. A failure names the line of the document.
"""

import doctest
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "notebooks/*.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
    if "_build" not in path.parts and "```python" in path.read_text(encoding="utf-8")
)
FENCE = re.compile(r"^(?P<indent> *)```python[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def blocks(text: str) -> list[tuple[int, str]]:
    """The code blocks, each with the line it starts on, counted from 0."""
    return [(text.count("\n", 0, found.start("code")), found["code"]) for found in FENCE.finditer(text)]


def examples(text: str) -> list[doctest.Example]:
    found = []
    for line, code in blocks(text):
        parts = doctest.DocTestParser().get_examples(code)
        if not parts:
            raise ValueError(f"the python block on line {line + 1} has no '>>>': nothing would run it")
        for part in parts:
            part.lineno += line
        found += parts
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_prints_what_it_says(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    test = doctest.DocTest(examples(text), {"__name__": "__main__"}, name, name, 0, text)
    report: list[str] = []
    with torch.random.fork_rng():
        doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(test, out=report.append)
    assert not report, "".join(report)


def test_the_runner_finds_a_wrong_output_and_its_line():
    text = "words\n\n```python\n>>> 1 + 1\n3\n```\n"
    report: list[str] = []
    doctest.DocTestRunner().run(doctest.DocTest(examples(text), {}, "a.md", "a.md", 0, text), out=report.append)
    assert "line 4" in "".join(report)
    assert "Expected:\n    3\nGot:\n    2" in "".join(report)


def test_a_block_that_nothing_would_run_is_refused():
    with pytest.raises(ValueError, match="line 2 has no '>>>'"):
        examples("```python\nprint(1)\n```\n")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_its_links_lead_somewhere(name):
    path = ROOT / name
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_both_source_notebooks_live_on():
    assert {"notebooks/from_softmax_to_cross_entropy.md", "notebooks/the_formula.md"} <= set(DOCUMENTS)
