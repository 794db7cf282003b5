"""The walk in Markdown: for issues, reports and chats."""

import re

from ..derivation import Derivation
from ..numerals import short, signed, significant
from ..parts import Row
from .html import headline
from .layout import class_of, others_of, said_of
from .table import about


def markdown(derivation: Derivation) -> str:
    """A table a row, its steps, and the routes."""
    parts = [f"**{headline(derivation)}**, {_plain(about(derivation))}"]
    parts += [
        f"> **{caution.kind}**: {_plain(caution.text)}. → {_plain(caution.cure)}" for caution in derivation.cautions
    ]
    for row in derivation.rows:
        parts += _row(row)
    routes = [
        (_plain(route.name), "–" if route.value is None else significant(route.value), _plain(said_of(route)))
        for route in derivation.routes
    ]
    exact = (f"exact ({derivation.exact.method})", significant(derivation.exact.value), "")
    return "\n\n".join([*parts, _table(("route", "value", ""), [*routes, exact])]) + "\n"


def _row(row: Row) -> list[str]:
    where = ", ".join(map(str, row.index)) or "0"
    if row.ignored:
        return [f"**row {where}**: ignored ({_plain(row.terms[0].substituted)})"]
    lines = [
        (_plain(class_of(entry)), short(entry.logit), short(entry.probability), signed(entry.gradient))
        for entry in row.entries
    ]
    if row.others is not None:
        rest = row.others
        lines.append((others_of(rest), f"≤ {short(rest.max_logit)}", short(rest.probability), signed(rest.gradient)))
    steps = [f"{at}. {step.name}: `{step.substituted}`" for at, step in enumerate((*row.steps, *row.terms), 1)]
    title = f"**row {where}**, loss {significant(row.loss)}"
    return [title, _table(("class", "logit z", "p = softmax", "dL/dz"), lines), "\n".join(steps)]


def _table(heads: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rule = ("---", *["--:"] * (len(heads) - 1))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *lines))


def _plain(text: str) -> str:
    """No sign of it means anything to Markdown or HTML."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", text)
