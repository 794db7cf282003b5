"""A picture of one row without any plotting library: its classes, and where it is on the curve of -log p.

For documents: light and dark by itself, with the words as text. Of many rows it is the one of highest loss.
"""

import math
from html import escape

from ..derivation import Derivation, worst
from ..numerals import short, signed
from ..parts import Row
from .html import headline
from .layout import class_of, fit, others_of

WIDTH, LINE, TOP = 720, 26, 84
"""Pixels of the whole, of a class, and above the first one."""
CLASS, LOGIT, BAR, SHARE, PULL, GRADIENT = 146, 214, 228, 384, 476, 626
"""Where each column ends, or a bar begins; the middle of the gradient's bars is between the last two."""
STYLE = """
svg{--ink:#1b2028;--quiet:#555f6d;--line:#dde1e7;--up:#2a5bd7;--down:#b93a2b;--track:#e4ebfb}
@media(prefers-color-scheme:dark){svg{--ink:#e8ebf0;--quiet:#a3adba;--line:#2c323c;--up:#86a9ff;--down:#ff9083;--track:#25304a}}
text{font:13px system-ui,sans-serif;fill:var(--ink);font-variant-numeric:tabular-nums}
.quiet{fill:var(--quiet)}.bold{font-weight:700}.end{text-anchor:end}.title{font-size:17px;font-weight:700}
.track{fill:var(--track)}.p,.up{fill:var(--up)}.down{fill:var(--down)}.axis{stroke:var(--line)}
.curve{fill:none;stroke:var(--up);stroke-width:2}
"""


def svg(derivation: Derivation) -> str:
    """One `<svg>`, ready for a file or a page."""
    row = worst(derivation.rows)
    if row is None or row.ignored:
        return _drawn(70, headline(derivation), [_text(20, 34, headline(derivation), "title")])
    lines = [(class_of(entry), entry.logit, entry.probability, entry.gradient, entry.target) for entry in row.entries]
    if row.others is not None:
        rest = row.others
        lines.append((others_of(rest), rest.max_logit, rest.probability, rest.gradient, False))
    most = max((abs(line[3]) for line in lines if math.isfinite(line[3])), default=0.0) or 1.0
    parts = [*_head(row), _columns()]
    for at, (name, logit, p, gradient, target) in enumerate(lines):
        parts += _line(TOP + LINE * at, name, logit, p, gradient / most, signed(gradient), target)
    bottom = TOP + LINE * len(lines)
    return _drawn(bottom + 136, f"{headline(derivation)}: {_title(row)}", [*parts, *_curve(row, bottom + 8)])


def _title(row: Row) -> str:
    return f"row {', '.join(map(str, row.index)) or '0'}, loss {short(row.loss)} nats"


def _head(row: Row) -> list[str]:
    target = "asks nothing" if row.picked is None else f"target {row.picked.index} {row.picked.label or ''}".rstrip()
    return [_text(20, 30, _title(row), "title"), _text(20, 50, fit(f"{target}, {row.classes:,} classes", 90), "quiet")]


def _columns() -> str:
    heads = ((CLASS, "class"), (LOGIT, "logit z"), (SHARE + 76, "p = softmax"), (GRADIENT + 76, "dL/dz"))
    return "".join(_text(x, TOP - 10, name, "quiet end") for x, name in heads)


def _line(y: float, name: str, logit: float, p: float, pull: float, gradient: str, target: bool) -> list[str]:
    middle, kind = (PULL + GRADIENT) / 2, "bold end" if target else "end"
    reach = 0.0 if not math.isfinite(pull) else (GRADIENT - PULL) / 2 * min(1.0, abs(pull))
    share = (SHARE - BAR) * p if 0 <= p <= 1 else 0.0
    base = y + 14
    return [
        _text(CLASS, base, fit(name, 20), kind),
        _text(LOGIT, base, short(logit), kind),
        _bar(BAR, y + 4, SHARE - BAR, "track"),
        _bar(BAR, y + 4, share, "p"),
        _text(SHARE + 76, base, short(p), kind),
        _bar(PULL, y + 4, GRADIENT - PULL, "track"),
        _bar(middle - reach, y + 4, reach, "up") if pull < 0 else _bar(middle, y + 4, reach, "down"),
        _text(GRADIENT + 76, base, gradient, kind),
    ]


def _curve(row: Row, y: float) -> list[str]:
    """``-log p`` over p, and the target's dot."""
    if row.picked is None or not row.picked.probability >= 0:
        return []
    p, surprise = row.picked.probability, -row.picked.log_probability
    high = max(5.0, 1.12 * surprise) if math.isfinite(surprise) else 5.0
    left, right, low = 60.0, SHARE, y + 104

    def at(p: float, v: float) -> tuple[float, float]:
        return left + (right - left) * p, low - 96 * min(v, high) / high

    steps = [high * (1 - i / 90) ** 2 for i in range(91)]
    path = " ".join(f"{x:.1f} {v:.1f}" for x, v in (at(math.exp(-v), v) for v in steps))
    x, top = at(p, surprise if math.isfinite(surprise) else high)
    return [
        f'<path class="axis curve" style="stroke:var(--line);stroke-width:1" d="M{left} {low - 96}V{low}H{right}"/>',
        f'<path class="curve" d="M{path}"/><circle class="p" cx="{x:.1f}" cy="{top:.1f}" r="5"/>',
        _text(left, low + 16, "0", "quiet"),
        _text(right, low + 16, "p = 1", "quiet end"),
        _text(left - 8, low - 88, f"{high:.3g}", "quiet end"),
        _text(PULL, low - 60, f"−log p[target] = {short(surprise)}", "bold"),
        _text(PULL, low - 40, f"where p[target] = {short(p)}", "quiet"),
    ]


def _bar(x: float, y: float, width: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" height="12" rx="2"/>'


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(words)}</text>'


def _drawn(height: float, title: str, parts: list[str]) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{escape(title)}</title>'
    return f"{head}<style>{STYLE.strip()}</style>{''.join(parts)}</svg>\n"
