"""How the examples draw: pictures for light and dark pages, whose bytes depend on the numbers only."""

from pathlib import Path
from typing import Any

INK = "#7d7d7d"
"""Of axes and words: 4.1 : 1 against white, 4.5 : 1 against the dark page."""
TORCH, XENT = "#d9534a", "#2f8fb0"


def panels(rows: int, height: float) -> tuple[Any, Any]:
    """A figure and its axes, one above the other, without frames."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "xent"
    for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color"):
        matplotlib.rcParams[name] = INK
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, 1, sharex=True, figsize=(7, height), layout="constrained", squeeze=False)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat)


def save(figure: Any, path: Path) -> None:
    """On no background, so that the page's own shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, transparent=True)
