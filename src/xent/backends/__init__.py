"""Who computes. The first in the table that serves a device does; `reference` serves every one."""

from types import ModuleType

import torch

from ..errors import DeviceError
from . import native, reference, triton

TABLE: tuple[ModuleType, ...] = (native, triton, reference)


def choose(device: torch.device) -> ModuleType:
    """The backend for tensors on `device`."""
    for backend in TABLE:
        if backend.serves(device) is None:
            return backend
    reasons = "".join(f"\n  {name:<10} {reason}" for name, reason in refusals(device).items())
    raise DeviceError(f"no backend serves {device}:{reasons}\n  Move the tensors to the CPU: logits.cpu().")


def refusals(device: torch.device) -> dict[str, str | None]:
    """For each backend, why it does not serve `device`, or None if it does."""
    return {backend.name: backend.serves(device) for backend in TABLE}
