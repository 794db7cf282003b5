"""One self-contained page: sliders move the logits, and every number follows. It loads and sends nothing.

`page/` has the template, the style and the script; `data` is all that the script knows of the loss.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import astuple
from functools import lru_cache
from html import escape
from importlib.resources import files
from typing import Any

from ..derivation import Derivation, worst
from ..numerals import significant
from ..parts import Row
from .table import about, cautions, routes, table


def html(derivation: Derivation) -> str:
    """The page as one string."""
    parts = {
        "title": escape(f"{headline(derivation)}, explained"),
        "loss": escape(_loss(derivation)) + ("" if derivation.loss is None else " <small>nats</small>"),
        "about": escape(about(derivation)),
        "cautions": cautions(derivation),
        "table": table(derivation),
        "selection": escape(derivation.selection),
        "scope": escape("" if derivation.scope == "all rows" else f"over {derivation.scope}"),
        "routes": routes(derivation),
        "style": _packed("page.css"),
        "script": _packed("page.js"),
        "data": _inert(json.dumps(data(derivation), ensure_ascii=False, separators=(",", ":"), allow_nan=False)),
    }
    return _filled(_packed("page.html"), parts)


def data(derivation: Derivation) -> dict[str, Any]:
    """What the script works with. Numbers that JSON lacks are strings that JavaScript reads as such."""
    how, shown = derivation.reduction, derivation.rows
    first = worst(shown)
    return {
        "classes": derivation.classes,
        "soft": derivation.soft,
        "weighted": derivation.weighted,
        "smoothing": derivation.label_smoothing,
        "softcap": derivation.softcap,
        "scale": derivation.logit_scale,
        "z_loss": derivation.z_loss,
        "tokens": derivation.token_weighted,
        "share": _number(1 / how.divisor if how.divisor else 0.0),
        "reduction": {
            "name": how.name,
            "rows": how.rows,
            "total": _number(how.total),
            "divisor": _number(how.divisor),
        },
        "temperatures": list(derivation.temperatures),
        "first": shown.index(first) if first is not None else 0,
        "rows": [_row(row) for row in shown],
    }


def _row(row: Row) -> dict[str, Any]:
    entries, others = row.entries, row.others
    head = next((step for step in row.steps if step.name == "head"), None)
    return {
        "at": row.index,
        "target": row.target,
        "picked": next((at for at, entry in enumerate(entries) if entry.target), -1),
        "ignored": row.ignored,
        "why": row.terms[0].formula if row.ignored else "",
        "loss": _number(row.loss),
        "token": _number(row.token_weight),
        "index": [entry.index for entry in entries],
        "names": [entry.label or "" for entry in entries],
        "z": [_number(entry.logit) for entry in entries],
        "share": [_number(entry.share) for entry in entries],
        "weight": [_number(entry.weight) for entry in entries],
        "head": None if head is None else [head.name, head.formula, head.substituted],
        "others": others
        and {
            "count": others.count,
            "max": _number(others.max_logit),
            "weights": _number(others.weights),
            "shares": _number(others.shares),
            "crowds": [[*map(_number, astuple(crowd)[1:])] for crowd in others.crowds],
        },
    }


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def headline(derivation: Derivation) -> str:
    """The loss in a word."""
    return _loss(derivation) if derivation.loss is None else f"loss {_loss(derivation)} nats"


def _loss(derivation: Derivation) -> str:
    return "one loss a row" if derivation.loss is None else significant(derivation.loss)


def _inert(text: str) -> str:
    """JSON that no HTML parser sees an end or a comment in, and no script a line break."""
    signs = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return re.sub("[<>&\u2028\u2029]", lambda sign: signs[sign[0]], text)


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """In one pass, so that what is filled in is not searched for further places."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


STRING = re.compile(r'("(?:\\.|[^"\\])*"|`[^`]*`)')
SIGNS = {".html": r"(?<=>)\n(<)", ".css": r"\s*([:;{},>])\s*", ".js": r"\s*([-=+*/?:,;<>(){}&|!\[\]])\s*"}
"""Around which a space means nothing, outside strings."""


@lru_cache
def _packed(name: str) -> str:
    """Without comments and without space that means nothing: a third of the page."""
    lines = (re.sub(r"(^|\s)// .*", "", line).strip() for line in _source(name).splitlines())
    parts = STRING.split("\n".join(line for line in lines if line))
    signs = SIGNS[name[name.rindex(".") :]]
    return "".join(part if at % 2 else re.sub(signs, r"\1", part) for at, part in enumerate(parts))


@lru_cache
def _source(name: str) -> str:
    return (files("xent._explain.render") / "page" / name).read_text(encoding="utf-8")
