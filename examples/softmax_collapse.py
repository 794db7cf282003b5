"""Softmax collapse on the digits: what becomes of a network trained on after float32 rounds its losses to zero.

Two equal networks, equal seeds, the whole training set at each step, AdamW with an eps so small that the size of
a gradient does not matter, only its direction. One is trained with torch's loss, one with xent's. What is seen,
and where nothing is, stands in docs/softmax_collapse.md; ``--eps 1e-8 --beta2 0.999 --batch 128`` are usual settings.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from digits import Digits, accuracy, digits
from pictures import TORCH, XENT, panels, save
from torch import Tensor, nn
from tqdm import tqdm

import xent

PLOT = Path(__file__).parent.parent / "docs" / "_static" / "softmax_collapse.svg"
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


class Point(NamedTuple):
    """The state of a training run after `step` steps."""

    step: int
    zero: float  # share of training rows whose loss is exactly 0
    lost: float  # share of training rows whose loss is 0 though the true one is a normal float32 number
    mean_logit: float
    zero_sum: float  # largest |sum of a gradient row| / largest entry of that row
    test: float  # test accuracy


def observe(step: int, model: nn.Module, loss: nn.Module, data: Digits) -> Point:
    logits = model(data.train_x).detach().requires_grad_()
    losses = type(loss)(reduction="none")(logits, data.train_y)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    true = xent.cross_entropy(logits.detach().double(), data.train_y, reduction="none")
    zero = losses.detach() == 0
    with torch.no_grad():
        test = accuracy(model(data.test_x), data.test_y)
    return Point(
        step,
        zero.double().mean().item(),
        (zero & (true >= SMALLEST_NORMAL)).double().mean().item(),
        logits.mean().item(),
        imbalance(gradient),
        test,
    )


def imbalance(gradient: Tensor) -> float:
    """How far the rows of a gradient are from summing to zero; rows that are zero throughout are left out."""
    largest = gradient.abs().amax(1)
    rows = largest >= SMALLEST_NORMAL * 2**24
    if not rows.any():
        return 0.0
    return (gradient[rows].double().sum(1).abs() / largest[rows]).max().item()


def train(data: Digits, loss: nn.Module, name: str, options: argparse.Namespace) -> list[Point]:
    torch.manual_seed(options.seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    betas = (0.9, options.beta2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=betas, eps=options.eps, weight_decay=0.0)
    points = []
    bar = tqdm(range(options.steps + 1), desc=f"{name:<5}", unit="step", ncols=100, mininterval=0.5)
    for step in bar:
        if step % options.every == 0:
            points.append(observe(step, model, loss, data))
        rows = torch.randperm(len(data.train_y))[: options.batch] if options.batch else slice(None)
        optimizer.zero_grad()
        value = loss(model(data.train_x[rows]), data.train_y[rows])
        value.backward()
        optimizer.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{value.item():.1e}", zero=f"{points[-1].zero:.0%}")
    return points


def table(points: list[Point], rows: int = 8) -> str:
    lines = [f"{'step':>6}{'loss is 0':>12}{'falsely 0':>12}{'mean logit':>13}{'row sum':>10}{'test':>9}"]
    for point in points[:: max(1, (len(points) - 1) // rows)]:
        lines.append(
            f"{point.step:>6}{point.zero:>12.1%}{point.lost:>12.1%}{point.mean_logit:>13.1f}"
            f"{point.zero_sum:>10.0e}{point.test:>9.1%}"
        )
    return "\n".join(lines)


def plot(runs: dict[str, list[Point]], path: Path) -> None:
    """Both curves of both runs."""
    figure, (above, below) = panels(2, height=5.2)
    for (name, points), colour in zip(runs.items(), (TORCH, XENT), strict=True):
        steps = [point.step for point in points]
        above.plot(steps, [100 * point.lost for point in points], color=colour, label=name)
        below.plot(steps, [point.mean_logit for point in points], color=colour, label=name)
    above.set(title="training rows whose loss is 0 and should not be", ylabel="%", ylim=(-3, 103))
    below.set(title="mean logit", xlabel="step")
    above.legend(frameon=False)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--every", type=int, default=50, help="steps between two observations (default: 50)")
    parser.add_argument("--eps", type=float, default=1e-25, help="AdamW's eps (default: 1e-25; AdamW's own: 1e-8)")
    parser.add_argument("--beta2", type=float, default=0.99, help="AdamW's second beta (default: 0.99; its own: 0.999)")
    parser.add_argument("--batch", type=int, default=0, help="rows drawn for a step (default: all of them)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=PLOT, help="where the picture goes (default: docs/_static/)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the matrices are small
    data = digits()
    losses = {"torch": nn.CrossEntropyLoss(), "xent": xent.CrossEntropyLoss()}
    runs = {name: train(data, loss, name, options) for name, loss in losses.items()}
    print(
        f"\n{len(data.train_x):,} training images, AdamW eps {options.eps:g}, beta2 {options.beta2:g}, "
        f"batch {options.batch or 'all'}, seed {options.seed}"
    )
    for name, points in runs.items():
        print(f"\n{name}\n{table(points)}")
    print(
        "\nfalsely 0: the true loss is a normal float32 number."
        "\nrow sum:   |sum| of a gradient row by its largest entry, worst row; it is 0 but for rounding."
    )
    plot(runs, options.plot)
    print(f"\n{options.plot}")


if __name__ == "__main__":
    main()
