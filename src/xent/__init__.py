"""The cross-entropy library for PyTorch: exact, drop-in, explained.

The door: every public name, nothing else. Names load on first use (PEP 562), so that ``xent --help``
does not wait for torch; `tests/test_door.py` keeps the two lists below equal.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._explain import Derivation as Derivation
    from ._explain import explain as explain
    from .backends.pages import empty_cache as empty_cache
    from .backends.triton.flags import check as check
    from .backends.triton.flags import set_checks as set_checks
    from .errors import ArgumentError as ArgumentError
    from .errors import DeviceError as DeviceError
    from .errors import DimError as DimError
    from .errors import DtypeError as DtypeError
    from .errors import FileError as FileError
    from .errors import LayoutError as LayoutError
    from .errors import OptionError as OptionError
    from .errors import ShapeError as ShapeError
    from .errors import TargetError as TargetError
    from .errors import XentError as XentError
    from .functional import cross_entropy as cross_entropy
    from .functional import cross_entropy_with_stats as cross_entropy_with_stats
    from .functional import log_softmax as log_softmax
    from .functional import nll_loss as nll_loss
    from .functional import softmax as softmax
    from .linear import linear_cross_entropy as linear_cross_entropy
    from .linear import linear_cross_entropy_with_stats as linear_cross_entropy_with_stats
    from .linear import plan as plan
    from .modules import CrossEntropyLoss as CrossEntropyLoss
    from .modules import LinearCrossEntropyLoss as LinearCrossEntropyLoss
    from .modules import LogSoftmax as LogSoftmax
    from .modules import NLLLoss as NLLLoss
    from .modules import Softmax as Softmax
    from .ops.direct import set_grad_in_forward as set_grad_in_forward
    from .ops.losses import LossStats as LossStats

__version__ = "0.1.0"

_HOMES = {
    "_explain": "Derivation explain",
    "backends.pages": "empty_cache",
    "backends.triton.flags": "check set_checks",
    "errors": (
        "ArgumentError DeviceError DimError DtypeError FileError LayoutError OptionError ShapeError TargetError "
        "XentError"
    ),
    "functional": "cross_entropy cross_entropy_with_stats log_softmax nll_loss softmax",
    "linear": "linear_cross_entropy linear_cross_entropy_with_stats plan",
    "modules": "CrossEntropyLoss LinearCrossEntropyLoss LogSoftmax NLLLoss Softmax",
    "ops.direct": "set_grad_in_forward",
    "ops.losses": "LossStats",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module 'xent' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOME_OF, "__version__"])
