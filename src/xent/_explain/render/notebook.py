"""What a notebook shows: plain tables first, then the page in a frame of its own.

Where notebooks are displayed without scripts (GitHub), the frame is taken out and the tables stay. In the frame the
page's style and the notebook's do not meet.
"""

from dataclasses import replace
from html import escape

from ..derivation import Derivation, worst
from .html import headline, html
from .table import about, cautions, routes, table


def notebook(derivation: Derivation) -> str:
    """The row of highest loss as a table, the others and the routes folded, and the page."""
    first = worst(derivation.rows)
    others = tuple(row for row in derivation.rows if row is not first)
    shown = "" if first is None else table(replace(derivation, rows=(first,)))
    folded = _folded("the other rows", table(replace(derivation, rows=others))) if others else ""
    return (
        f"<p><b>{escape(headline(derivation))}</b>, {escape(about(derivation))}</p>"
        f"{cautions(derivation)}{shown}{folded}{_folded('the same number by every route', routes(derivation))}"
        f'<iframe sandbox="allow-scripts" title="{escape(headline(derivation))}, to be moved" loading="lazy" '
        f'style="width:100%;height:820px;border:0" srcdoc="{escape(html(derivation))}"></iframe>'
    )


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"
