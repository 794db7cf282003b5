"""Every fenced ``python`` block of README, docs and notebooks runs, and prints what the document says it prints.

`docs/extensions/executed.py` runs them, here and when the site is built. A failure names the line of the document.
"""

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest
from docs.extensions import inventories
from docs.extensions.executed import complaints, examples

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "notebooks/*.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
    if "_build" not in path.parts
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_prints_what_it_says(name):
    assert complaints((ROOT / name).read_text(encoding="utf-8"), name) == ""


def test_the_runner_finds_a_wrong_output_and_its_line():
    report = complaints("words\n\n```python\n>>> 1 + 1\n3\n```\n", "a.md")
    assert "line 4" in report
    assert "Expected:\n    3\nGot:\n    2" in report


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


@pytest.mark.parametrize("name", [name for names in inventories.NAMES["torch"].values() for name in names.split()])
def test_what_the_site_links_to_in_torchs_documentation_exists(name):
    assert resolve_name(name) is not None
