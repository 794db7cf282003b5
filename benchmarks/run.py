"""xent beside torch and torch.compile on one machine, in one run, against the goals of benchmarks/cases.py.

    python benchmarks/run.py                        all of it, into benchmarks/results/cpu.json
    python benchmarks/run.py --only 65536x10        one shape; or "forward", "loss 4096x1000 .*", memory
    python benchmarks/run.py --no-compile --jax     without torch.compile, with JAX where it is installed

Loss and gradient through autograd, on torch's default number of threads. Rounds are interleaved; a ratio is the
median of the ratios of each round. The floor is a copy of the logits into memory that is there, or a read of them
where no gradient is asked for. JAX runs by itself and can only be compared loosely.

The JSON:

    machine     processor, threads, versions, load before the run
    compile     "measured", or why not
    rows        what, shape, dtype; floor: the call that was fastest; waited: in parts of the time, for cores;
                ms: name -> median, min, max over the rounds;
                ratios: "torch / xent", "compile / xent", "xent / copy" or "xent / read" -> median, min, max,
                "at least" or "at most", met; stretch, stretch met where there is a further goal
    memory      shape, dtype; gradients: peak beyond the input in gradients, xent's and torch's; "at most", met
"""

import argparse
import json
import os
import platform
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import xent
from beside_jax import times_of
from cases import CASES, MEMORY, Case
from jobs import LIBRARIES, jobs_of, megabytes
from measure import compiled_loss, interleaved, judged, ratios, spread, with_one_floor
from memory import STATUS, peak_of_a_step
from tables import head, line_of, memory_line_of, summary

RESULTS = Path(__file__).parent / "results" / "cpu.json"


def machine() -> dict[str, object]:
    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "processor": name[1] if name else platform.processor(),
        "architecture": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "xent": xent.__version__,
    }


def row_of(case: Case, compiled: Callable[..., Tensor] | None, rounds: int, jax: bool) -> dict[str, object]:
    times, waited = interleaved(jobs_of(case, compiled), rounds)
    times, floor = with_one_floor(times)
    found = ratios(times, case.goals, case.stretch)
    if jax and case.what == "loss":
        times["jax"] = times_of(case.shape, case.dtype, rounds)
    ms = {name: spread(values) for name, values in times.items()}
    place = {"what": case.what, "shape": case.shape, "dtype": case.dtype}
    return {**place, "floor": floor, "waited": round(waited, 3), "ms": ms, "ratios": found}


def memory_of(case: Case) -> dict[str, object]:
    gradient = megabytes(case.shape, case.dtype)
    used = {name: round(peak_of_a_step(case.shape, case.dtype, name) / gradient, 2) for name in LIBRARIES}
    return {
        "shape": case.shape,
        "dtype": case.dtype,
        "gradients": used,
        **judged(used["xent"], "floor", case.goals),
    }


def run(cases: list[Case], args: argparse.Namespace) -> dict[str, object]:
    """The result; each line is printed as soon as it is there."""
    compiled, note = compiled_loss() if args.compile else (None, "not asked for")
    result = {"machine": machine(), "rounds": args.rounds, "compile": note, "rows": [], "memory": []}
    print(", ".join(f"{name} {value}" for name, value in result["machine"].items()))
    print(f"torch.compile: {note}\n\n{head()}")
    progress = tqdm(cases, leave=False)
    for case in progress:
        progress.set_description(case.label)
        if case.what == "memory":
            result["memory"].append(memory_of(case))
            tqdm.write(memory_line_of(result["memory"][-1]))
        else:
            result["rows"].append(row_of(case, compiled, args.rounds, args.jax))
            tqdm.write(line_of(result["rows"][-1]))
            torch.compiler.reset()  # or the ninth shape of one function is not compiled
    print(f"\n{summary(result)}")
    return result


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", help="rows with these words in 'what shape dtype'")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--jax", action="store_true", help="JAX too, where it is installed")
    parser.add_argument("--json", type=Path, help=f"default: results/{RESULTS.name}, or nothing with --only")
    args = parser.parse_args()
    args.cases = [case for case in CASES + MEMORY if args.only is None or case.is_in(args.only)]
    if not args.cases:
        parser.error(f"no row has the words {args.only!r}; for example: {CASES[0].label}")
    if args.jax and find_spec("jax") is None:
        parser.error("--jax: JAX is not installed")
    return args


def main() -> None:
    args = arguments()
    if not STATUS.exists():
        print("peak memory is left out: it is read from Linux's /proc")
        args.cases = [case for case in args.cases if case.what != "memory"]
    result = run(args.cases, args)
    path = args.json or (RESULTS if args.only is None else None)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {path.name}")


if __name__ == "__main__":
    main()
