"""Host time of a step on the GPU's short way, without a GPU: CPU tensors, and launches that do nothing.

PYTHONPATH=src python benchmarks/gpu_host.py
"""

import time
from collections.abc import Callable

import torch

import xent
from xent import backends
from xent.backends import triton
from xent.backends.triton import flags, launch, programs

CASES = [(2, 10, torch.float32), (2, 5000, torch.bfloat16), (5000, 2, torch.float32)]
"""One tile a row, several tiles a row, several blocks of rows: all kernels of a step are asked for."""


def microseconds(call: Callable[[], object], times: int = 300, again: int = 12) -> float:
    best = float("inf")
    for _ in range(again):
        start = time.perf_counter()
        for _ in range(times):
            call()
        best = min(best, (time.perf_counter() - start) / times)
    return best * 1e6


class Stub(launch.Launch):
    """Finds at once what it would run, which does nothing."""

    def __init__(self, *arguments, **constants):
        super().__init__(*arguments, **constants)
        self.found = Found()


class Found(dict):
    """Whatever is looked for."""

    def get(self, key, default=None):
        return _nothing


def _nothing(*arguments) -> None:
    """In place of a launch."""


def main() -> None:
    torch.set_num_threads(1)
    programs.Launch = Stub  # pyright: ignore
    triton.serves = lambda device: None
    backends.TABLE = (triton,)
    flags.eager = lambda device: False  # as on a GPU
    for rows, classes, dtype in CASES:
        logits = torch.zeros(rows, classes, dtype=dtype, requires_grad=True)
        target = torch.zeros(rows, dtype=torch.int64)

        def forward(logits=logits, target=target):
            with torch.no_grad():
                xent.cross_entropy(logits, target)

        def step(logits=logits, target=target):
            logits.grad = None
            xent.cross_entropy(logits, target).backward()

        print(f"{rows} x {classes} {dtype}: step {microseconds(step):.1f} us, forward {microseconds(forward):.1f} us")


if __name__ == "__main__":
    main()
