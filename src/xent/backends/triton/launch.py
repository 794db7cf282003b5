"""The call of a kernel whose arguments but the tensors are known beforehand."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

OPTIONS = {"enable_fp_fusion": False}
"""Of two products in a sum the assembler would fuse either one, as the layout suits it: a bit would depend on it."""


class Launch:
    """A kernel with all of its arguments but the tensors.

    Triton looks at every argument of every call to find the machine code for it, 100 us for forty of them. They follow
    from the shapes, the alignment of the addresses and which tensors there are, so the code is found once for each of
    these.
    """

    def __init__(self, kernel: Any, grid: tuple[int, int], numbers: tuple[int, ...], warps: int, **constants: Any):
        self.kernel, self.grid, self.numbers, self.warps, self.constants = kernel, grid, numbers, warps, constants
        order = [name for name in kernel.arg_names if name in constants]
        self.rest = (*numbers, *(constants[name] for name in order))
        self.found: dict[tuple[int | None, int], Any] = {}

    def __call__(self, device: torch.device, *tensors: Tensor | None) -> None:
        kinds = 0
        for tensor in tensors:
            kinds = 3 * kinds + (0 if tensor is None else 1 if tensor.data_ptr() & 15 == 0 else 2)
        run = self.found.get((device.index, kinds))
        if run is not None:
            run(*tensors, *self.rest)
            return
        code = self.kernel[self.grid](*tensors, *self.numbers, **self.constants, num_warps=self.warps, **OPTIONS)
        if code is not None:  # the interpreter has none
            self.found[device.index, kinds] = code[(*self.grid, 1)]


def on(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current device."""
    if device.type == "cpu":
        return nullcontext()
    module = torch.cuda if device.type == "cuda" else torch.xpu
    return nullcontext() if device.index == module.current_device() else module.device(device)
