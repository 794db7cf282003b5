"""The losses as functions, with torch's names, order and defaults."""

import warnings

import torch
from torch import Tensor
from torch.nn import _reduction

from . import _check, _plan, ops


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    r"""Probabilities of each row of logits.

    .. math:: p_j = \frac{e^{x_j - m}}{\sum_k e^{x_k - m}}, \qquad m = \max_k x_k

    Shape:
        `input` of any shape with the ``V`` classes on `dim`; the result has the same shape, and the same
        strides where a view of `input` can put the classes in the middle.

    Dtypes: float64, float32, bfloat16, float16; a float32 entry is within 3 ulp of the true one, a 16-bit one is
    the true one rounded once. With `dtype`, `input` is read as that dtype, integers too, and the result has it.

    Raises:
        DimError: `dim` is out of range.
        DtypeError: `input` is integer, complex or narrower than 16 bits, and `dtype` does not say otherwise.
        ArgumentError: `input` is not a tensor, or `dim` not an int.

    Source: the maximum is subtracted as in Blanchard, Higham and Higham, *Accurately computing the
    log-sum-exp and softmax functions*, IMA J. Numer. Anal. 41 (2021).

    Example:
        >>> xent.softmax(torch.tensor([[2.0, 1.0, 0.1]]), dim=1)
        tensor([[0.6590, 0.2424, 0.0986]])

    Differs from :func:`torch.nn.functional.softmax`: each entry is within 3 ulp of the true one (torch, float32:
    up to 235 ulp off, and 4.5 % with 128,256 classes), and a gradient keeps its digits where ``p`` is near 1.
    """
    return _softmax(input, dim, _stacklevel, dtype, log=False)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    r"""Logarithms of the probabilities of each row of logits, in nats.

    .. math:: \log p_j = (x_j - m) - \operatorname{log1p}\Big(\sum_{k \ne k^*} e^{x_k - m}\Big),
              \qquad m = x_{k^*} = \max_k x_k

    Shape:
        `input` of any shape with the ``V`` classes on `dim`; the result has the same shape, and the same
        strides where a view of `input` can put the classes in the middle.

    Dtypes: as :func:`softmax`.

    Raises:
        DimError: `dim` is out of range.
        DtypeError: `input` is integer, complex or narrower than 16 bits, and `dtype` does not say otherwise.
        ArgumentError: `input` is not a tensor, or `dim` not an int.

    Source: as :func:`softmax`; the peak is left out of the sum and put back by ``log1p``.

    Example:
        >>> xent.log_softmax(torch.tensor([[20.0, 0.0]]), dim=1)
        tensor([[-2.0612e-09, -2.0000e+01]])

    Differs from :func:`torch.nn.functional.log_softmax`: a confident row's largest entry is not 0 (torch, float32:
    from a margin of 16.6 nats on), and its gradient is not 0 either.
    """
    return _softmax(input, dim, _stacklevel, dtype, log=True)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Negative log-likelihood of the labels, from log-probabilities, in nats.

    .. math:: \ell_n = -w_{y_n}\,\log p_{n, y_n}, \qquad
              \text{mean} = \frac{\sum_n \ell_n}{\sum_n w_{y_n}}

    Shape:
        `input` ``(V,)``, ``(N, V)`` or ``(N, V, d1, ..., dK)``; `target` the same without ``V``;
        `weight` ``(V,)``. The result is a scalar, or has the shape of `target` with ``reduction='none'``.

    Dtypes: `input` float64, float32, bfloat16, float16; labels any integer. Sums are exact, rounded once.

    Raises:
        TargetError: a label is neither a class nor `ignore_index`.
        ShapeError: `target` or `weight` does not fit `input`.
        DtypeError, ArgumentError, OptionError, DeviceError: as :func:`cross_entropy`.

    Source: the picked log-probability of ``notebooks/the_formula.md``.

    Example:
        >>> log_p = xent.log_softmax(torch.tensor([[2.0, 1.0, 0.1]]), dim=1)
        >>> xent.nll_loss(log_p, torch.tensor([0]))
        tensor(0.4170)

    Differs from :func:`torch.nn.functional.nll_loss`: any integer label dtype at any rank, and 16-bit means do not
    overflow (torch, float16: inf from about 6,000 rows of a loss of 10.8).
    """
    _check.loss(input, target, weight)
    _check.indices(input, target)
    reduction = _reduction_of(size_average, reduce, reduction)
    plan = _plan.loss(input, target, weight, _check.ignore_index(ignore_index), _plan.Sums(reduction))
    return ops.nll(plan)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    token_weight: Tensor | None = None,
    num_items: int | float | Tensor | None = None,
    all_ignored: str = "nan",
    dtype: torch.dtype | None = None,
    dim: int | None = None,
    shift: int = 0,
    softcap: float | None = None,
    logit_scale: float | Tensor = 1.0,
    z_loss: float = 0.0,
) -> Tensor:
    r"""Cross-entropy of logits against labels or class probabilities, in nats.

    With :math:`l_{nj} = -\log p_{nj}` and label smoothing :math:`e`,

    .. math::

        \ell_n = (1 - e)\, w_{y_n} l_{n y_n} + \frac{e}{V} \sum_j w_j l_{nj}
        \qquad\text{or}\qquad
        \ell_n = \sum_j \Big((1 - e)\, q_{nj} + \frac{e}{V}\Big) w_j l_{nj}

    for labels :math:`y` and for probabilities :math:`q`. The mean divides by :math:`\sum_n w_{y_n}` over the
    rows not ignored for labels, and by the number of rows for probabilities, as torch does.

    torch has no more than that. `token_weight` :math:`t_n` multiplies the loss of a row, and its weight in the mean:
    :math:`\sum_n t_n \ell_n / \sum_n t_n w_{y_n}` (probabilities: :math:`/ \sum_n t_n`); a weight of 0 leaves the row
    out. `num_items` is what the mean divides by instead, so that the means of micro-batches and of ranks add up to the
    one of all. `all_ignored` is what a mean over nothing is, ``'nan'`` or ``'zero'``; its gradient is 0. `dtype` is
    that of the result: float32 from 16-bit logits, say. `dim` is the dimension of the classes, where it is not torch's.
    `shift` moves the labels, and `token_weight` with them, so many places to the front of their last dimension, and
    ignores the last: 1 asks every token for the next one.

    The loss is that of the logits :math:`c \tanh(s x / c)` with `logit_scale` :math:`s`, an inverse temperature, which
    may be a tensor with a gradient, and `softcap` :math:`c`; a logit of -inf is then one of :math:`-c`. They are
    computed and kept in float32 for 16-bit logits, and in float64 for others. `z_loss` is a coefficient of
    :math:`(\log \sum_j e^{x_j})^2`, added to the loss of every row that is not ignored, whatever its class weight.

    Shape:
        `input` ``(V,)``, ``(N, V)`` or ``(N, V, d1, ..., dK)``; `target` the same without ``V`` (labels) or
        the very same shape (probabilities); `weight` ``(V,)``; `token_weight` that of labels. The result is a
        scalar, or has the shape of the labels with ``reduction='none'``.

    Dtypes: `input`, probabilities: float64, float32, bfloat16, float16, mixed as torch promotes them; labels:
    any integer; the result: `input`'s dtype, float32 under autocast. The arithmetic is float64.

    Raises:
        TargetError: a label is neither a class nor `ignore_index`.
        ShapeError: `target` or `weight` does not fit `input`.
        DtypeError: integer or complex logits, integer one-hot targets, labels that are not integers.
        OptionError: an unknown reduction, smoothing outside 0 ... 1, `ignore_index` with probabilities, a `softcap` or
            `logit_scale` that is not above 0, a `z_loss` below.
        ArgumentError: not a tensor, or not a number.
        DeviceError: two devices.

    Source: ``notebooks/from_softmax_to_cross_entropy.md``; the smoothing of Szegedy et al., *Rethinking the
    Inception architecture for computer vision* (2016).

    Example:
        >>> logits = torch.tensor([[20.0, 0.0]], requires_grad=True)
        >>> loss = xent.cross_entropy(logits, torch.tensor([0]))
        >>> loss.item()
        2.06115369216775e-09
        >>> torch.autograd.grad(loss, logits)
        (tensor([[-2.0612e-09,  2.0612e-09]]),)

    Differs from :func:`torch.nn.functional.cross_entropy`, which gives 0 and ``[0, 2.06e-9]`` here: see
    ``docs/differences.md`` for every difference.
    """
    if dim is not None:
        input, target = classes_to_torchs_place(input, target, dim)
    _check.loss(input, target, weight)
    ignored = _check.ignore_index(ignore_index)
    if target.shape == input.shape:
        _check.probabilities(input, target, ignored)
    else:
        _check.indices(input, target)
    shift = _check.shift(shift, target)
    reduction = _reduction_of(size_average, reduce, reduction)
    smoothing = _check.label_smoothing(label_smoothing)
    options = _sums(input, reduction, token_weight, num_items, all_ignored, dtype, shift)
    if shift:
        target = _plan.moved(target, shift, ignored)
    shaping = _plan.shaping(input, softcap, logit_scale, z_loss)
    if options is None and shaping is None and ops.direct.serves(input, target, weight):
        return ops.direct.cross_entropy(input, target, weight, ignored, reduction, smoothing)
    sums = options or _plan.Sums(reduction)
    if sums.token_weight is None and shaping is None and ops.device.serves(input, target, weight):
        return ops.device.cross_entropy(input, target, weight, ignored, smoothing, sums)
    return ops.cross_entropy(_plan.loss(input, target, weight, ignored, sums, smoothing, shaping))


def cross_entropy_with_stats(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    token_weight: Tensor | None = None,
    num_items: int | float | Tensor | None = None,
    all_ignored: str = "nan",
    dtype: torch.dtype | None = None,
    dim: int | None = None,
    shift: int = 0,
    softcap: float | None = None,
    logit_scale: float | Tensor = 1.0,
    z_loss: float = 0.0,
) -> ops.LossStats:
    r"""Cross-entropy of labels, and what the rows of logits tell on the way, in nats.

    .. math::

        \log p_y = x_y - \mathrm{lse}, \qquad \mathrm{lse} = \log \sum_j e^{x_j}, \qquad
        H = -\sum_j p_j \log p_j = \operatorname{log1p}(\mathrm{rest}) - \sum_j p_j (x_j - m)

    The named tuple has `loss`, which is that of :func:`cross_entropy`, and of each row: `nll`, `log_prob`, `lse`,
    `entropy`, `correct`, `argmax` and `rank`, as :class:`LossStats` says. The first five are differentiable, to every
    order. Of a row that is ignored nothing is known: zeros, False, and -1 for `argmax` and `rank`.

    Shape:
        As :func:`cross_entropy`, with labels; everything but `loss` has their shape.

    Dtypes: as :func:`cross_entropy`, and the numbers of the rows as the loss; `correct` is bool, `argmax` and `rank`
    are int64.

    Raises:
        DtypeError: probabilities in place of labels. Everything else as :func:`cross_entropy`.

    Source: per token, what the heads of TRL ask of their kernels (log-probability, entropy, top-1) for policy
    gradients; the entropy's second form has two terms of one sign.

    Example:
        >>> stats = xent.cross_entropy_with_stats(torch.tensor([[2.0, 1.0, 0.1]]), torch.tensor([1]))
        >>> stats.log_prob, stats.entropy, stats.lse
        (tensor([-1.4170]), tensor([0.8467]), tensor([2.4170]))
        >>> stats.correct, stats.argmax, stats.rank
        (tensor([False]), tensor([0]), tensor([1]))

    torch has no twin of it.
    """
    if dim is not None:
        input, target = classes_to_torchs_place(input, target, dim)
    _check.loss(input, target, weight)
    _check.labels_only(target)
    _check.indices(input, target)
    ignored, shift = _check.ignore_index(ignore_index), _check.shift(shift, target)
    smoothing = _check.label_smoothing(label_smoothing)
    shape = shape_of_labels(input)
    sums = _plan.sums(input, shape, _check.reduction(reduction), token_weight, num_items, all_ignored, dtype, shift)
    if shift:
        target = _plan.moved(target, shift, ignored)
    shaping = _plan.shaping(input, softcap, logit_scale, z_loss)
    return ops.cross_entropy_with_stats(_plan.loss(input, target, weight, ignored, sums, smoothing, shaping))


def classes_to_torchs_place(input: Tensor, target: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Views with the classes on dim 1."""
    _check.tensor("input", input)
    _check.tensor("target", target)
    at = _check.dim(dim, input.ndim)
    if input.ndim < 2:
        return input, target
    soft = target.shape == input.shape and target.is_floating_point()
    return input.movedim(at, 1), target.movedim(at, 1) if soft else target


