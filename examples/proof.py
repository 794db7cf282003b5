"""What torch and xent answer, and what is true: the table of the README.

    python examples/proof.py                     prints it
    python examples/proof.py --json FILE         keeps it; benchmarks/tables.py --write puts it into the README

The truth is computed here with Python's own floats (math.exp, math.fsum, math.log1p), by neither library. The
float32 rows are exact float64 numbers, so that it is good to about 1e-15.
"""

import argparse
import json
import math
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import xent

Loss = Callable[..., Tensor]


class Case(NamedTuple):
    what: str
    true: Callable[[], str]
    answer: Callable[[Loss], str]


def truth(row: list[float], target: int) -> float:
    """The loss of a row, with nothing added to the 1 that the peak contributes until log1p does it."""
    peak = max(range(len(row)), key=row.__getitem__)
    rest = math.fsum(math.exp(x - row[peak]) for j, x in enumerate(row) if j != peak)
    return math.log1p(rest) - (row[target] - row[peak])


def confident() -> tuple[Tensor, Tensor]:
    """Eight rows of 128,256 normal logits; the right class is set to 14 ... 21."""
    logits = torch.randn(8, 128_256, generator=torch.Generator().manual_seed(0))
    target = torch.arange(8) * 16_000
    logits[torch.arange(8), target] = torch.arange(14.0, 22.0)
    return logits, target


def worst_error(loss: Loss) -> str:
    logits, target = confident()
    losses = loss(logits, target, reduction="none").double().tolist()
    rows = [truth(row, y) for row, y in zip(logits.tolist(), target.tolist(), strict=True)]
    return f"{max(abs(got / true - 1) for got, true in zip(losses, rows, strict=True)):.1g}"


def gradient(loss: Loss) -> str:
    logits = torch.tensor([[20.0, 0.0]], requires_grad=True)
    (found,) = torch.autograd.grad(loss(logits, torch.tensor([0])), logits)
    return "[" + ", ".join(f"{g:.4g}" for g in found[0].tolist()) + "]"


def half(loss: Loss) -> str:
    return f"{loss(torch.zeros(70_000, 2, dtype=torch.float16), torch.zeros(70_000, dtype=torch.int64)).item():.4f}"


def masked(loss: Loss) -> str:
    return f"{loss(torch.tensor([[1.0, 2.0, -math.inf]]), torch.tensor([[0.5, 0.5, 0.0]])).item():.4f}"


def small_labels(loss: Loss) -> str:
    try:
        return f"{loss(torch.tensor([[2.0, 1.0]]), torch.tensor([0], dtype=torch.int32)).item():.4f}"
    except RuntimeError as error:
        return type(error).__name__


def rounded() -> str:
    """log 2 as the float16 nearest to it."""
    return f"{torch.tensor(math.log(2), dtype=torch.float16).item():.4f}"


CASES = (
    Case(
        "loss of `[[20., 0.]]`, target 0",
        lambda: f"{truth([20.0, 0.0], 0):.5g}",
        lambda loss: f"{loss(torch.tensor([[20.0, 0.0]]), torch.tensor([0])).item():.5g}",
    ),
    Case("its gradient", lambda: "[-2.061e-09, 2.061e-09]", gradient),
    Case("largest relative error, 8 confident rows of 128,256 classes", lambda: "", worst_error),
    Case("mean of 70,000 rows of `[0., 0.]` in float16", rounded, half),
    Case("a masked class (-inf) with probability 0 in the target", lambda: f"{truth([1.0, 2.0], 0) - 0.5:.4f}", masked),
    Case("int32 labels for `[[2., 1.]]`", lambda: f"{truth([2.0, 1.0], 0):.4f}", small_labels),
)


def table() -> list[dict[str, str]]:
    """What, true, torch, xent."""
    return [
        {
            "what": case.what,
            "true": case.true(),
            "torch": case.answer(F.cross_entropy),
            "xent": case.answer(xent.cross_entropy),
        }
        for case in CASES
    ]


def document(rows: list[dict[str, str]]) -> dict[str, object]:
    """Some digits of torch's column depend on the processor, so it stands there too."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    instructions = torch.backends.cpu.get_cpu_capability()
    versions = {"torch": torch.__version__, "xent": xent.__version__}
    return {"schema": "xent.proof/1", "date": now, "instructions": instructions, "versions": versions, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = table()
    print(f"| | true | torch {torch.__version__} | xent |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")
    if args.json:
        args.json.write_text(json.dumps(document(rows), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
