"""Formulas as MathML: the browser draws them, so nothing is fetched and no script runs.

docutils translates the LaTeX; what it does not know is an error that names the formula.
"""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml

APPLIED = re.compile(r"<mo>&ApplyFunction;</mo>(?!\s*(?:<mrow>\s*)?<mo[^>]*>[(\[])")
"""Behind the name of a function, where no bracket follows: browsers leave no space there, TeX does."""

BIG = re.compile(r"\\([bB]igg?)([(\[)\]])")
"""docutils knows the sizes of brackets by their side only: \\bigl, \\bigr."""


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(self: Any, node: Any) -> None:
    self.body.append(_translated(node.astext(), as_block=False))
    raise nodes.SkipNode


def _block(self: Any, node: Any) -> None:
    self.body.append(f'<div class="math">\n{_translated(node.astext(), as_block=True)}\n</div>\n')
    raise nodes.SkipNode


def _translated(formula: str, as_block: bool) -> str:
    from sphinx.errors import ExtensionError

    formula = BIG.sub(lambda found: f"\\{found[1]}{'l' if found[2] in '([' else 'r'}{found[2]}", formula)
    try:
        return APPLIED.sub('<mspace width="0.17em"/>', tex2mathml(formula, as_block=as_block))
    except MathError as reason:
        raise ExtensionError(f"docutils cannot translate the formula {formula!r}: {reason}") from reason
