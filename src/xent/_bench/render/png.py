"""A figure as PNG, by matplotlib."""

from pathlib import Path

from .figure import Figure


def png(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(8.6, 5), layout="constrained")
    axes = canvas.add_subplot()
    for line in figure.lines:
        style = {"linestyle": "--", "color": "0.4"} if line.floor else {}
        axes.loglog(*zip(*line.points, strict=True), marker="o", markersize=4, label=line.name, **style)
    axes.set_xticks(list(figure.shapes), [f"{classes:,}\n{shape}" for classes, shape in figure.shapes.items()])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="classes, and the shape that was measured", ylabel="milliseconds")
    axes.set_title(f"{figure.title}\n", loc="left")
    axes.text(0, 1.02, figure.note, transform=axes.transAxes, fontsize=7)
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(canvas).print_png(path)
