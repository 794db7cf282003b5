"""Who computes. The first in the table that serves a device does; `reference` serves every one."""

from types import ModuleType

import torch

from . import reference

TABLE: tuple[ModuleType, ...] = (reference,)


def choose(device: torch.device) -> ModuleType:
    """The backend for tensors on `device`."""
    return next(backend for backend in TABLE if backend.serves(device) is None)


def refusals(device: torch.device) -> dict[str, str | None]:
    """For each backend, why it does not serve `device`, or None if it does."""
    return {backend.name: backend.serves(device) for backend in TABLE}
