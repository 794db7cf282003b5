"""Losses that are wrong in one way each, on top of one that is right, and the cases that have to catch them."""

import torch
import torch.nn.functional as F

import xent

CAUGHT_BY = {}
HEADS_CAUGHT_BY = {}


def wrong(*cases, table=CAUGHT_BY):
    def register(loss):
        table[loss] = cases
        return loss

    return register


class _Step(torch.autograd.Function):
    """A value and a gradient that need not belong together."""

    @staticmethod
    def forward(ctx, x, value, gradient):
        ctx.save_for_backward(gradient)
        return value.detach().clone()

    @staticmethod
    def backward(ctx, above):
        (gradient,) = ctx.saved_tensors
        return gradient * (above.unsqueeze(1) if above.ndim else above), None, None


@torch.enable_grad()
def _right(x, y, **options):
    leaf = x.detach().requires_grad_()
    value = xent.cross_entropy(leaf, y, **options)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@wrong("ignored_class")
def off_by_one_ignore_index(x, y, ignore_index=-100, reduction="mean"):
    return xent.cross_entropy(x, y, ignore_index=ignore_index + 1, reduction=reduction)


@wrong("weights", "smoothing_and_weights", "weight_of_one_row")
def divided_by_the_rows(x, y, weight=None, reduction="mean", label_smoothing=0.0):
    rows = xent.cross_entropy(x, y, weight, reduction="none", label_smoothing=label_smoothing)
    return {"none": rows, "sum": rows.sum(), "mean": rows.sum() / len(rows)}[reduction]


@wrong("ignored", "ignored_and_smoothing")
def divided_by_ignored_rows_too(x, y, ignore_index=-100, label_smoothing=0.0):
    rows = xent.cross_entropy(x, y, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing)
    return rows.sum() / len(rows)


@wrong("smoothing", "smoothing_far_apart")
def smoothed_over_the_others(x, y, reduction="mean", label_smoothing=0.0):
    """e / (V - 1) for every class but the label."""
    asked = F.one_hot(y, x.shape[1]).to(x.dtype)
    asked = asked * (1 - label_smoothing) + (1 - asked) * label_smoothing / max(x.shape[1] - 1, 1)
    return xent.cross_entropy(x, asked, reduction=reduction)


@wrong("offset", "huge_offset", "log_of_one_plus_tiny", "shift")
def lse_minus_target(x, y, reduction="mean"):
    asked = y if y.is_floating_point() else F.one_hot(y.long(), x.shape[1]).to(x.dtype)
    rows = asked.sum(1) * x.logsumexp(1) - (asked * x.masked_fill(asked == 0, 0)).sum(1)
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


@wrong("input_in_place", "input_in_place_without_gradient")
def gradient_over_the_logits(x, y, reduction="mean"):
    value, gradient = _right(x, y, reduction=reduction)
    x.detach().copy_(gradient)
    return _Step.apply(x, value, gradient)


@wrong("sign_of_the_gradient", "random")
def uphill(x, y, reduction="mean"):
    value, gradient = _right(x, y, reduction=reduction)
    return _Step.apply(x, value, -gradient)


@wrong("p_minus_one", "p_minus_one_near_one")
def p_minus_one(x, y, reduction="mean"):
    value, _ = _right(x, y, reduction=reduction)
    gradient = x.detach().softmax(1) - F.one_hot(y, x.shape[1])
    return _Step.apply(x, value, gradient / len(x) if reduction == "mean" else gradient)


@wrong("log_of_zero", "log_of_one_plus_tiny")
def logarithm_of_softmax(x, y, reduction="mean"):
    rows = -x.softmax(1).gather(1, y.long().unsqueeze(1)).squeeze(1).log()
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


@wrong("overflow", "underflow")
def without_the_peak(x, y, reduction="mean"):
    rows = x.exp().sum(1).log() - x.gather(1, y.long().unsqueeze(1)).squeeze(1)
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


