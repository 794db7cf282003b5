"""Every fenced ``python`` block of a document runs, and prints what the document says it prints.

A block is written as a doctest. The blocks of one document share a namespace, in order, in which `torch` and `xent`
are not yet imported: a document imports what it uses. `tests/test_documents.py` runs the documents with this, and so
does the site for every page that it reads; Sphinx is not imported here.
"""

import doctest
import re
from pathlib import Path
from typing import Any

import torch

FENCE = re.compile(r"^(?P<indent> *)```python[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
INCLUDE = re.compile(r"^```\{include\} (\S+)$", re.MULTILINE)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def blocks(text: str) -> list[tuple[int, str]]:
    """The code blocks, each with the line it starts on, counted from 0."""
    return [(text.count("\n", 0, found.start("code")), found["code"]) for found in FENCE.finditer(text)]


def examples(text: str) -> list[doctest.Example]:
    """What is run of a document, in order."""
    found = []
    for line, code in blocks(text):
        parts = doctest.DocTestParser().get_examples(code)
        if not parts:
            raise ValueError(f"the python block on line {line + 1} has no '>>>': nothing would run it")
        for part in parts:
            part.lineno += line
        found += parts
    return found


def complaints(text: str, name: str) -> str:
    """Where `text` prints something else than it says, with the lines; empty where it does not."""
    test = doctest.DocTest(examples(text), {"__name__": "__main__"}, name, name, 0, text)
    report: list[str] = []
    with torch.random.fork_rng():
        doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(test, out=report.append)
    return "".join(report)


def setup(app: Any) -> dict[str, bool]:
    """As a Sphinx extension: a page that does not print what it says is a warning, and `make docs` ends at one."""
    app.connect("source-read", _run)
    return {"parallel_read_safe": True}


def _run(app: Any, docname: str, source: list[str]) -> None:
    from sphinx.util.logging import getLogger

    path = Path(app.env.doc2path(docname))
    included = [path.parent / name for name in INCLUDE.findall(source[0])]
    for document, text in [(path, source[0]), *((file, file.read_text(encoding="utf-8")) for file in included)]:
        if report := complaints(text, document.name):
            getLogger(__name__).warning(report, location=docname)
