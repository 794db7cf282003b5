"""A page of plain text, 80 columns."""

from ..derivation import Derivation
from .layout import page


def text(derivation: Derivation) -> str:
    """The walk as a terminal table, without colour."""
    return "\n".join("".join(words for words, _ in line).rstrip() for line in page(derivation))
