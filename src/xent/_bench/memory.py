"""Peak memory of a step beyond its inputs, in a process of its own: this one's past would count otherwise."""

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch

from .cases import Case
from .contestants import Contestant, contestants
from .floors import floors_of
from .tasks import JOBS, problem_of

STATUS = Path("/proc/self/status")
COMPILED = {"torch-compile"}
"""What a compiler takes is not the step's: these make the step once before."""


def can_be_read(device: str) -> bool:
    """On a GPU from torch's allocator, on a CPU from Linux."""
    return device == "cuda" or STATUS.exists()


def peak_of(case: Case, contestant: Contestant) -> float:
    """MB, from a fresh process.

    Raises:
        RuntimeError: the process failed; the last line it wrote.
    """
    asked = {"case": case._asdict(), "name": contestant.target, "threads": torch.get_num_threads()}
    command = [sys.executable, "-c", "from xent._bench.memory import main; main()", json.dumps(asked)]
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    if done.returncode != 0 or not done.stdout.strip():
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return float(done.stdout.split()[-1])


def main() -> None:
    """Of the process that `peak_of` starts."""
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    stored = asked["case"]
    case = Case(**{**stored, "shape": tuple(stored["shape"]), "measures": tuple(stored["measures"])})
    function = contestants([asked["name"]], case.task)[0].function(case)
    for warm in [_small(case), *[case] * (asked["name"] in COMPILED)]:
        JOBS[timed(case)](problem_of(warm), function)()
    print(_peak(case, function))


def timed(case: Case) -> str:
    """What the peak is of: a step, or the forward pass where nothing but that is timed."""
    return "forward" if "forward" in case.measures and "step" not in case.measures else "step"


def _small(case: Case) -> Case:
    """A case whose step loads what a step loads."""
    return case._replace(shape=(64, 16, 100) if case.task == "linear" else (64, 10, *[2] * (len(case.shape) - 2)))


def _peak(case: Case, function) -> float:
    problem = problem_of(case)
    if case.task == "linear":  # a matrix library keeps room of its own, whoever calls it
        for job in floors_of(case, problem, timed(case)).values():
            job()
    job = JOBS[timed(case)](problem, function)
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)
    _give_back_what_is_free()
    before = _megabytes("VmRSS" if _peak_begins_here() else "VmHWM")
    job()
    return round(_megabytes("VmHWM") - before, 1)


def _give_back_what_is_free() -> None:
    """Of the C library, where it can: what an earlier step left there, a later one would take unseen."""
    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _peak_begins_here() -> bool:
    """Whether the system forgot the peak so far; some do not let a process ask for it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _megabytes(field: str) -> float:
    """(Not ru_maxrss, which begins at what the parent process had.)"""
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    return int(found[1]) * 1024 / 1e6 if found else float("nan")