@wrong("masked_block")
def merged_without_a_guard(x, y, reduction="mean"):
    """Blocks of 1,024 classes merged by a running peak, which is -inf where a whole block is masked."""
    peak, mass = torch.full_like(x[:, 0], -torch.inf), torch.zeros_like(x[:, 0])
    for block in x.split(1024, 1):
        higher = torch.maximum(peak, block.amax(1))
        mass = mass * (peak - higher).exp() + (block - higher.unsqueeze(1)).exp().sum(1)
        peak = higher
    rows = mass.log() + (peak - x.gather(1, y.long().unsqueeze(1)).squeeze(1))
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


@wrong("no_probability_on_a_mask")
def zero_times_inf(x, y, reduction="mean"):
    if not y.is_floating_point():
        return xent.cross_entropy(x, y, reduction=reduction)
    rows = -(y * xent.log_softmax(x, 1)).sum(1)
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


@wrong("upstream_of_rows", "upstream_of_zero")
def deaf_to_what_comes_from_above(x, y, reduction="mean"):
    value, gradient = _right(x, y, reduction=reduction)
    return _Step.apply(x, value.sum(), gradient) * 0 + value + (_Step.apply(x, value.sum(), gradient) - value.sum())


@wrong("upstream_of_a_mean")
def deaf_to_a_scale(x, y, reduction="mean"):
    value, gradient = _right(x, y, reduction=reduction)

    class Deaf(_Step):
        @staticmethod
        def backward(ctx, above):
            return ctx.saved_tensors[0] * above.sign(), None, None

    return Deaf.apply(x, value, gradient) if reduction == "mean" else xent.cross_entropy(x, y, reduction=reduction)


@wrong("backward_twice")
def scaled_in_place(x, y, reduction="mean"):
    value, gradient = _right(x, y, reduction=reduction)

    class InPlace(_Step):
        @staticmethod
        def backward(ctx, above):  # around autograd's watch, as a kernel of its own would
            return gradient.mul_(above.unsqueeze(1) if above.ndim else above), None, None

    return InPlace.apply(x, value, gradient)


@wrong("label_too_large")
def clamped_labels(x, y, reduction="mean"):
    return xent.cross_entropy(x, y.clamp(max=x.shape[1] - 1), reduction=reduction)


@wrong("negative_label")
def labels_from_the_end(x, y, reduction="mean"):
    return xent.cross_entropy(x, y % x.shape[1] if (y < 0).any() else y, reduction=reduction)


@wrong("label_beyond_32_bits")
def labels_cut_to_32_bits(x, y, reduction="mean"):
    return xent.cross_entropy(x, y.int(), reduction=reduction)


@wrong("all_ignored")
def nan_for_nothing(x, y, ignore_index=-100, reduction="mean"):
    kept = (y != ignore_index).to(x.dtype)
    rows = xent.cross_entropy(x, y, ignore_index=ignore_index, reduction="none")
    _, gradient = _right(x, y, ignore_index=ignore_index, reduction="sum")
    return _Step.apply(x, rows.sum() / kept.sum(), gradient / kept.sum())


@wrong("double_backward")
def silently_detached(x, y, reduction="mean"):
    value, gradient = _right(x, y, reduction=reduction)
    return _Step.apply(x, value, gradient)


@wrong("gradient_of_weights")
def deaf_to_the_gradient_of_weights(x, y, weight=None, reduction="mean"):
    return xent.cross_entropy(x, y, None if weight is None else weight.detach(), reduction=reduction)


@wrong("batch_split")
def dependent_on_the_batch(x, y, reduction="mean"):
    rows = xent.cross_entropy(x, y, reduction="none") * (1 + 1e-7 * len(x))
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


@wrong("runs")
def random_in_the_last_digit(x, y, reduction="mean"):
    return xent.cross_entropy(x, y, reduction=reduction) * (1 + 1e-6 * torch.rand(()))


