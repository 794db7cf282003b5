"""The page without a script: plain tables, which survive whoever strips a notebook of scripts and frames."""

from html import escape

from ..derivation import Derivation
from ..numerals import short, signed, significant, whole_number
from ..parts import Row
from .layout import class_of, others_of, said_of


def table(derivation: Derivation) -> str:
    """Every row with its classes, steps and terms."""
    return "".join(_row(row, derivation) for row in derivation.rows)


def _row(row: Row, derivation: Derivation) -> str:
    where = ", ".join(map(str, row.index)) or "0"
    if row.ignored:
        return f"<p>row {where}: ignored ({escape(row.terms[0].substituted)})</p>"
    heads = ("class", "logit z", "p = softmax", "dL/dz")
    lines = [
        (class_of(entry), short(entry.logit), short(entry.probability), signed(entry.gradient)) for entry in row.entries
    ]
    if row.others is not None:
        rest = row.others
        lines.append((others_of(rest), f"≤ {short(rest.max_logit)}", short(rest.probability), signed(rest.gradient)))
    caption = f"row {where}, loss {significant(row.loss)} nats"
    steps = "".join(f"<li>{escape(step.name)}: <code>{escape(step.substituted)}</code></li>" for step in row.steps)
    steps += "".join(f"<li>{escape(term.name)}: <code>{escape(term.substituted)}</code></li>" for term in row.terms)
    return _table(heads, lines, caption) + f"<ol>{steps}</ol>"


def _table(heads: tuple[str, ...], lines: list[tuple[str, ...]], caption: str = "") -> str:
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for first, *cells in lines
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def routes(derivation: Derivation) -> str:
    """Each route with its value, its error and what became of it."""
    lines = []
    for route in derivation.routes:
        status = route.status if route.status in ("ok", "inaccurate") else "failed" if route.value is not None else ""
        value = "–" if route.value is None else significant(route.value)
        error = "–" if route.error is None else "0" if route.error == 0 else f"{route.error:+.1e}"
        reason = f' title="{escape(route.reason)}"' if route.value is not None and route.reason else ""
        said = f'<td class="{status}"{reason}>{escape(said_of(route))}</td>'
        cells = f'<td class="n">{value}</td><td class="n">{error}</td>{said}'
        lines.append(f'<tr><th scope="row">{escape(route.name)}</th>{cells}</tr>')
    exact = derivation.exact
    last = f'<td class="n"><b>{significant(exact.value)}</b></td><td class="n">0</td><td></td>'
    lines.append(f'<tr><th scope="row"><b>exact ({escape(exact.method)})</b></th>{last}</tr>')
    heads = '<th scope="col">route</th><th class="n" scope="col">value</th><th class="n" scope="col">error</th>'
    heads += '<th scope="col">verdict</th>'
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def cautions(derivation: Derivation) -> str:
    """What people get wrong, seen in these inputs."""
    notes = ((escape(caution.kind), escape(caution.text), escape(caution.cure)) for caution in derivation.cautions)
    return "".join(f'<p class="note" role="note"><b>{kind}</b> {text}. → {cure}</p>' for kind, text, cure in notes)


def about(derivation: Derivation) -> str:
    """What the loss is of, in a line."""
    how = derivation.reduction
    shape = " × ".join(f"{size:,}" for size in derivation.shape)
    rows = f"{how.rows:,} row{'' if how.rows == 1 else 's'}" + (f" ({how.ignored:,} ignored)" if how.ignored else "")
    text = f"{how.name} over {rows}, {shape} logits, {derivation.dtype}"
    return f"{text}; divided by {whole_number(how.divisor)}: {how.formula}" if how.name == "mean" else text
