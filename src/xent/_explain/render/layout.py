"""A page as lines of marked words: what `text` joins and `colour` paints.

A line is a list of (words, role); the role says what the words are, not how they look.
"""

import textwrap

from ..derivation import Derivation
from ..numerals import number, short, signed, significant, whole_number
from ..parts import Entry, Others, Route, Row

Line = list[tuple[str, str]]

WIDTH = 80
NUMBERS = 48
"""Columns that the numbers of a class take; its name and its bar share the rest."""
MARKS = {"ok": "ok", "inaccurate": "~", "not applicable": "–"}


def page(derivation: Derivation) -> list[Line]:
    """The whole page."""
    lines: list[Line] = []
    if derivation.selection != "all rows":
        lines.append([(f"showing {derivation.selection}", "quiet")])
    for row in derivation.rows:
        lines += _row(row, derivation)
    lines += _reduction(derivation)
    lines += _routes(derivation)
    for caution in derivation.cautions:
        lines += _paragraph(f"! {caution.text}.", "caution")
        lines += _paragraph(f"  → {caution.cure}", "quiet")
    return lines


def _heading(words: str) -> Line:
    return [(words + " ", "heading"), ("─" * max(3, WIDTH - len(words) - 1), "rule")]


def _paragraph(words: str, role: str) -> list[Line]:
    indent = "    " if words.startswith("  ") else "  "
    return [[(line, role)] for line in textwrap.wrap(words, WIDTH, subsequent_indent=indent, break_long_words=False)]


def _row(row: Row, derivation: Derivation) -> list[Line]:
    where = ", ".join(map(str, row.index)) or "0"
    if row.ignored:
        return [
            _heading(f"row {where} · ignored"),
            [(f"  {row.terms[0].formula} ({row.terms[0].substituted})", "quiet")],
        ]
    picked = row.picked
    name = f" ({picked.label})" if picked is not None and picked.label else ""
    asks = "asks most of" if derivation.soft else "="
    target = "asks nothing" if picked is None else f"target {asks} class {row.target}{name}"
    lines = [_heading(f"row {where} · {target} · {row.classes:,} classes")]
    shaped = derivation.softcap is not None or derivation.logit_scale != 1
    lines += _table(row, asked=derivation.soft or derivation.label_smoothing > 0, shaped=shaped)
    for at, step in enumerate(row.steps, 1):
        lines += _item(f"  {at}  {step.name:<9} ", step.substituted, step.name)
    for term in row.terms:
        lines += _item(f"  +  {term.name}: ", f"{term.formula} = {term.substituted}", "term")
    return lines


def _item(head: str, words: str, role: str) -> list[Line]:
    wrapped = textwrap.wrap(words, max(20, WIDTH - len(head))) or [""]
    return [[(head if at == 0 else " " * len(head), "quiet"), (part, role)] for at, part in enumerate(wrapped)]


def _table(row: Row, asked: bool, shaped: bool) -> list[Line]:
    """The classes; a shaped logit takes the place of its exponential."""
    others = others_of(row.others) if row.others is not None else ""
    names = [class_of(entry) for entry in row.entries]
    room = WIDTH - NUMBERS - (10 if asked else 0)
    width = min(room - 6, max([len(name) for name in (*names, others)] + [7]))
    bar = min(16, room - width)
    head = (
        f"{'class':>{width}} {'logit z':>10} {'shaped x' if shaped else 'exp(z−m)':>11} {'p = softmax':>12} {'':{bar}} "
    )
    lines: list[Line] = [[(head + (f"{'asked':>9} " if asked else "") + f"{'dL/dz':>10}", "column")]]
    for name, entry in zip(names, row.entries, strict=True):
        middle = short(entry.shaped if shaped else entry.exponential)
        cells = f"{fit(name, width):>{width}} {short(entry.logit):>10} {middle:>11} "
        role = "target" if entry.target else "class"
        line: Line = [(f"{cells}{short(entry.probability):>12} ", role), (_bar(entry.probability, bar, "█"), "bar")]
        share = f"{short(entry.asked):>9} " if asked else ""
        lines.append([*line, (f" {share}{signed(entry.gradient):>10}", role)])
    if row.others is not None:
        rest = row.others
        middle = "≤ " + short(rest.max_shaped) if shaped else "Σ " + short(rest.exponentials)
        cells = f"{others:>{width}} {'≤ ' + short(rest.max_logit):>10} {middle:>11} "
        line = [(f"{cells}{short(rest.probability):>12} ", "quiet"), (_bar(rest.probability, bar, "░"), "quiet")]
        share = f"{short(rest.asked):>9} " if asked else ""
        lines.append([*line, (f" {share}{signed(rest.gradient):>10}", "quiet")])
    return lines


def class_of(entry: Entry) -> str:
    """Number and name of a class, the target marked."""
    return f"{'→ ' if entry.target else ''}{entry.index}{f' {entry.label}' if entry.label else ''}"


def others_of(others: Others) -> str:
    """How many classes are in the one line."""
    return f"… {others.count:,} other{'' if others.count == 1 else 's'}"


def said_of(route: Route) -> str:
    """What became of it, in a word or two."""
    if route.value is None:
        return route.reason
    if route.status == "inaccurate" and route.ulps is not None:
        return f"~ {route.ulps:,.0f} ulp" if route.ulps < 1e6 else f"~ {route.ulps:.0e} ulp"
    return MARKS.get(route.status, f"✗ {route.status}")


def fit(words: str, width: int) -> str:
    """The words, cut where they are too long."""
    return words if len(words) <= width else words[: width - 1] + "…"


def _bar(share: float, width: int, block: str) -> str:
    filled = round(share * width) if 0 <= share <= 1 else 0
    return (block * filled).ljust(width)


def _reduction(derivation: Derivation) -> list[Line]:
    how = derivation.reduction
    ignored = f" ({how.ignored:,} ignored)" if how.ignored else ""
    rows = f"{how.rows:,} row{'' if how.rows == 1 else 's'}{ignored}"
    if derivation.loss is None:
        return [_heading(f"not reduced: {rows}, one loss each")]
    lines = [_heading(f"{how.name} over {rows}")]
    if how.name == "mean":
        lines += _item("  divisor  ", f"{whole_number(how.divisor)}: {how.formula}", "divisor")
        loss = f"{number(how.total)} / {whole_number(how.divisor)} = {significant(derivation.loss)}"
    else:
        loss = significant(derivation.loss)
    return [*lines, [("  loss     ", "quiet"), (loss + " nats", "loss")]]


def _routes(derivation: Derivation) -> list[Line]:
    exact = derivation.exact
    over = "" if derivation.scope == "all rows" else f", over {derivation.scope}"
    lines = [_heading(f"the same number by every route{over}")]
    lines.append([(f"{'':34}{'value':>17} {'error':>9}", "column")])
    for route in derivation.routes:
        lines += _route(route)
    name, error = f"exact ({exact.method})", "–" if exact.digits in ("nan", "inf") else "0"
    return [*lines, [(f"{fit(name, 34):<34}{significant(exact.value):>17} {error:>9}", "exact")]]


def _route(route: Route) -> list[Line]:
    if route.value is None:
        return _item(f"{route.name:<34}", f"{MARKS[route.status]} {route.reason}", "quiet")
    error = "–" if route.error is None else "0" if route.error == 0 else f"{route.error:+.1e}"
    role = route.status if route.status in ("ok", "inaccurate") else "failed"
    return [[(f"{route.name:<34}{significant(route.value):>17} {error:>9}  ", "route"), (said_of(route), role)]]
