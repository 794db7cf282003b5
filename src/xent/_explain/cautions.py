"""What people get wrong, looked for in the inputs. Each caution is one function."""

import math

import torch

from .call import Call
from .head import HeadCall
from .parts import Caution
from .survey import Survey


def look(call: Call | HeadCall, survey: Survey) -> tuple[Caution, ...]:
    """Every caution that these inputs deserve."""
    found = (caution(call, survey) for caution in CAUTIONS)
    return tuple(caution for caution in found if caution is not None)


def _tolerance(dtype: torch.dtype) -> float:
    """How far a sum of rounded probabilities may lie from 1: four units of bfloat16, never under 1e-3."""
    return max(1e-3, 4 * torch.finfo(dtype).eps)


def probabilities(call: Call | HeadCall, survey: Survey) -> Caution | None:
    """Logits that are a softmax already."""
    near = _tolerance(call.dtype)
    kept, classes = survey.kept, call.plan.classes
    unit = (survey.low >= 0) & (survey.peak <= 1 + near) & ((survey.total - 1).abs() <= near)
    if classes < 2 or not bool(kept.any()) or not bool(unit[kept].all()):
        return None
    floor = math.log(math.e + classes - 1) - 1
    return Caution(
        "probabilities",
        f"every row lies in 0 ... 1 and sums to 1: these look like probabilities, and the loss takes a softmax "
        f"of its own. With {classes:,} classes the −log p of a row then cannot fall below {floor:.4f}",
        "pass the logits, before the softmax; or nll_loss(p.log(), target)",
    )


def log_probabilities(call: Call | HeadCall, survey: Survey) -> Caution | None:
    """Logits that are a log_softmax already: harmless."""
    near = _tolerance(call.dtype)
    rows = (survey.peak <= 0) & (survey.logsumexp.abs() <= near)
    if call.plan.classes < 2 or not bool(survey.kept.any()) or not bool(rows[survey.kept].all()):
        return None
    return Caution(
        "log-probabilities",
        "the logsumexp of every row is 0: these look like log-probabilities. Harmless, a second log_softmax "
        "changes nothing but the work",
        "nll_loss takes them as they are",
    )


def one_class(call: Call | HeadCall, survey: Survey) -> Caution | None:
    """A softmax over one class."""
    if call.plan.classes != 1:
        return None
    return Caution(
        "one class",
        "there is one class, its probability is 1 whatever its logit: the loss and its gradient are 0 for ever",
        "for yes or no give two logits, or use binary_cross_entropy_with_logits on the one",
    )


def negative_targets(call: Call | HeadCall, survey: Survey) -> Caution | None:
    """A distribution with an entry below zero."""
    if survey.asked_low is None:
        return None
    wrong = survey.asked_low < 0
    if not bool(wrong.any()):
        return None
    first = int(wrong.nonzero()[0])
    return Caution(
        "negative targets",
        f"{int(wrong.sum()):,} of {call.count:,} target rows have a negative entry (row {first}: "
        f"{float(survey.asked_low[first]):.4g}): the loss has no lower bound there",
        "pass probabilities; log-probabilities want target.exp()",
    )


def unnormalised_targets(call: Call | HeadCall, survey: Survey) -> Caution | None:
    """A distribution that does not sum to 1; a row of zeros is a way to ignore it and passes."""
    total = survey.asked_total
    if total is None:
        return None
    wrong = ((total - 1).abs() > _tolerance(call.target.dtype)) & (total != 0)
    if not bool(wrong.any()):
        return None
    first = int(wrong.nonzero()[0])
    cure = "divide the targets by their sum over the classes"
    if call.target.ndim > 2 and _sums_to_one_last(call):
        cure = "they do sum to 1 over the last dim: if the classes come last, pass both with movedim(-1, 1)"
    return Caution(
        "unnormalised targets",
        f"{int(wrong.sum()):,} of {call.count:,} target rows do not sum to 1 (row {first}: {float(total[first]):.4g}): "
        "such a row weighs as much as it sums to",
        cure,
    )


def _sums_to_one_last(call: Call | HeadCall) -> bool:
    totals = call.target.sum(-1, dtype=torch.float64)
    return bool(((totals - 1).abs() <= _tolerance(call.target.dtype)).all())


def nothing_kept(call: Call | HeadCall, survey: Survey) -> Caution | None:
    """A mean over nothing."""
    if bool(survey.kept.any()) and (call.plan.soft or float(survey.mass.sum()) != 0):
        return None
    if call.count == 0:
        what = "there are no rows"
    elif bool(survey.kept.any()):
        what = "the class weights of all targets are 0"
    else:
        what = f"all {call.count:,} rows are ignored (target = {call.plan.ignore_index})"
    sums = call.plan.sums
    undefined = sums.reduction == "mean" and not sums.num_items and math.isnan(sums.all_ignored)
    return Caution(
        "nothing kept",
        f"{what}: the {sums.reduction} is " + ("0/0 = nan, and its gradient 0" if undefined else "0"),
        "skip such a batch, or take reduction='sum' and divide by a count of your own",
    )


def classes_last(call: Call | HeadCall, survey: Survey) -> Caution | None:
    """``(N, L, C)`` read as ``(N, C, L)`` without a word, because the two sizes are equal."""
    shape = call.shape
    if len(shape) < 3 or call.plan.classes < 2 or len(set(shape[1:])) != 1:
        return None
    return Caution(
        "classes last?",
        f"logits of shape {shape} are read with the classes on dim 1; dim {len(shape) - 1} is as long, so the shapes "
        "cannot tell whether that is meant",
        "if the classes come last, pass logits.movedim(-1, 1)",
    )


def weight_cancels(call: Call | HeadCall, survey: Survey) -> Caution | None:
    """``w l / w``."""
    plan = call.plan
    lone = not plan.soft and plan.sums.reduction == "mean" and plan.smoothing == 0 and int(survey.kept.sum()) == 1
    lone = lone and plan.sums.num_items is None and not (plan.shaping and plan.shaping.z_loss)
    if call.weight is None or not lone or float(survey.mass.sum()) == 0:
        return None
    return Caution(
        "weight cancels",
        "a mean over one row divides by that row's class weight: the weight has no effect on the loss",
        "accumulate rows with reduction='sum' and divide once by the total weight",
    )


CAUTIONS = (
    probabilities,
    log_probabilities,
    one_class,
    negative_targets,
    unnormalised_targets,
    nothing_kept,
    classes_last,
    weight_cancels,
)
