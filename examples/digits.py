"""Train a classifier of handwritten digits with xent's loss, then ask why its worst image costs what it costs.

The data are scikit-learn's 1,797 scanned digits, 8 x 8 pixels each, which come with the package.
The same training, seed for seed, is run with torch's loss beside it.
"""

import argparse
import time
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

import xent

SHADES = " ░▒▓█"


class Digits(NamedTuple):
    """Pixels scaled to 0 ... 1, and labels; a quarter is held out, with the classes in proportion."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits() -> Digits:
    pixels, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels / 16.0, labels, test_size=0.25, random_state=0, stratify=labels
    )
    x, y = torch.float32, torch.int64
    return Digits(
        torch.tensor(train_x, dtype=x),
        torch.tensor(train_y, dtype=y),
        torch.tensor(test_x, dtype=x),
        torch.tensor(test_y, dtype=y),
    )


def train(data: Digits, loss: nn.Module, epochs: int, name: str) -> nn.Linear:
    """Softmax regression, one linear layer, by Adam on shuffled batches of 128."""
    torch.manual_seed(0)
    model = nn.Linear(64, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    bar = tqdm(range(epochs), desc=f"{name:<5}", unit="epoch", ncols=88)
    for _ in bar:
        order = torch.randperm(len(data.train_x))
        losses = []
        for batch in order.split(128):
            optimizer.zero_grad()
            value = loss(model(data.train_x[batch]), data.train_y[batch])
            value.backward()
            optimizer.step()
            losses.append(value.item())
        bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}")
    return model


def report(data: Digits, ours: nn.Linear, theirs: nn.Linear) -> Tensor:
    """Print both results; return the test logits of ours."""
    with torch.no_grad():
        logits, other = ours(data.test_x), theirs(data.test_x)
    # one judge for both, in float64, so that the difference is that of the weights
    loss, torch_loss = (xent.cross_entropy(x.double(), data.test_y).item() for x in (logits, other))
    gap = max((a - b).abs().max().item() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    print(f"\n{len(data.train_x):,} images to learn from, {len(data.test_x)} to test on")
    print(f"{'':12}{'accuracy':>10}{'test loss':>14}")
    print(f"{'xent':12}{accuracy(logits, data.test_y):>10.2%}{loss:>14.8f}")
    print(f"{'torch':12}{accuracy(other, data.test_y):>10.2%}{torch_loss:>14.8f}")
    print(f"{'difference':12}{'':>10}{loss - torch_loss:>14.1e}   (largest difference of a weight: {gap:.1e})")
    return logits


def accuracy(logits: Tensor, target: Tensor) -> float:
    return (logits.argmax(1) == target).double().mean().item()


def picture(pixels: Tensor) -> str:
    """Eight rows of eight pixels, each two block characters wide."""
    levels = (pixels * (len(SHADES) - 1)).round().long().reshape(8, 8)
    return "\n".join("    " + "".join(SHADES[level] * 2 for level in row) for row in levels.tolist())


def worst(data: Digits, logits: Tensor) -> None:
    """Show the test image with the largest loss, and where that loss comes from."""
    losses = xent.cross_entropy(logits, data.test_y, reduction="none")
    row = int(losses.argmax())
    label, guess = int(data.test_y[row]), int(logits[row].argmax())
    print(
        f"\nThe costliest test image, number {row}: a {label} taken for a {guess}, loss {losses[row].item():.4f} nats\n"
    )
    print(picture(data.test_x[row]), end="\n\n")
    print(xent.explain(logits[row], data.test_y[row]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images (default: 40)")
    epochs = parser.parse_args().epochs
    torch.set_num_threads(1)  # the matrices are small
    data = digits()
    start = time.perf_counter()
    ours = train(data, xent.CrossEntropyLoss(), epochs, "xent")
    between = time.perf_counter()
    theirs = train(data, nn.CrossEntropyLoss(), epochs, "torch")
    print(f"\nseconds: {between - start:.1f} with xent, {time.perf_counter() - between:.1f} with torch", end="")
    worst(data, report(data, ours, theirs))


if __name__ == "__main__":
    main()
