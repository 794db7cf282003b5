"""The picture in matplotlib, which is asked for here only, and the loss where two logits move."""

import math
from typing import Any

from .derivation import Derivation
from .numerals import short
from .parts import Entry, Row

UP, DOWN, QUIET = "#2a5bd7", "#b93a2b", "#8a94a3"
SIDE = 61
"""Points of the surface along each logit."""
SPAN = 6.0
"""How far the surface goes to each side, in the units of the logits."""


def drawn(derivation: Derivation, row: Row | None) -> Any:
    """Four panels; what a row has nothing to show in is left out."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as reason:
        raise ModuleNotFoundError(
            'plot needs matplotlib, which is not installed.\n  pip install "xent[plot]"; to_svg() needs nothing.'
        ) from reason
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 2)
    _losses(panels[1, 0], derivation, row)
    if row is None or row.ignored:
        for panel in (panels[0, 0], panels[0, 1], panels[1, 1]):
            panel.set_axis_off()
        return figure
    where = ", ".join(map(str, row.index)) or "0"
    figure.suptitle(f"row {where}: loss {short(row.loss)} nats")
    _probabilities(panels[0, 0], row)
    _gradient(panels[0, 1], row)
    _surface(panels[1, 1], derivation, row)
    return figure


def _names(row: Row) -> list[str]:
    """Of the bars; a dollar in a name begins no formula."""
    names = [f"{entry.index} {entry.label or ''}".strip().replace("$", r"\$") for entry in row.entries]
    return [*names, f"… {row.others.count:,}"] if row.others else names


def _long(values: list[float]) -> list[float]:
    """No bar where there is no number."""
    return [value if math.isfinite(value) else 0.0 for value in values]


def _probabilities(panel: Any, row: Row) -> None:
    values = _long([line.probability for line in (*row.entries, *([row.others] if row.others else []))])
    colours = [UP if entry.target else QUIET for entry in row.entries] + [QUIET]
    panel.barh(_names(row), values, color=colours[: len(values)])
    panel.set(xlim=(0, 1), title="p = softmax, the target in blue")
    panel.invert_yaxis()


def _gradient(panel: Any, row: Row) -> None:
    values = _long([line.gradient for line in (*row.entries, *([row.others] if row.others else []))])
    panel.barh(_names(row), values, color=[UP if value < 0 else DOWN for value in values])
    panel.axvline(0, color=QUIET, linewidth=0.8)
    panel.set(title="dL/dz: descent raises what is blue")
    panel.invert_yaxis()


def _losses(panel: Any, derivation: Derivation, row: Row | None) -> None:
    rows = sorted(derivation.rows, key=lambda each: each.position)
    names = [", ".join(map(str, each.index)) or "0" for each in rows]
    panel.bar(names, _long([each.loss for each in rows]), color=[UP if each is row else QUIET for each in rows])
    panel.set(title=f"loss of each row ({derivation.selection})", ylabel="nats")


def _surface(panel: Any, derivation: Derivation, row: Row) -> None:
    pair = rivals(row)
    if pair is None:
        panel.set_axis_off()
        return
    import numpy as np

    ours, theirs = pair
    steps = np.linspace(-SPAN, SPAN, SIDE)
    across, up = np.meshgrid(ours.logit + steps, theirs.logit + steps)
    losses = losses_of(derivation, row, {ours.index: across, theirs.index: up})
    lines = panel.contourf(across, up, losses, levels=24, cmap="viridis")
    panel.figure.colorbar(lines, ax=panel, label="nats")
    panel.plot(ours.logit, theirs.logit, "o", color="white", markeredgecolor="black")
    panel.set(title="loss of the row over two logits", xlabel=f"z of class {ours.index}, the target")
    panel.set_ylabel(f"z of class {theirs.index}")


def rivals(row: Row) -> tuple[Entry, Entry] | None:
    """The target and the class of highest logit beside it, where both have finite logits and the row a loss."""
    target = row.picked if math.isfinite(row.loss) else None
    others = [entry for entry in row.entries if not entry.target and math.isfinite(entry.logit)]
    if target is None or not math.isfinite(target.logit) or not others:
        return None
    return target, max(others, key=lambda entry: entry.logit)


def losses_of(derivation: Derivation, row: Row, moved: dict[int, Any]) -> Any:
    """The loss of the row where these classes have other logits, numpy arrays of one shape."""
    import numpy as np

    shape = next(iter(moved.values())).shape
    logits = [np.broadcast_to(moved.get(entry.index, entry.logit), shape) for entry in row.entries]
    x = np.stack(logits) * derivation.logit_scale
    x = x if derivation.softcap is None else derivation.softcap * np.tanh(x / derivation.softcap)
    asked, extra, e = [entry.asked for entry in row.entries], 0.0, derivation.label_smoothing
    if row.others is not None:
        crowd = row.others.crowd
        x = np.concatenate([x, np.full((1, *shape), crowd.logsumexp)])
        asked.append(row.others.asked)
        extra = (1 - e) * crowd.shared + (e / row.classes * crowd.weighted if e else 0.0)
    top = x.argmax(0)
    peak = np.take_along_axis(x, top[None], 0)[0]
    exponentials = np.exp(x - peak)
    np.put_along_axis(exponentials, top[None], 0.0, 0)
    log_mass = np.log1p(exponentials.sum(0))
    loss = sum(a * (log_mass - (line - peak)) for a, line in zip(asked, x, strict=True) if a)
    return row.token_weight * (loss + extra + derivation.z_loss * (peak + log_mass) ** 2)
