"""linear_cross_entropy beside bare matrix products, F.linear + F.cross_entropy and torch's chunked op, in one run.

    python benchmarks/linear.py                      all of it, into benchmarks/results/linear_cpu.json
    python benchmarks/linear.py --only "bfloat16"    rows with this in their label
    python benchmarks/linear.py --peak train 2048x512x32000 float32 67108864     one peak, in this process

A shape is rows x width x classes. A training step is loss and gradients of hidden states and weight; `products` are
its three matrix products (forward alone: one) into memory that is there. Rounds are interleaved and a ratio is the
median of the ratios of each round. Peaks are those of fresh processes, beyond inputs and gradients, after the bare
products have been made once: a matrix library keeps room of its own.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import xent
from jobs import Job, sizes
from measure import BUSY, interleaved, meets, spread
from memory import STATUS
from run import machine

RESULTS = Path(__file__).parent / "results" / "linear_cpu.json"
MB64 = 64 << 20


class Head(NamedTuple):
    what: str
    """train or forward."""
    shape: str
    dtype: str
    products: float
    """xent's time / that of the bare products, at most."""
    torch: float
    """Time of F.linear + F.cross_entropy / xent's, at least."""
    chunked: float | None
    """Time of torch's chunked op / xent's, at least; None where it is not asked."""

    @property
    def label(self) -> str:
        return f"{self.what} {self.shape} {self.dtype}"


HEADS = [
    Head("train", "2048x512x32000", "float32", 1.06, 1.2, 2.5),
    Head("train", "2048x512x32000", "bfloat16", 1.15, 1.2, 5),
    Head("train", "1024x1024x128256", "bfloat16", 1.2, 1.0, 3),
    Head("forward", "2048x512x32000", "float32", 1.08, 1.3, None),
]


class Inputs(NamedTuple):
    hidden: Tensor
    weight: Tensor
    target: Tensor


def inputs(shape: str, dtype: str) -> Inputs:
    rows, width, classes = sizes(shape)
    of = getattr(torch, dtype)
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, width).to(of), torch.randn(classes, width).div_(width**0.5).to(of)
    return Inputs(hidden.requires_grad_(), weight.requires_grad_(), torch.randint(classes, (rows,)))


def written_out(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), target)


def chunked(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.linear_cross_entropy(hidden, weight, target, options=torch.nn.LinearCrossEntropyOptions())


def step(loss: Callable[..., Tensor], given: Inputs, what: str) -> Job:
    def train() -> None:
        given.hidden.grad = given.weight.grad = None
        loss(*given).backward()

    return train if what == "train" else torch.no_grad()(lambda: loss(*given))


def products(given: Inputs, what: str) -> Job:
    hidden, weight = given.hidden.detach(), given.weight.detach()
    logits = hidden.new_zeros(len(hidden), len(weight))
    into = torch.zeros_like(hidden), torch.zeros_like(weight)

    def job() -> None:
        torch.mm(hidden, weight.T, out=logits)
        if what == "train":
            torch.mm(logits, weight, out=into[0])
            torch.mm(logits.T, hidden, out=into[1])

    return job


def row_of(head: Head, rounds: int) -> dict[str, object]:
    given = inputs(head.shape, head.dtype)
    within = lambda *tensors: xent.linear_cross_entropy(*tensors, memory_budget=MB64)  # noqa: E731
    losses = {"xent": xent.linear_cross_entropy, "xent in 64 MB": within, "torch": written_out}
    if head.chunked is not None and hasattr(F, "linear_cross_entropy"):
        losses["chunked"] = chunked
    jobs = {name: step(loss, given, head.what) for name, loss in losses.items()}
    times, waited = interleaved(jobs | {"products": products(given, head.what)}, rounds)
    found = {}
    for above, below, bound, goal in (
        ("xent", "products", "at most", head.products),
        ("torch", "xent", "at least", head.torch),
        ("chunked", "xent", "at least", head.chunked),
        ("xent in 64 MB", "products", "at most", None),
    ):
        if above in times:
            ratio = [a / b for a, b in zip(times[above], times[below], strict=True)]
            verdict = {} if goal is None else {bound: goal, "met": meets(median(ratio), bound, goal)}
            found[f"{above} / {below}"] = {**spread(ratio), **verdict}
    row = {"what": head.what, "shape": head.shape, "dtype": head.dtype, "waited": round(waited, 3)}
    return row | {"ms": {name: spread(values) for name, values in times.items()}, "ratios": found, "peak": peaks(head)}


def peaks(head: Head) -> dict[str, object]:
    """MB beyond inputs and gradients: of torch, of xent as it comes, and within 64 MB (64 MiB, as elsewhere)."""
    if not STATUS.exists():
        return {}
    found = {name: peak_of(head, budget) for name, budget in (("torch", -1), ("xent", 0), ("xent in 64 MB", MB64))}
    for name, budget in (("xent", 512 << 20), ("xent in 64 MB", MB64)):
        found[f"{name}, within its budget and 10 %"] = found[name] <= budget * 1.1 / 1e6
    return found


def peak_of(head: Head, budget: int) -> float:
    command = [sys.executable, __file__, "--peak", head.what, head.shape, head.dtype, str(budget)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak(what: str, shape: str, dtype: str, budget: str) -> float:
    """Of one step in this process; a budget of -1 is torch, 0 the default."""
    options = {} if budget == "0" else {"memory_budget": int(budget)}
    loss = written_out if budget == "-1" else lambda *tensors: xent.linear_cross_entropy(*tensors, **options)
    step(loss, inputs("64x16x100", dtype), what)()
    given = inputs(shape, dtype)
    products(given, what)()  # a matrix library keeps room of its own, whoever calls it
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = _megabytes("VmRSS")
    step(loss, given, what)()
    results = (given.hidden.nbytes + given.weight.nbytes) / 1e6 if what == "train" else 0.0
    return round(_megabytes("VmHWM") - before - results, 1)


def _megabytes(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


def line_of(row: dict) -> str:
    words = [f"{row['what']} {row['shape']} {row['dtype']}"]
    for name, ratio in row["ratios"].items():
        goal = "" if "met" not in ratio else f" ({'met' if ratio['met'] else 'missed'})"
        words.append(f"{name} {ratio['median']:.3g}{goal}")
    words += [f"peak {name} {value} MB" for name, value in row["peak"].items() if not isinstance(value, bool)]
    return ", ".join(words) + (f" busy: {row['waited']:.0%}" if row["waited"] > BUSY else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORDS", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help=f"default: results/{RESULTS.name}, or nothing with --only")
    parser.add_argument("--peak", nargs=4, metavar=("WHAT", "SHAPE", "DTYPE", "BUDGET"), help="print one peak in MB")
    args = parser.parse_args()
    if args.peak:
        return print(peak(*args.peak))
    result = {"machine": machine(), "rounds": args.rounds, "rows": []}
    for head in tqdm([head for head in HEADS if re.search(args.only, head.label)], leave=False):
        result["rows"].append(row_of(head, args.rounds))
        tqdm.write(line_of(result["rows"][-1]))
    path = args.json or (None if args.only else RESULTS)
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {path.name}")


if __name__ == "__main__":
    main()
