"""Times and memory of a linear head on one GPU, beside its three matrix products, torch eager and what is installed.

    PYTHONPATH=src python benchmarks/gpu_linear.py [--out benchmarks/results/gpu_linear.json]

A time is the median of steps, each between two CUDA events; memory is the peak beyond inputs and the three gradients.
"""

import argparse
import json
import platform
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

import xent
from gpu import timed

CASES = [(8192, 4096, 128256), (8192, 2304, 256000), (2048, 512, 32000)]
"""Rows, width, classes; bfloat16. The first two are those that goals are set for."""


def recomputing(hidden, weight, target):
    """The loss of each row, whose factors come with the backward pass: the logits are made twice."""
    return xent.linear_cross_entropy(hidden, weight, target, reduction="none").mean()


def eager(hidden, weight, target):
    return F.cross_entropy(F.linear(hidden, weight), target)


def implementations() -> dict:
    """What is compared, by name."""
    found = {"xent": xent.linear_cross_entropy, "xent recomputing": recomputing, "torch": eager}
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        found["liger"] = lambda hidden, weight, target: liger_fused_linear_cross_entropy(hidden, weight, target)
    except Exception as error:
        print("liger-kernel:", str(error).splitlines()[0][:100])
    try:
        from cut_cross_entropy import linear_cross_entropy

        found["cce"] = linear_cross_entropy
    except Exception as error:
        print("cut-cross-entropy:", str(error).splitlines()[0][:100])
    return found


def products(hidden, weight):
    """The three that no head can do without, the gradient of the weight in float32; in one piece."""
    logits = hidden @ weight.T

    def three():
        torch.mm(hidden, weight.T, out=logits)
        torch.mm(logits, weight)
        torch.mm(logits.T, hidden, out_dtype=torch.float32)

    return three


def one(case: tuple[int, int, int]) -> dict:
    """All times of a case in milliseconds, and memory in bytes."""
    rows, width, classes = case
    hidden = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = (torch.randn(classes, width, device="cuda") / width**0.5).bfloat16().requires_grad_()
    target = torch.randint(0, classes, (rows,), device="cuda")
    found: dict = {"rows": rows, "width": width, "classes": classes, "dtype": "bfloat16"}
    found["products"] = timed(products(hidden.detach(), weight.detach()), 0.5)
    for name, loss in implementations().items():

        def step(loss=loss):
            hidden.grad = weight.grad = None
            loss(hidden, weight, target).backward()

        torch.cuda.empty_cache()
        try:
            step()
            hidden.grad = weight.grad = None
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            step()
            grads = sum(t.grad.nbytes for t in (hidden, weight) if t.grad is not None)
            found[f"{name} bytes"] = torch.cuda.max_memory_allocated() - before - grads
            found[name] = timed(step, 0.5)
        except Exception as error:
            print(f"  {name}: {str(error).splitlines()[0][:120]}")
    print(" ".join(f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in found.items()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu_linear.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU: nothing measured, nothing written")
    found: dict = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "unit": "ms",
        "cases": [],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        found["cases"].append(one(case))
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
