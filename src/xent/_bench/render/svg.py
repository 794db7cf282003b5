"""A figure as SVG, written by hand: readable in light and dark, and without any package."""

import math
from html import escape

from .figure import Figure, Line

WIDTH, HEIGHT = 860, 500
LEFT, RIGHT, TOP, BOTTOM = 70, 660, 64, 410
"""The frame; names of lines stand to its right."""
COLOURS = ("#d1495b", "#2e6fd8", "#2a9d5c", "#c77d0a", "#8f5bd0", "#128a96", "#a0643c", "#c2468f")
"""Each is legible on white and on #16181d (contrast of 3 and more)."""
STYLE = """\
svg { background: #ffffff; font: 13px system-ui, sans-serif; }
text { fill: #1d1f24; } .quiet { fill: #646a75; font-size: 11px; } .title { font-size: 16px; font-weight: 600; }
.grid { stroke: #e3e6eb; } .frame { stroke: #9aa1ad; fill: none; } .floor { stroke: #646a75; }
.line { fill: none; stroke-width: 2; } .floor.line { stroke-dasharray: 5 4; }
.floor.mark { fill: #646a75; stroke: none; }
@media (prefers-color-scheme: dark) {
  svg { background: #16181d; } text { fill: #e8eaee; } .quiet { fill: #9aa1ad; }
  .grid { stroke: #2c3038; } .floor { stroke: #9aa1ad; } .floor.mark { fill: #9aa1ad; }
}"""


def svg(figure: Figure) -> str:
    points = [point for line in figure.lines for point in line.points]
    across = Axis([x for x, _ in points], LEFT, RIGHT)
    up = Axis([y for _, y in points], BOTTOM, TOP)
    body = [
        _text(LEFT, 26, figure.title, "title"),
        _text(LEFT, 46, figure.note, "quiet"),
        *_grid(across, up, figure.shapes),
        *(part for at, line in enumerate(figure.lines) for part in _line(line, across, up, _colour(figure, at))),
        *_names(figure, up),
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    described = f"<title>{escape(figure.title)}</title><desc>{escape(_described(figure))}</desc>"
    return "\n".join([head, described, f"<style>{STYLE}</style>", *body, "</svg>"]) + "\n"


class Axis:
    """Logarithms of numbers onto pixels, with room at both ends."""

    def __init__(self, values: list[int] | list[float], first: float, last: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        room = max(0.06 * (high - low), 0.1)
        self.low, self.high, self.first, self.last = low - room, high + room, first, last

    def __call__(self, value: float) -> float:
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.first + part * (self.last - self.first), 1)

    def ticks(self) -> list[float]:
        """1, 10, 100; with 2 and 5 between them where less than three of those are in sight."""
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for steps in ((1,), (1, 2, 5)):
            found = [step * 10.0**decade for decade in decades for step in steps]
            seen = [tick for tick in found if self.low <= math.log10(tick) <= self.high]
            if len(seen) >= 3:
                break
        return seen


def _grid(across: Axis, up: Axis, shapes: dict[int, str]) -> list[str]:
    parts = []
    for tick in up.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {up(tick)}H{RIGHT}"/>')
        parts.append(_text(LEFT - 8, up(tick) + 4, f"{tick:g}", anchor="end"))
    free = 0.0
    for classes, shape in shapes.items():
        x = across(classes)
        parts.append(f'<path class="grid" d="M{x} {TOP}V{BOTTOM}"/>')
        parts.append(_text(x, BOTTOM + 20, f"{classes:,}", anchor="middle"))
        if x >= free:
            parts.append(_text(x, BOTTOM + 36, shape, "quiet", "middle"))
            free = x + 6.5 * len(shape) + 4
    middle = (TOP + BOTTOM) / 2
    parts.append(f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{RIGHT - LEFT}" height="{BOTTOM - TOP}"/>')
    parts.append(_text((LEFT + RIGHT) / 2, BOTTOM + 66, "classes, and the shape that was measured", anchor="middle"))
    parts.append(
        f'<text x="20" y="{middle}" text-anchor="middle" transform="rotate(-90 20 {middle})">milliseconds</text>'
    )
    return parts


def _line(line: Line, across: Axis, up: Axis, colour: str) -> list[str]:
    places = [(across(x), up(y)) for x, y in line.points]
    kind = " floor" if line.floor else ""
    paint = "" if line.floor else f' stroke="{colour}"'
    fill = "" if line.floor else f' fill="{colour}"'
    path = "L".join(f"{x} {y}" for x, y in places)
    words = [f"<title>{escape(line.name)}: {ms:.4g} ms</title>" for _, ms in line.points]
    marks = [
        f'<circle class="mark{kind}" cx="{x}" cy="{y}" r="3.5"{fill}>{said}</circle>'
        for (x, y), said in zip(places, words, strict=True)
    ]
    return [f'<path class="line{kind}"{paint} d="M{path}"/>', *marks]


def _names(figure: Figure, up: Axis) -> list[str]:
    """At the height where each line ends, pushed apart where two would meet; the floor's colour is the text's."""
    ends = sorted((up(line.points[-1][1]), at) for at, line in enumerate(figure.lines))
    heights: list[float] = []
    for y, _ in ends:
        heights.append(max(y, heights[-1] + 17) if heights else y)
    over = max(0.0, heights[-1] - BOTTOM)
    parts = []
    for (_, at), y in zip(ends, heights, strict=True):
        line, y = figure.lines[at], round(y - over, 1)
        key = "" if line.floor else f' style="fill:{_colour(figure, at)}"'
        words = f"{line.name} {line.points[-1][1]:.3g} ms"
        parts.append(f'<text x="{RIGHT + 10}" y="{y + 4}"{key}>{escape(words)}</text>')
    return parts


def _described(figure: Figure) -> str:
    told = (", ".join(f"{x:,} classes {y:.3g} ms" for x, y in line.points) for line in figure.lines)
    return "; ".join(f"{line.name}: {points}" for line, points in zip(figure.lines, told, strict=True))


def _colour(figure: Figure, at: int) -> str:
    return COLOURS[at % len(COLOURS)]


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    placed = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y:g}"{named}{placed}>{escape(words)}</text>'
