"""Ops that PyTorch knows (autograd, torch.func, torch.compile, export), whatever backend computes."""

from . import device as device
from . import direct as direct
from . import linear as linear
from . import linear_stats as linear_stats
from . import schemas  # noqa: F401  (registers the ops that the next two use)
from .autograd import softmax as softmax
from .losses import LossStats as LossStats
from .losses import cross_entropy as cross_entropy
from .losses import cross_entropy_with_stats as cross_entropy_with_stats
from .losses import nll as nll
