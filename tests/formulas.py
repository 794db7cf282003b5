"""The documented formulas in float64, and how large the terms are that a gradient is the difference of."""

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


def class_dim(shape):
    return 0 if len(shape) == 1 else 1


def formula(logits, target, weight=None, ignore_index=-100, smoothing=0.0, reduction="mean"):
    """The documented formulas, written out in float64 class by class; differentiable in everything."""
    at = class_dim(logits.shape)
    surprise = -logits.double().log_softmax(at).movedim(at, -1)
    classes = surprise.shape[-1]
    w = torch.ones(classes, dtype=torch.float64) if weight is None else weight.double()
    if target.is_floating_point():
        kept = torch.ones_like(surprise[..., :1])
        asked = target.double().movedim(at, -1) * w
        divisor = surprise[..., 0].numel()
    else:
        index = target.long().reshape(surprise.shape[:-1])
        kept = (index != ignore_index).double().unsqueeze(-1)
        asked = F.one_hot(index.where(index != ignore_index, 0), classes) * w * kept
        divisor = asked.sum()
    asked = (1 - smoothing) * asked + smoothing / classes * w * kept
    losses = (asked * surprise).sum(-1)
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / divisor}[reduction]


class Contributions(TorchFunctionMode):
    """In it, torch's softmax and losses are sums of magnitudes: the gradient ``sum_i |J_ij g_i|`` and the loss of
    ``|w|``. What is promised for ``sum_i J_ij g_i`` is measured by that where the sum is a difference. The gradient of
    labels without smoothing promises more: it is left alone."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (F.softmax, F.log_softmax):
            return self._softmax(func, *args, **kwargs)
        if func in (torch.Tensor.softmax, torch.Tensor.log_softmax):
            return _Contributions.apply(args[0], func is torch.Tensor.log_softmax, args[1])
        return self._loss(*args, **kwargs) if func is F.cross_entropy else func(*args, **kwargs)

    @staticmethod
    def _softmax(func, x, dim=None, _stacklevel=3, dtype=None):
        dim = F._get_softmax_dim("softmax", x.ndim, _stacklevel) if dim is None else dim
        return _Contributions.apply(x if dtype is None else x.to(dtype), func is F.log_softmax, dim)

    def _loss(self, x, y, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0, **deprecated):
        options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
        sizes = None if weight is None else weight.abs()
        if label_smoothing == 0 and not y.is_floating_point():
            whole = F.cross_entropy(x, y, sizes, **options, reduction="none")
        else:
            with self:
                whole = formula(x, y, sizes, ignore_index, label_smoothing, "none")
        if reduction != "mean":
            return whole if reduction == "none" else whole.sum()
        total, mean = (F.cross_entropy(x.detach(), y, weight, **options, reduction=r) for r in ("sum", "mean"))
        return whole.sum() / (total / mean).abs().nan_to_num(1.0)  # nan where every loss is 0, as of one class


class _Contributions(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, log, dim):
        ctx.log, ctx.dim = log, dim
        ctx.save_for_backward(x.softmax(dim))
        return x.log_softmax(dim) if log else x.softmax(dim)

    @staticmethod
    def backward(ctx, g):
        (p,) = ctx.saved_tensors
        asked = g.abs() if ctx.log else (p * g).abs()  # J_ij is d_ij - p_j, or p_i (d_ij - p_j)
        return asked * (1 - p) + p * (asked.sum(ctx.dim, keepdim=True) - asked), None, None
