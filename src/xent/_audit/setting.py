"""Where the cases run: a dtype, a device, a seed; and the truths that all targets share."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._truth import HeadTruth, Truth, head_truth, truth
from .case import Case, HeadValues, Probe, Values, lines


@dataclass
class Setting:
    """A dtype (None: float32, or what a case is about), a device, a seed."""

    dtype: str | None = None
    device: str = "cpu"
    seed: int = 0
    _truths: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    _honest: dict[tuple[str, str], Any] = field(default_factory=dict)

    def dtype_of(self, case: Case) -> str | None:
        """The dtype that a case runs in; None where it is not about the one asked for."""
        if self.dtype is None:
            return case.dtypes[0]
        return self.dtype if self.dtype in case.dtypes else None

    def tensors(self, case: Case, dtype: str) -> dict[str, Any]:
        """What the recipe makes, the same for every target."""
        names: dict[str, Any] = {"torch": torch, "dtype": getattr(torch, dtype)}
        with torch.random.fork_rng(), torch.device(self.device), default_dtype(names["dtype"]):
            torch.manual_seed(self.seed)
            exec("\n".join(case.recipe), names)
        return names

    def truth(self, case: Case, dtype: str, names: dict[str, Any]) -> Truth | HeadTruth:
        """By arithmetic that shares nothing with the target; once for all targets."""
        assert not isinstance(case.plan, Probe)
        key = (case.plan.recipe, case.plan.options, dtype)
        if key not in self._truths:
            self._truths[key] = _truth(case.plan, {k: _on_cpu(v) for k, v in names.items()})
        return self._truths[key]

    def remembered(self, case: Case, dtype: str, ask: Any) -> Any:
        """What torch answers, asked once."""
        key = (case.name, dtype)
        if key not in self._honest:
            self._honest[key] = ask()
        return self._honest[key]

    def first_line(self, case: Case, dtype: str) -> str:
        """Of a program that makes the same tensors."""
        parts = ["import torch"]
        text = "\n".join(case.recipe + lines(getattr(case.plan, "check", "")))
        if "rand" in text:
            parts.append(f"torch.manual_seed({self.seed})")
        if self.device != "cpu":
            parts.append(f"torch.set_default_device({self.device!r})")
        if re.search(r"\bdtype=dtype\b", text):
            parts.append(f"dtype = torch.{dtype}")
        if dtype != "float32" and case.recipe:
            parts.append(f"torch.set_default_dtype(torch.{dtype})")
        return "; ".join(parts)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def options_of(text: str, names: dict[str, Any]) -> dict[str, Any]:
    """The options of a call as the case writes them."""
    return eval(f"dict({text})", dict(names))


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _truth(plan: Values | HeadValues, names: dict[str, Any]) -> Truth | HeadTruth:
    options, times = options_of(plan.options, names), plan.times
    if isinstance(plan, Values):
        x, y = (names[name][: len(names[name]) // times] if times > 1 else names[name] for name in "xy")
        return truth(x, y, **options, upstream=names.get("g"), times=times)
    h, y = (names[name][: len(names[name]) // times] for name in "hy")
    return head_truth(h, names["w"], y, **options, upstream=names.get("g"), times=times)
