"""Times on one GPU, beside torch eager, torch.compile and liger-kernel where they are installed; needs nothing else.

    PYTHONPATH=src python benchmarks/gpu.py [--quick] [--sweep] [--out benchmarks/results/gpu.json]

A time is the median over calls, each between two CUDA events; "kernels" is that of a replayed CUDA graph, without the
host's share. "copy" reads and writes the logits once, "read" reads them: the floors.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import torch

import xent

ASKED = [
    (8192, 128256, "bfloat16"),
    (4096, 32000, "bfloat16"),
    (4096, 32000, "float32"),
    (32768, 1000, "bfloat16"),
    (65536, 10, "float32"),
]
"""The rows of the issue's table, and the smallest one."""
GRID = [
    (rows, classes, dtype)
    for dtype in ("bfloat16", "float32")
    for classes in (10, 100, 1000, 32000, 128256, 262144)
    for rows in (64, 1024, 8192, 65536)
    if rows * classes <= 1.2e9
]
SECONDS = 0.03
"""Of calls to a time."""


def timed(call, seconds: float = SECONDS) -> float:
    """Milliseconds of a call, median, with whatever the host makes the GPU wait for."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    times: list[float] = []
    while (sum(times) < seconds * 1e3 and len(times) < 200) or len(times) < 7:
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(5)]
        for start, stop in pairs:
            start.record()
            call()
            stop.record()
        torch.cuda.synchronize()
        times += [start.elapsed_time(stop) for start, stop in pairs]
    return median(times)


def replayed(call) -> float | None:
    """Milliseconds of the kernels of a call alone; None if it cannot be captured."""
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return timed(graph.replay)
    except Exception as error:
        print("  no graph:", str(error).splitlines()[0][:100])
        return None


def early(logits, target):
    """The gradient in the forward pass, where that saves a read."""
    xent.set_grad_in_forward(True)
    try:
        return xent.cross_entropy(logits, target)
    finally:
        xent.set_grad_in_forward(None)


def losses() -> dict:
    """What is compared, by name."""
    plain = torch.nn.functional.cross_entropy
    found = {"xent": xent.cross_entropy, "xent early": early, "torch": plain}
    try:
        from liger_kernel.transformers.functional import liger_cross_entropy

        found["liger"] = lambda x, y: liger_cross_entropy(x, y)
    except Exception as error:
        print("liger-kernel:", str(error).splitlines()[0][:100])
    return found


def data(rows: int, classes: int, dtype: str):
    logits = torch.randn(rows, classes, device="cuda", dtype=getattr(torch, dtype)).requires_grad_()
    return logits, torch.randint(0, classes, (rows,), device="cuda")


def training(loss, logits, target):
    """A step that frees its gradient; liger overwrites the logits it is given, so it gets a copy that costs no time."""

    def step():
        logits.grad = None
        loss(logits, target).backward()

    return step


def one(case, implementations: dict, compiled: bool, graphs: bool) -> dict:
    """All times of a case in milliseconds."""
    rows, classes, dtype = case
    logits, target = data(*case)
    plain, other = logits.detach(), torch.empty_like(logits)
    found: dict = {"rows": rows, "classes": classes, "dtype": dtype}
    found["copy"] = timed(lambda: other.copy_(plain))
    found["read"] = timed(lambda: plain.view(torch.int32 if dtype == "float32" else torch.int16).amax())
    other = None
    implementations = dict(implementations)
    if compiled:
        torch._dynamo.reset()
        implementations["compile"] = torch.compile(torch.nn.functional.cross_entropy, dynamic=False)
    for name, loss in implementations.items():
        x = logits.detach().clone().requires_grad_() if name == "liger" else logits
        try:
            found[name] = timed(training(loss, x, target))
            if name != "liger":
                with torch.no_grad():
                    found[f"{name} forward"] = timed(lambda loss=loss: loss(plain, target))
            if graphs and name in ("xent", "xent early", "torch"):
                found[f"{name} kernels"] = replayed(training(loss, x, target))
                with torch.no_grad():
                    found[f"{name} forward kernels"] = replayed(lambda loss=loss: loss(plain, target))
        except Exception as error:
            print(f"  {name}: {str(error).splitlines()[0][:120]}")
        x = None
    logits.grad = None
    torch.cuda.empty_cache()
    print(" ".join(f"{k}={v:.4f}" if isinstance(v, float) else f"{v}" for k, v in found.items()), flush=True)
    return found


SHAPES = [
    *((tile, elements, share) for tile in (2048, 4096, 8192) for elements in (512, 1024, 2048) for share in (32, 64)),
]
"""Classes, elements of a program with several rows, elements a thread."""


def sweep(cases, wanted=None) -> list[dict]:
    """Every shape of the programs on every case: forward and gradient."""
    from xent.backends.triton import calls, cut, programs
    from xent.backends.triton.losses import loss

    rows_of = []
    for case in cases:
        logits, target = data(*case)
        kind = cut.kind_of(case[1], logits.dtype)
        rows = logits.detach().unsqueeze(2)
        facts = calls.row_summary(rows, target, None, -100, False)
        one = torch.ones_like(facts.peak)
        seen = set()
        for k, shape in enumerate(SHAPES):
            cut.READ[kind] = cut.WRITE[kind] = cut.Shape(*shape)
            programs.forget()
            found = cut.reading(cut.like(rows), kind)
            if (found.rows, found.tile, found.warps) in seen or (wanted is not None and k % 8 != wanted):
                continue
            seen.add((found.rows, found.tile, found.warps))
            call = (rows, target, None, -100)
            forward = partial(loss, *call, (1.0, 0.0), "mean", logits.dtype)
            backward = partial(calls.row_grad, *call, *facts[:2], one, None)
            if wanted is not None:
                forward(), backward()
                continue
            named = {"case": case, "tile": found.tile, "rows": found.rows, "warps": found.warps}
            rows_of.append(named | {"forward": replayed(forward), "backward": replayed(backward)})
            print(rows_of[-1], flush=True)
        torch.cuda.empty_cache()
    return rows_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the shapes that goals are set for")
    parser.add_argument("--sweep", action="store_true", help="shapes of the programs instead of implementations")
    parser.add_argument("--compile-only", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU: nothing measured, nothing written")
    small = [(min(rows, 4096), classes, dtype) for rows, classes, dtype in ASKED]
    if options.compile_only is not None:
        sweep(small, options.compile_only)
        return
    found: dict = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "unit": "ms",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.sweep:  # eight processes fill Triton's cache, one measures
        again = [sys.executable, __file__, "--sweep", "--compile-only"]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda k: subprocess.run([*again, str(k)], env=os.environ), range(8)))
        found["sweep"] = sweep(ASKED)
    for name, cases in {"asked": ASKED, "grid": [] if options.quick else GRID}.items():
        found[name] = []
        for case in [] if options.sweep else cases:
            found[name].append(one(case, losses(), name == "asked", True))
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
