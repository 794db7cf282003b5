"""The loss of a linear head, from hidden states, without the logits."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import _check, _check_head, _plan, ops


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    token_weight: Tensor | None = None,
    num_items: int | float | Tensor | None = None,
    all_ignored: str = "nan",
    dtype: torch.dtype | None = None,
    shift: int = 0,
    softcap: float | None = None,
    logit_scale: float | Tensor = 1.0,
    z_loss: float = 0.0,
    memory_budget: int | None = None,
) -> Tensor:
    r"""Cross-entropy of the logits ``input @ linear_weight.T + linear_bias``, which never exist as a whole, in nats.

    .. math:: \ell_n = \text{cross entropy}(x_n W^\top + b,\; y_n)

    The logits are made and used a tile at a time, in the dtype that :func:`torch.nn.functional.linear` gives them.
    A mean or a sum makes the gradients in the forward pass, with three matrix products; ``reduction='none'``, a
    second backward pass and float16 make the logits twice. Without a gradient there is one product. Ignored rows cost
    none, on a CPU. `token_weight`, `num_items`, `all_ignored`, `dtype`, `shift`, `softcap`, `logit_scale` and `z_loss`
    are those of :func:`cross_entropy`; with `z_loss` the gradient makes the logits again, and for that of a
    `logit_scale` all are there at once, as for any tensor of one under :func:`torch.compile`.

    Shape:
        `input` ``(..., D)`` of any leading dimensions, ``N`` rows in all; `linear_weight` ``(V, D)`` or
        ``(V, d1, ..., dK, D)``; `linear_bias` the same without ``D``; `target` ``(..., d1, ..., dK)`` (labels) or
        ``(..., V, d1, ..., dK)`` (probabilities); `weight` ``(V,)``. The result is a scalar, or has the shape of the
        labels with ``reduction='none'``.

    Dtypes: as :func:`cross_entropy`, one for `input`, `linear_weight` and `linear_bias` outside autocast. Gradients of
    the weight add up in float32 where they are narrower.

    Memory: `memory_budget` is how many bytes there may be beside inputs and results (but for some numbers a row): a
    tile of logits, and float32 sums of 16-bit gradients. The least is a tile of 16 MB and what it needs. Where whole
    rows of logits are too long for it, they are made twice. The default is 512 MiB for the tile, and the sums on top.
    The loss has the same bits for every budget (on a GPU the matrix library may round logits by the shape of a tile);
    gradients differ by the order of float32 additions.

    Raises:
        TargetError: a label is neither a class nor `ignore_index`.
        ShapeError: the tensors do not fit one another.
        DtypeError: integer or complex hidden states, two dtypes outside autocast, labels that are not integers.
        OptionError: an unknown reduction, smoothing outside 0 ... 1, a budget below 1.
        ArgumentError: not a tensor, a budget that is no int.
        DeviceError: two devices.

    Source: the tiles of Wijmans et al., *Cut your losses in large-vocabulary language models* (2025), with gradients
    in the forward pass as in Hsu et al., *Liger kernel* (2024).

    Example:
        >>> hidden = torch.tensor([[2.0, 1.0], [0.0, 3.0]], requires_grad=True)
        >>> head = torch.tensor([[1.0, 0.0], [0.0, 1.0], [10.0, 10.0]])
        >>> loss = xent.linear_cross_entropy(hidden, head, torch.tensor([2, 2]))
        >>> loss.item()
        1.459...e-12
        >>> loss.backward()

    Differs from :func:`torch.nn.functional.linear_cross_entropy` (torch 2.13): it saves the memory without being asked
    to, also for smoothing, probabilities and K-dimensional heads, and every derivative of it can be taken; second and
    forward ones, those inside :mod:`torch.func` and those of `target` and `weight` need all logits at once.
    """
    _check_head.linear(input, linear_weight, linear_bias, target, weight)
    ignored = _check.ignore_index(ignore_index)
    _check_head.linear_target(input, linear_weight, target, ignored)
    sums = _sums(input, linear_weight, target, reduction, token_weight, num_items, all_ignored, dtype, shift)
    target = _plan.moved(target, shift, ignored) if shift else target
    smoothing, budget = _check.label_smoothing(label_smoothing), _check_head.memory_budget(memory_budget)
    shaping = _plan.shaping(input, softcap, logit_scale, z_loss)
    budget = budget if shaping is None else _plan.beside_scratch(budget, input.device)
    plan = _plan.linear(input, linear_weight, linear_bias, target, weight, ignored, sums, smoothing, budget, shaping)
    return (ops.linear_stats if shaping and shaping.z_loss else ops.linear).cross_entropy(plan)


def linear_cross_entropy_with_stats(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    token_weight: Tensor | None = None,
    num_items: int | float | Tensor | None = None,
    all_ignored: str = "nan",
    dtype: torch.dtype | None = None,
    shift: int = 0,
    softcap: float | None = None,
    logit_scale: float | Tensor = 1.0,
    z_loss: float = 0.0,
    memory_budget: int | None = None,
) -> ops.LossStats:
    r"""Cross-entropy of a linear head, and what its rows of logits tell on the way, in nats.

    .. math:: \text{cross entropy with stats}(x_n W^\top + b,\; y_n)

    The logits never exist as a whole: the walk over the tiles that makes the loss gives the by-products of
    :func:`cross_entropy_with_stats`. There is one matrix product, and a second where `memory_budget` has no room for a
    block of whole rows; the gradient makes the logits again, and takes three.

    Shape:
        As :func:`linear_cross_entropy`, with labels; everything but `loss` has their shape.

    Dtypes: as :func:`linear_cross_entropy`, and the numbers of the rows as the loss; `correct` is bool, `argmax` and
    `rank` are int64.

    Raises:
        DtypeError: probabilities in place of labels. Everything else as :func:`linear_cross_entropy`.

    Source: as :func:`cross_entropy_with_stats`.

    Example:
        >>> hidden, head = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.eye(2)
        >>> stats = xent.linear_cross_entropy_with_stats(hidden, head, torch.tensor([0, 0]), shift=1)
        >>> stats.loss, stats.rank, stats.entropy
        (tensor(0.3133), tensor([ 0, -1]), tensor([0.5822, 0.0000]))

    torch has no twin of it.
    """
    _check_head.linear(input, linear_weight, linear_bias, target, weight)
    ignored = _check.ignore_index(ignore_index)
    _check.labels_only(target)
    _check_head.linear_target(input, linear_weight, target, ignored)
    sums = _sums(input, linear_weight, target, reduction, token_weight, num_items, all_ignored, dtype, shift)
    target = _plan.moved(target, shift, ignored) if shift else target
    smoothing = _check.label_smoothing(label_smoothing)
    budget = _plan.beside_scratch(_check_head.memory_budget(memory_budget), input.device)
    shaping = _plan.shaping(input, softcap, logit_scale, z_loss)
    plan = _plan.linear(input, linear_weight, linear_bias, target, weight, ignored, sums, smoothing, budget, shaping)
    return ops.linear_stats.cross_entropy_with_stats(plan)


def _sums(input: Tensor, head: Tensor, target: Tensor, reduction: str, token_weight, num_items, nothing, dtype, shift):
    shape = input.shape[:-1] + head.shape[1:-1]
    reduction, shift = _check.reduction(reduction), _check.shift(shift, target)
    return _plan.sums(input, shape, reduction, token_weight, num_items, nothing, dtype, shift)


class HeadPlan(NamedTuple):
    """What :func:`xent.plan` tells."""

    rows: int
    """Of a tile of logits."""
    classes: int
    """Of a tile of logits."""
    tiles: int
    """How many there are one after another, each time the logits are made."""
    products: int
    """Matrix products of ``N x D x V``, those of the gradients included."""
    flops: int
    """Of these products."""
    bytes: int
    """Beside inputs and results, for a tile, float32 sums of 16-bit gradients, and the shaping of logits."""
    logits: int
    """Bytes of all logits, which do not exist."""


def plan(
    input: Tensor,
    linear_weight: Tensor,
    *,
    reduction: str = "mean",
    softcap: float | None = None,
    logit_scale: float | Tensor = 1.0,
    z_loss: float = 0.0,
    stats: bool = False,
    memory_budget: int | None = None,
) -> HeadPlan:
    r"""What :func:`linear_cross_entropy` of these tensors would do, before anything runs.

    .. math:: \text{flops} = 2\, N D V \cdot \text{products}

    Shapes and dtypes are looked at, and which of the two requires a gradient; nothing is read, so tensors on the meta
    device do. Ignored rows are not known here, and counted. With `stats` it is told of
    :func:`linear_cross_entropy_with_stats`.

    Shape:
        `input` ``(..., D)``; `linear_weight` ``(V, D)`` or ``(V, d1, ..., dK, D)``.

    Returns:
        HeadPlan: `rows` and `classes` of a tile, `tiles`, `products`, `flops`, `bytes`, and the bytes of the `logits`.

    Raises:
        ShapeError, DtypeError, OptionError, ArgumentError: as :func:`linear_cross_entropy`.

    Source: ``docs/design/linear.md``.

    Example:
        >>> hidden = torch.empty(8192, 4096, dtype=torch.bfloat16, device="meta", requires_grad=True)
        >>> head = torch.empty(128_256, 4096, dtype=torch.bfloat16, device="meta", requires_grad=True)
        >>> plan = xent.plan(hidden, head)
        >>> plan.rows, plan.classes, plan.tiles, plan.products
        (2048, 128256, 4, 3)
        >>> plan.logits // 2**20, plan.bytes // 2**20
        (2004, 2569)
        >>> xent.plan(hidden, head, memory_budget=512 << 20).products
        4

    torch has no twin of it.
    """
    _check_head.head(input, linear_weight)
    reduction, budget = _check.reduction(reduction), _check_head.memory_budget(memory_budget)
    shaping = _plan.shaping(input, softcap, logit_scale, z_loss)
    (classes, *places), dtype = linear_weight.shape[:-1], input.dtype
    rows, width, heads = math.prod(input.shape[:-1]), input.shape[-1], math.prod(places)
    wanted = torch.is_grad_enabled() * (input.requires_grad + linear_weight.requires_grad)
    late = stats or (shaping is not None and shaping.z_loss > 0)
    scratch = _plan.scratch(input.device) if stats or shaping else 0
    budget = _plan.beside_scratch(budget, input.device) if scratch else budget
    tiles, again, far = _plan.least(rows, classes, dtype), False, input.device.type not in ("cpu", "meta")
    if wanted or stats or far:
        sums = stats or far or linear_weight.requires_grad
        tiles = _plan.tiles(rows, classes, width, dtype, budget, False, sums)
    if wanted:
        again = late or reduction == "none" or heads > 1 or dtype is torch.float16 or tiles.classes < classes
    count = -(-rows // max(tiles.rows, 1)) * -(-classes // max(tiles.classes, 1)) * heads
    products = 1 + (stats and tiles.classes < classes) + again + wanted
    flops = 2 * rows * width * classes * heads * products
    logits = rows * classes * heads * dtype.itemsize
    return HeadPlan(tiles.rows, tiles.classes, count, products, flops, tiles.bytes + scratch, logits)