def _sums(input: Tensor, reduction: str, token_weight, num_items, all_ignored, dtype, shift: int):
    """None where nothing is asked that torch has not."""
    if token_weight is None and num_items is None and dtype is None and all_ignored == "nan":
        return None
    shape = shape_of_labels(input)
    return _plan.sums(input, shape, reduction, token_weight, num_items, all_ignored, dtype, shift)


def shape_of_labels(input: Tensor) -> torch.Size:
    at = 0 if input.ndim == 1 else 1
    return input.shape[:at] + input.shape[at + 1 :]


def _softmax(input: Tensor, dim: int | None, stacklevel: int, dtype: torch.dtype | None, log: bool) -> Tensor:
    _check.tensor("input", input)
    if dtype is not None:
        _check.dtype(dtype)
    if dtype is not None and not _plan.widens(input.dtype, dtype):
        input = input.to(dtype)
    _check.logits("input", input)
    if dim is None:
        dim = _implicit_dim("log_softmax" if log else "softmax", input.ndim, stacklevel)
    dim, dtype = _check.dim(dim, input.ndim), dtype or _plan.softmax_dtype(input)
    if ops.direct.serves_softmax(input, dtype):
        return ops.direct.softmax(input, dim, log)
    return ops.softmax(_plan.rows_of(input, dim), log, dtype).reshape(input.shape)


def _implicit_dim(name: str, ndim: int, stacklevel: int) -> int:
    """torch's choice and its warning."""
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.",
        stacklevel=stacklevel + 1,
    )
    return 0 if ndim in (0, 1, 3) else 1


def _reduction_of(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    if size_average is not None or reduce is not None:
        return _reduction.legacy_get_string(size_average, reduce)
    return _check.reduction(reduction)
