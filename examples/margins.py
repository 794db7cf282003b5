"""How many digits of a loss are left when the right class leads by more and more: draws docs/_static/margins.svg.

Ten classes, float32: one logit at the margin, the others at 0. The true loss is log(1 + 9 exp(-margin)).
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from pictures import TORCH, XENT, panels, save
from torch import Tensor

import xent

PLOT = Path(__file__).parent.parent / "docs" / "_static" / "margins.svg"
CLASSES = 10
ROUTES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "F.cross_entropy": (TORCH, lambda x, y: F.cross_entropy(x, y, reduction="none")),
    "xent.cross_entropy": (XENT, lambda x, y: xent.cross_entropy(x, y, reduction="none")),
}
FLOOR = 1e-9
"""Where an error of 0 is drawn."""


def errors(margins: list[float], route: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
    """Relative to the true loss, of each margin."""
    logits = torch.zeros(len(margins), CLASSES)
    logits[:, 0] = torch.tensor(margins)
    losses = route(logits, torch.zeros(len(margins), dtype=torch.int64)).tolist()
    truths = [math.log1p((CLASSES - 1) * math.exp(-margin)) for margin in margins]
    return [abs(loss - truth) / truth for loss, truth in zip(losses, truths, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, default=PLOT, help="where the picture goes (default: docs/_static/)")
    path = parser.parse_args().plot
    margins = [step / 4 for step in range(4 * 80 + 1)]  # quarters are exact in float32
    figure, (axes,) = panels(1, height=3.2)
    print(f"{'largest relative error':<24}{'to 10 nats':>12}{'to 16':>12}{'to 80':>12}")
    for name, (colour, route) in ROUTES.items():
        found = errors(margins, route)
        axes.plot(margins, [max(error, FLOOR) for error in found], color=colour, label=name, linewidth=1.2)
        print(f"{name:<24}" + "".join(f"{max(found[: 4 * end + 1]):>12.1e}" for end in (10, 16, 80)))
    axes.set(yscale="log", xlabel="margin of the right class, nats", ylabel="relative error", ylim=(FLOOR / 2, 3))
    axes.legend(frameon=False, loc="center right")
    save(figure, path)
    print(path)


if __name__ == "__main__":
    main()
