"""Train a small next-token model on the documentation strings of Python's standard library, with and without logits.

The text ships with Python. Word pieces are built from it here: the most frequent words whole, others by the letter.
The model is an embedding, two causal convolutions' worth of mixing, and a head; its loss is once
``F.cross_entropy(F.linear(...))`` and once ``xent.linear_cross_entropy``, from the same seed on the same batches. Each
runs in a process of its own, so that the peaks are its own.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import xent

PIECE = re.compile(r" ?[A-Za-z_]+| ?[0-9]+|\s+|[^\sA-Za-z0-9]")
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "torch": lambda hidden, head, target: F.cross_entropy(F.linear(hidden, head), target),
    "xent": lambda hidden, head, target: xent.linear_cross_entropy(hidden, head, target, memory_budget=64 << 20),
}


def documentation() -> str:
    """Every documentation string of the standard library, by file name."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # files that test the parser
            continue
        nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
        found += [text for node in nodes if (text := ast.get_docstring(node))]
    return "\n\n".join(found)


def encoded(text: str, size: int) -> tuple[Tensor, int]:
    """The text as numbers of word pieces, and how many pieces there are: all letters, and the most frequent words."""
    words = PIECE.findall(text)
    letters = sorted(set(text))
    frequent = [word for word, _ in Counter(w for w in words if len(w) > 1).most_common(size - len(letters))]
    number = {piece: k for k, piece in enumerate(letters + frequent)}
    tokens = [number[piece] for word in words for piece in ([word] if word in number else word)]
    return torch.tensor(tokens), len(number)


class Model(nn.Module):
    """Hidden states of a window: two gated layers, each sees the eight tokens before."""

    def __init__(self, pieces: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(pieces, width)
        self.layers = nn.ModuleList(nn.Conv1d(width, 2 * width, 8) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, pieces, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens).mT
        for layer in self.layers:
            hidden = hidden + F.glu(layer(F.pad(hidden, (7, 0))), 1)
        return self.norm(hidden.mT)


def train(name: str, steps: int, pieces: int, width: int, rows: int) -> dict[str, object]:
    """The losses of all steps, processor seconds of head, loss and their gradients, and the peak of memory in MB."""
    torch.set_num_threads(1)  # so that processor seconds are comparable on a busy machine
    tokens, count = encoded(documentation(), pieces)
    torch.manual_seed(0)
    model = Model(count, width)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loss_of, window, losses, seconds = LOSSES[name], 128, [], 0.0
    before = megabytes("VmRSS")
    bar = tqdm(range(steps), desc=f"{name:<5}", unit="step", ncols=88)
    for _ in bar:
        at = torch.randint(len(tokens) - window - 1, (rows // window, 1)) + torch.arange(window + 1)
        batch = tokens[at]
        hidden = model(batch[:, :-1])
        start = time.process_time()
        loss = loss_of(hidden.flatten(0, 1), model.head.weight, batch[:, 1:].flatten())
        slope, model.head.weight.grad = torch.autograd.grad(loss, (hidden, model.head.weight))
        seconds += time.process_time() - start
        hidden.backward(slope)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.4f}")
    return {"losses": losses, "seconds": seconds, "peak": megabytes("VmHWM") - before, "pieces": count}


def megabytes(field: str) -> float:
    """Of this process, where the system tells."""
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


def in_a_process(name: str, args: argparse.Namespace) -> dict:
    sizes = [str(size) for size in (args.steps, args.pieces, args.width, args.rows)]
    done = subprocess.run([sys.executable, __file__, "--one", name, *sizes], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pieces", type=int, default=16_000, help="vocabulary")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rows", type=int, default=2048, help="tokens of a batch")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, *sizes = args.one
        return print(json.dumps(train(name, *map(int, sizes))))
    runs = {name: in_a_process(name, args) for name in LOSSES}
    print(f"{runs['xent']['pieces']:,} word pieces, {args.rows:,} tokens a step\n")
    print(f"{'':12} {'loss, first':>12} {'last':>8} {'head, CPU s':>14} {'peak, MB':>9}")
    for name, run in runs.items():
        first, *_, last = run["losses"]
        print(f"{name:12} {first:12.4f} {last:8.4f} {run['seconds']:14.1f} {run['peak']:9.0f}")
    apart = max(abs(a - b) for a, b in zip(*(run["losses"] for run in runs.values()), strict=True))
    print(f"\nlargest difference of the losses of a step: {apart:.1e}")


if __name__ == "__main__":
    main()
