"""Renderers: functions from a Derivation to text. A new one is a file and a line in the table."""

from collections.abc import Callable

from ..derivation import Derivation
from .html import html
from .latex import latex
from .markdown import markdown
from .notebook import notebook
from .svg import svg
from .text import text

RENDERERS: dict[str, Callable[[Derivation], str]] = {
    "text": text,
    "html": html,
    "notebook": notebook,
    "markdown": markdown,
    "latex": latex,
    "svg": svg,
}