@wrong("threads")
def dependent_on_the_threads(x, y, reduction="mean"):
    return xent.cross_entropy(x, y, reduction=reduction) * (1 + 1e-6 * torch.get_num_threads())


@wrong("autocast")
def rounded_under_autocast(x, y, reduction="mean"):
    rows = -F.log_softmax(x, 1).gather(1, y.long().unsqueeze(1)).squeeze(1).float()
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


@wrong("mean_of_many_rows", "weighted_mean_of_many_rows", "mean_of_a_million_rows")
def added_up_one_by_one(x, y, weight=None, reduction="mean"):
    """In the dtype of the logits, in steps."""
    rows = xent.cross_entropy(x, y, weight, reduction="none")
    if reduction == "none" or len(rows) < 1000:
        return xent.cross_entropy(x, y, weight, reduction=reduction)
    total = torch.zeros((), dtype=x.dtype)
    for part in rows.split(50):
        total = total + part.sum()
    return total / (len(rows) if weight is None else weight[y].sum())


@wrong("memory")
def five_copies(x, y, reduction="mean"):
    copies = [x.detach().clone() for _ in range(5)]
    return xent.cross_entropy(x, y, reduction=reduction) + 0 * sum(copy[0, 0] for copy in copies)


@wrong("head_gradient_of_many_chunks", "head_loss_of_many_chunks", table=HEADS_CAUGHT_BY)
def added_up_in_16_bits(input, linear_weight, target, *, reduction="mean"):
    """Chunks of 16 rows, each backward pass on its own: sums of losses and of gradients in the dtype of the head."""
    logits = [F.linear(chunk, linear_weight) for chunk in input.split(16)]
    rows = zip(logits, target.split(16), strict=True)
    if reduction == "none":
        return torch.cat([xent.cross_entropy(x, y, reduction="none") for x, y in rows])
    total = torch.zeros((), dtype=input.dtype)
    for x, y in rows:
        total = total + xent.cross_entropy(x, y, reduction="sum")
    return total / len(target) if reduction == "mean" else total


@wrong("head_bias", table=HEADS_CAUGHT_BY)
def bias_for_every_block(input, linear_weight, target, *, linear_bias=None, reduction="mean"):
    logits = F.linear(input, linear_weight)
    if linear_bias is not None:
        logits = logits + linear_bias * -(-input.shape[1] // 256)
    return xent.cross_entropy(logits, target, reduction=reduction)


@wrong("head_memory", table=HEADS_CAUGHT_BY)
def all_the_logits(input, linear_weight, target):
    return xent.cross_entropy(F.linear(input, linear_weight), target)


@wrong("head_threads", table=HEADS_CAUGHT_BY)
def merged_from_a_part_for_each_thread(input, linear_weight, target, *, reduction="mean"):
    return _merged(input, linear_weight, target, torch.get_num_threads(), reduction)


@wrong("head_batch_split", table=HEADS_CAUGHT_BY)
def merged_from_parts_that_depend_on_the_rows(input, linear_weight, target, *, reduction="mean"):
    return _merged(input, linear_weight, target, 1 + len(input) // 8, reduction)


def _merged(input, linear_weight, target, parts, reduction):
    """The log-sum-exp of parts of the classes, and of these."""
    lse = torch.stack([F.linear(input, part).logsumexp(1) for part in linear_weight.chunk(parts)]).logsumexp(0)
    rows = lse - (input * linear_weight[target]).sum(1)
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


@wrong("head_in_place", table=HEADS_CAUGHT_BY)
def hidden_states_written_over(input, linear_weight, target):
    loss = xent.linear_cross_entropy(input.clone(), linear_weight, target)
    input.detach().zero_()
    return loss


@wrong("head_all_ignored", table=HEADS_CAUGHT_BY)
def gradients_over_nothing(input, linear_weight, target, *, ignore_index=-100):
    losses = xent.linear_cross_entropy(input, linear_weight, target, ignore_index=ignore_index, reduction="sum")
    return (losses + 0 * input.sum()) / (target != ignore_index).sum()
