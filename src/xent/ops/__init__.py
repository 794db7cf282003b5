"""Ops that PyTorch knows (autograd, torch.func, torch.compile, export), whatever backend computes."""

from . import device as device
from . import direct as direct
from . import linear as linear
from . import schemas  # noqa: F401  (registers the ops that the next two use)
from .autograd import softmax as softmax
from .losses import cross_entropy as cross_entropy
from .losses import nll as nll
