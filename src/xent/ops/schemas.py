"""The ops as torch.library knows them: schema, shape without values, vmap. Nothing mutates, and no
flag changes the number of results. The arithmetic is the backend's."""

import torch
from torch import Tensor

from .. import backends

_library = torch.library.Library("xent", "DEF")


def _op(schema: str):
    """Register the decorated function as what the op computes on real tensors of any device."""

    def register(compute):
        def below_autograd(*args):
            """The derivatives are those of `autograd`; none is recorded in here, for a bare call of the op either."""
            with torch._C._AutoDispatchBelowAutograd():
                return compute(*args)

        name = schema.partition("(")[0]
        _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _library.impl(name, below_autograd, "CompositeExplicitAutograd")
        return compute

    return register


def _fake(name: str):
    return torch.library.register_fake(f"xent::{name}", lib=_library)


def _facts(rows: Tensor) -> Tensor:
    return rows.new_empty((rows.shape[0], rows.shape[2]), dtype=torch.float64)


@_op(
    "row_summary(Tensor rows, Tensor target, Tensor? class_weight, int ignore_index, bool mixed)"
    " -> (Tensor peak, Tensor rest, Tensor picked, Tensor mass, Tensor mix)"
)
def _row_summary(rows, target, class_weight, ignore_index, mixed):
    return tuple(backends.choose(rows.device).row_summary(rows, target, class_weight, ignore_index, mixed))


@_fake("row_summary")
def _(rows, target, class_weight, ignore_index, mixed):
    return tuple(_facts(rows) for _ in range(5))


@_op(
    "row_grad(Tensor rows, Tensor target, Tensor? class_weight, int ignore_index, Tensor peak, Tensor rest,"
    " Tensor hard, Tensor? smooth) -> Tensor"
)
def _row_grad(rows, target, class_weight, ignore_index, peak, rest, hard, smooth):
    backend = backends.choose(rows.device)
    return backend.row_grad(rows, target, class_weight, ignore_index, peak, rest, hard, smooth)


@_fake("row_grad")
def _(rows, target, class_weight, ignore_index, peak, rest, hard, smooth):
    return torch.empty_like(rows)


@_op("softmax(Tensor rows, bool log, ScalarType dtype) -> (Tensor, Tensor peak, Tensor rest)")
def _softmax(rows, log, dtype):
    return backends.choose(rows.device).softmax(rows, log, dtype)


@_fake("softmax")
def _(rows, log, dtype):
    return torch.empty_like(rows, dtype=dtype), _facts(rows), _facts(rows)


@_op("softmax_grad(Tensor rows, Tensor peak, Tensor rest, Tensor grad) -> Tensor")
def _softmax_grad(rows, peak, rest, grad):
    return backends.choose(rows.device).softmax_grad(rows, peak, rest, grad)


@_fake("softmax_grad")
def _(rows, peak, rest, grad):
    return torch.empty_like(rows)


@_op("labels(Tensor target, int classes, int ignore_index) -> Tensor")
def _labels(target, classes, ignore_index):
    return backends.choose(target.device).labels(target, classes, ignore_index)


@_fake("labels")
def _(target, classes, ignore_index):
    return torch.empty_like(target, dtype=torch.int64)


@_op("exact_sum(Tensor values) -> Tensor")
def _exact_sum(values):
    return backends.choose(values.device).exact_sum(values)


@_fake("exact_sum")
def _(values):
    return values.new_empty(values.shape[:-1])


# -- vmap: a batch of calls is one call with more rows ---------------------------------------------


def _front(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """The batch in front; one that is not batched is repeated, as a view."""
    if tensor is None:
        return None
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _join(tensor: Tensor | None) -> Tensor | None:
    """The batch joined with the dimension behind it."""
    return None if tensor is None else tensor.flatten(0, 1) if tensor.ndim > 1 else tensor


def _part(tensor: Tensor, size: int, outer: int) -> Tensor:
    return tensor.reshape(size, outer, *tensor.shape[1:])


def _by_rows(op, *, weight: int | None = None):
    """A vmap rule for an op whose tensors, the class weight apart, all carry the rows in front."""

    def rule(info, in_dims, *args):
        size = info.batch_size
        if weight is not None and in_dims[weight] is not None:  # one weight a call: no common row
            calls = [op(*_pick(args, in_dims, b)) for b in range(size)]
            if isinstance(calls[0], Tensor):
                return torch.stack(calls), 0
            return tuple(torch.stack(facts) for facts in zip(*calls, strict=True)), (0,) * len(calls[0])
        joined = [
            arg if k == weight or not isinstance(arg, Tensor) else _join(_front(arg, dim, size))
            for k, (arg, dim) in enumerate(zip(args, in_dims, strict=True))
        ]
        out = op(*joined)
        outer = args[0].shape[0] if in_dims[0] is None else args[0].movedim(in_dims[0], 0).shape[1]
        if isinstance(out, Tensor):
            return _part(out, size, outer), 0
        return tuple(_part(t, size, outer) for t in out), (0,) * len(out)

    return rule


def _pick(args, in_dims, b: int):
    return [arg if dim is None else arg.select(dim, b) for arg, dim in zip(args, in_dims, strict=True)]


def _vmap(name: str, rule) -> None:
    torch.library.register_vmap(f"xent::{name}", rule, lib=_library)


_vmap("row_summary", _by_rows(torch.ops.xent.row_summary, weight=2))
_vmap("row_grad", _by_rows(torch.ops.xent.row_grad, weight=2))
_vmap("softmax", _by_rows(torch.ops.xent.softmax))
_vmap("softmax_grad", _by_rows(torch.ops.xent.softmax_grad))
_vmap("labels", lambda info, in_dims, target, *rest: (torch.ops.xent.labels(target, *rest), in_dims[0]))
_vmap("exact_sum", lambda info, in_dims, values: (torch.ops.xent.exact_sum(values.movedim(in_dims[0], 0)), 0))
