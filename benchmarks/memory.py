"""Peak memory of a training step beyond its input, in a process of its own.

python benchmarks/memory.py 1024x32000 float32 xent
"""

import re
import subprocess
import sys
from pathlib import Path

from jobs import LIBRARIES, inputs, training_step

STATUS = Path("/proc/self/status")


def peak_of_a_step(shape: str, dtype: str, library: str) -> float:
    """MB, from a fresh process."""
    command = [sys.executable, __file__, shape, dtype, library]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_so_far() -> float:
    """MB. (Not ru_maxrss, which begins at what the parent process had.)"""
    return int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1]) * 1024 / 1e6


def main(shape: str, dtype: str, library: str) -> None:
    loss = LIBRARIES[library].cross_entropy
    training_step(loss, *inputs("64x10", dtype))()
    step = training_step(loss, *inputs(shape, dtype))
    before = peak_so_far()
    step()
    print(peak_so_far() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
