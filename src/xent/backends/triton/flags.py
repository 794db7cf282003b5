"""Labels that are no class, found by a kernel while the host is far ahead.

A kernel writes what it found into host memory that the GPU sees (pinned), so looking there costs the host no more than
reading an integer, waits for nothing, and works in a CUDA graph. It is looked at by every later call for that device,
and by `check` once the GPU is done; until then the rows have the loss nan and the gradient 0.
"""

import ctypes
from functools import cache

import torch
from torch import Tensor

from ...errors import OptionError, TargetError

SLOTS = 64
"""Rows that differ by a multiple share one; three numbers each: row + 1, label, number of classes."""

_mode = "deferred"


def set_checks(mode: str) -> None:
    """When labels on a GPU are looked at: ``"deferred"`` (the default) or ``"eager"``.

    A kernel that meets a label that is no class gives its row the loss nan and the gradient 0, and notes it.
    Deferred, the note becomes a :class:`TargetError` in a later call of xent for that device, or in :func:`check`,
    and the host never waits. Eager, every call looks at its labels first and raises at once with all the words it has
    on a CPU; the host waits for the GPU each time.

    Raises:
        OptionError: neither of the two.

    Example:
        >>> xent.set_checks("eager")  # to find the call at fault
        >>> xent.set_checks("deferred")

    Labels on a CPU are always looked at at once. Torch asserts inside its kernel, and the process has lost its GPU.
    """
    global _mode
    if mode not in ("deferred", "eager"):
        raise OptionError(f"{mode!r} is not a way to check labels; expected 'deferred' or 'eager'.")
    _mode = mode


def check() -> None:
    """Wait for the GPUs and raise :class:`TargetError` if a label there was no class.

    Raises:
        TargetError: a call since the last :func:`check` was given such a label.

    Example:
        >>> xent.check()

    Torch has no twin: there the process has to be started again.
    """
    for device in tuple(_used):
        if device.type != "cpu":
            torch.get_device_module(device).synchronize(device)
        look(device)


def eager(device: torch.device) -> bool:
    """Are labels on `device` looked at before a kernel reads them?"""
    return _mode == "eager" or device.type == "cpu"


_used: set[torch.device] = set()


@cache
def board(device: torch.device) -> Tensor:
    """Where kernels on `device` leave their notes, and behind them one number that is not 0 if there are any."""
    _used.add(device)
    return torch.zeros(3 * SLOTS + 1, dtype=torch.int64, pin_memory=device.type != "cpu")


@cache
def _any(device: torch.device) -> ctypes.c_int64:
    """The last number of the board: read through ctypes in 0.1 us, as a tensor in 5."""
    return ctypes.c_int64.from_address(board(device)[-1:].data_ptr())


def look(device: torch.device) -> None:
    """Raise what has been noted so far."""
    if not _any(device).value:
        return
    notes = board(device)
    found = [note for note in notes[:-1].view(SLOTS, 3).tolist() if note[0]]
    notes.zero_()
    shown = ", ".join(f"row {row - 1} has {label}" for row, label, _ in found[:5])
    more = ", ..." if len(found) > 5 else ""
    raise TargetError(
        f"an earlier call on {device} had labels that are no class (classes are 0 ... {found[0][2] - 1}): "
        f"{shown}{more}; {len(found)} or more rows, counted through the flattened target. "
        "Their loss was nan and their gradient 0.\n"
        '  xent.set_checks("eager") raises in the call itself. A tokenizer larger than the model, or a padding id? '
        "Pass ignore_index=..., or fix the labels."
    )
