"""What makes the host wait for a GPU, forbidden on CPU tensors: values of tensors, and tensors of the host's values."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

VALUES = ("item", "tolist", "nonzero", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "masked_select")
"""Methods of a tensor that wait for what computes it."""
FORBIDDEN = [(torch.Tensor, name) for name in (*VALUES, "new_tensor")] + [(torch, "tensor"), (torch, "as_tensor")]


@contextmanager
def forbidden() -> Iterator[None]:
    """Nothing but a kernel may look at the values of tensors in here."""
    from xent.backends.triton.launch import Launch

    had, run = [getattr(home, name) for home, name in FORBIDDEN], Launch.__call__

    def refuse(name):
        def method(*arguments, **options):
            raise AssertionError(f"the host waits for {name}")

        return method

    def launch(self, *arguments):
        with pytest.MonkeyPatch.context() as allowed:
            for (home, name), method in zip(FORBIDDEN, had, strict=True):
                allowed.setattr(home, name, method)
            run(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Launch, "__call__", launch)
        for home, name in FORBIDDEN:
            patch.setattr(home, name, refuse(name))
        yield
