"""The same page in colour, for rich to print; rich is imported only here and only when it asks."""

from collections.abc import Iterator
from typing import Any

from ..derivation import Derivation
from .layout import page

STYLES = {
    "heading": "bold",
    "rule": "dim",
    "column": "dim",
    "quiet": "dim",
    "target": "bold cyan",
    "bar": "cyan",
    "loss": "bold",
    "exact": "bold",
    "ok": "green",
    "inaccurate": "yellow",
    "failed": "bold red",
    "caution": "yellow",
}


def lines(derivation: Derivation) -> Iterator[Any]:
    """One rich Text a line."""
    from rich.text import Text

    for line in page(derivation):
        yield Text.assemble(*((words, STYLES.get(role, "")) for words, role in line), no_wrap=True, overflow="ignore")
