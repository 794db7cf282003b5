"""Memory for large results: pages that stay mapped, so that a gradient does not pay a fault for each of them.

`docs/design/cpu.md` has the design and the figures.
"""

import os
from contextlib import suppress
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils.dlpack import from_dlpack

from ..errors import OptionError

_native: Any = None
with suppress(ImportError):  # `native` keeps the reason
    _native = import_module("._native", __package__)

THRESHOLD = 4 * 2**20
"""Bytes from which the pool serves. Below, the C library keeps the memory itself."""

_TYPES = {torch.float64: (2, 64), torch.float32: (2, 32), torch.float16: (2, 16), torch.bfloat16: (4, 16)}
"""DLPack's code and bits."""


def empty_like(rows: Tensor) -> Tensor:
    """What `torch.empty_like` gives, from the pool where `rows` is plain and large and the pool has room."""
    if (
        _native is not None
        and rows.nbytes >= THRESHOLD
        and type(rows) in (Tensor, Parameter)  # not a fake one
        and rows.device.type == "cpu"
        and rows.dtype in _TYPES
    ):
        like = torch.empty_like(rows, device="meta")  # the strides are torch's choice
        capsule = _native.pages(*_TYPES[rows.dtype], tuple(like.shape), like.stride())
        if capsule is not None:
            return from_dlpack(capsule)
    return torch.empty_like(rows)


def empty_cache() -> int:
    """Give the memory that xent keeps for later gradients back to the system, and say how many bytes that was.

    On a CPU, the results of :func:`softmax` and :func:`log_softmax` and the gradients of these two and of
    :func:`cross_entropy` lie, from 4 MB on, in pages that stay mapped when the tensor dies and then serve the next
    one of about its size. Idle pages are marked as free (``MADV_FREE``), but for the last 32 MiB: the system takes
    them when it runs short, and until then counts them as the process's. The environment variable
    ``XENT_PAGE_CACHE``, read once, says how many bytes may lie idle, and turns the pool off at 0; where it is not
    set, it is an eighth of the machine's memory, 4 GiB at most. What is alive is left alone.

    Returns:
        int: the bytes given back, 0 without a pool.

    Example:
        >>> logits = torch.randn(64, 32_000, requires_grad=True)
        >>> xent.cross_entropy(logits, torch.zeros(64, dtype=torch.int64)).backward()
        >>> logits.grad = None  # its 8 MB are kept
        >>> freed = xent.empty_cache()  # and given back
        >>> xent.empty_cache()
        0

    `torch.cuda.empty_cache` is its twin on a GPU, and returns nothing.
    """
    return 0 if _native is None else _native.empty_pages()


def _limit() -> int:
    """How many bytes may lie idle."""
    name = "XENT_PAGE_CACHE"
    value = os.environ.get(name, "").strip()
    if not value:
        # A gradient beside its logits, a model and its optimizer is seldom more than an eighth of the memory;
        # 4 GiB hold that of 8,192 rows of 128,256 classes in float32.
        return min(_physical_memory() // 8, 4 * 2**30)
    if not (value.isascii() and value.isdecimal()):
        raise OptionError(
            f"the environment variable {name} is {value!r}; expected how many bytes xent may keep idle, in digits "
            f"({name}={2**30} for 1 GiB), or 0 to keep none. Unset it for the default."
        )
    return min(int(value), 2**62)


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows; a system that does not tell
        return 0


if _native is not None:
    _native.limit_pages(_limit())
