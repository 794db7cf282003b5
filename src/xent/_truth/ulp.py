"""Errors in ulp: units in the last place of the dtype that was returned, at the size of the true number."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .numbers import Exact


@dataclass(frozen=True)
class Worst:
    """The entry that is furthest off."""

    ulp: float
    at: tuple[int, ...]
    got: float
    true: float
    unit: float
    """One ulp there, and what a flush to zero is allowed besides."""
    slack: float


def unit(size: Tensor, dtype: torch.dtype) -> Tensor:
    """One ulp of `dtype` at `size`; that of the smallest normal number below it."""
    limit = torch.finfo(dtype)
    _, exponent = torch.frexp(size.abs())
    return (limit.eps * 2.0 ** (exponent.double() - 1)).clamp_min(limit.smallest_normal * limit.eps)


def worst(got: Tensor, exact: Exact, size: Tensor | None = None, subnormal: bool = False) -> Worst:
    """The largest error. A number is due where the true one is finite in the dtype, an infinity of its sign elsewhere;
    where the true one is nan nothing is due. Numbers below the smallest normal one may be 0, but in float16."""
    dtype, have = got.dtype, got.detach().cpu().double()
    limit = torch.finfo(dtype)
    slack = 0.0 if subnormal or dtype is torch.float16 else limit.smallest_normal
    size = exact.high.abs() if size is None else size
    units = unit(torch.where(size.isfinite(), size, limit.max), dtype)
    off = ((have - exact.high) - exact.low).abs()
    error = ((off - slack).clamp_min(0) / units).nan_to_num(nan=math.inf, posinf=math.inf)
    beyond = exact.high.abs() >= limit.max * (1 + limit.eps / 4)
    right = torch.where(exact.high > 0, have == math.inf, have == -math.inf)
    error = torch.where(beyond, torch.where(right, 0.0, math.inf), error)
    error = torch.where(exact.high.isnan(), 0.0, error)
    if error.numel() == 0:
        return Worst(0.0, (), math.nan, math.nan, 0.0, 0.0)
    at = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape)) if error.ndim else ()
    return Worst(error[at].item(), at, have[at].item(), exact.high[at].item(), units[at].item(), slack)
