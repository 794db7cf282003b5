"""xent beside torch on one machine, in one run: interleaved rounds, medians, ratios.

    python benchmarks/run.py [--rounds 5] [--json benchmarks/results/cpu.json]

Forward and backward through autograd with torch.utils.benchmark's timer; peak memory of a training step
beyond its input, each in a fresh process. The floor is a copy of the logits into existing memory.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.benchmark import Timer

import xent

SHAPES = ["64x10", "65536x10", "1000000x2", "16384x100", "4096x1000", "512x32000", "128x128256"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
LOSSES = {"xent": xent.cross_entropy, "torch": F.cross_entropy}


def inputs(shape, dtype):
    rows, classes = map(int, shape.split("x"))
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=g).to(dtype).requires_grad_()
    return logits, torch.randint(0, classes, (rows,), generator=g)


def step(loss, logits, target):
    logits.grad = None
    loss(logits, target).backward()


def measure(shape, dtype, rounds):
    """Milliseconds: name -> median over interleaved rounds."""
    logits, target = inputs(shape, dtype)
    into, source = torch.empty_like(logits.detach()), logits.detach()
    jobs = {name: (step, (loss, logits, target)) for name, loss in LOSSES.items()}
    jobs["copy"] = (into.copy_, (source,))
    timers = {
        name: Timer("job(*args)", globals={"job": job, "args": args}, num_threads=torch.get_num_threads())
        for name, (job, args) in jobs.items()
    }
    times = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(timer.blocked_autorange(min_run_time=0.1).median * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(shape, dtype_name, loss):
    """MB beyond the input of one training step, in a fresh process."""
    command = [sys.executable, __file__, "--memory", shape, dtype_name, loss]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_memory(shape, dtype_name, loss):
    step(LOSSES[loss], *inputs("64x10", DTYPES[dtype_name]))
    logits, target = inputs(shape, DTYPES[dtype_name])
    before = peak_so_far()
    step(LOSSES[loss], logits, target)
    print(peak_so_far() - before)


def peak_so_far():
    """MB. (Not ru_maxrss, which begins at what the parent process had.)"""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        return print_memory(*args.memory)
    rows = []
    print(f"{'rows x classes':>15} {'dtype':>9} {'xent ms':>9} {'torch ms':>9} {'copy ms':>8} {'xent/torch':>10}")
    for dtype_name, dtype in DTYPES.items():
        for shape in SHAPES:
            ms = measure(shape, dtype, args.rounds)
            rows.append({"shape": shape, "dtype": dtype_name, **ms})
            ratio = ms["xent"] / ms["torch"]
            print(f"{shape:>15} {dtype_name:>9} {ms['xent']:9.3f} {ms['torch']:9.3f} {ms['copy']:8.3f} {ratio:10.2f}")
    print("\npeak memory of a training step beyond its input, MB (the gradient is one copy of the logits)")
    memory = []
    for shape, logits in {"1024x32000": 131, "256x128256": 131}.items():
        row = {"shape": shape, **{name: round(peak_memory(shape, "float32", name)) for name in LOSSES}}
        memory.append(row)
        print(f"{shape:>15}  logits {logits}  xent {row['xent']}  torch {row['torch']}")
    if args.json:
        machine = {
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "architecture": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        with open(args.json, "w") as file:
            json.dump({"machine": machine, "times_ms": rows, "memory_mb": memory}, file, indent=1)


if __name__ == "__main__":
    main()
