"""Every corner of torch's semantics: torch in float64 where it is right, the formulas where it is not."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import xent

from .formulas import class_dim, formula

INF, NAN = math.inf, math.nan
REDUCTIONS = ("none", "sum", "mean")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SIGNED = (torch.int64, torch.int32, torch.int16, torch.int8)
UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
EXACT = {"rtol": 1e-12, "atol": 1e-14, "equal_nan": True}

SHAPES = {
    "unbatched (V,)": (5,),
    "(N, V)": (7, 5),
    "(N, V, L)": (3, 5, 4),
    "(N, V, H, W)": (2, 5, 3, 4),
    "(N, V, d1, d2, d3)": (2, 5, 2, 1, 3),
    "L == V, where a swapped layout would go unnoticed": (2, 4, 4),
    "one class": (4, 1),
    "one class, unbatched": (1,),
    "two classes": (6, 2),
    "no rows": (0, 5),
    "no positions": (2, 5, 0),
}


def leaf(tensor):
    return tensor.detach().clone().requires_grad_()


def labels_for(shape, ignored_share=0.0):
    at = class_dim(shape)
    target = torch.randint(shape[at], shape[:at] + shape[at + 1 :])
    return target.masked_fill(torch.rand(target.shape) < ignored_share, -100)


def probabilities_for(shape, dtype=torch.float64):
    return torch.rand(shape, dtype=dtype).softmax(class_dim(shape))


def value_and_grads(loss, *leaves):
    """The loss, and the gradients under an uneven upstream gradient."""
    slope = torch.linspace(1.0, 2.0, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    return loss.detach(), *torch.autograd.grad(loss, leaves, slope)


# -- the grid: shape x reduction x weight x smoothing x ignored --------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0], ids=["all kept", "some ignored", "all ignored"])
def test_labels_as_torch(shape, reduction, weighted, smoothing, ignored):
    x, target = torch.randn(shape, dtype=torch.float64), labels_for(shape, ignored)
    weight = torch.rand(shape[class_dim(shape)], dtype=torch.float64) + 0.1 if weighted else None
    ours, theirs = leaf(x), leaf(x)
    options = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
    got = value_and_grads(xent.cross_entropy(ours, target, **options), ours)
    assert_close(got, value_and_grads(F.cross_entropy(theirs, target, **options), theirs), **EXACT)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_probabilities_as_torch_gradient_into_them_included(shape, reduction, weighted, smoothing):
    x, q = torch.randn(shape, dtype=torch.float64), probabilities_for(shape)
    w = torch.rand(shape[class_dim(shape)], dtype=torch.float64) + 0.1 if weighted else None
    options = {"reduction": reduction, "label_smoothing": smoothing}
    results = []
    for loss in (xent.cross_entropy, F.cross_entropy):
        leaves = [leaf(x), leaf(q)] + ([leaf(w)] if weighted else [])
        weight = leaves[2] if weighted else None
        results.append(value_and_grads(loss(leaves[0], leaves[1], weight=weight, **options), *leaves))
    assert_close(*results, **EXACT)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0], ids=["all kept", "some ignored", "all ignored"])
def test_nll_as_torch(shape, reduction, weighted, ignored):
    x, target = torch.randn(shape, dtype=torch.float64), labels_for(shape, ignored)
    weight = torch.rand(shape[class_dim(shape)], dtype=torch.float64) + 0.1 if weighted else None
    ours, theirs = leaf(x), leaf(x)
    got = value_and_grads(xent.nll_loss(ours, target, weight=weight, reduction=reduction), ours)
    want = value_and_grads(F.nll_loss(theirs, target, weight=weight, reduction=reduction), theirs)
    assert_close(got, want, **EXACT)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(7, 5), (3, 5, 4)], ids=str)
def test_labels_with_a_weight_that_learns(shape, smoothing, reduction):
    """torch refuses this gradient; ours is autograd's on the formula."""
    x, w, target = torch.randn(shape, dtype=torch.float64), torch.rand(5, dtype=torch.float64), labels_for(shape, 0.3)
    pairs = []
    for loss, key in ((xent.cross_entropy, "label_smoothing"), (formula, "smoothing")):
        leaves = leaf(x), leaf(w)
        value = loss(leaves[0], target, weight=leaves[1], reduction=reduction, **{key: smoothing})
        pairs.append(value_and_grads(value, *leaves))
    assert_close(*pairs, **EXACT)
    with pytest.raises(RuntimeError, match="not differentiable"):
        F.cross_entropy(x, target, weight=leaf(w))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_with_a_weight_that_learns(reduction):
    log_p, w, target = torch.randn(7, 5).double().log_softmax(1), torch.rand(5).double(), labels_for((7, 5), 0.3)
    pairs = []
    for loss in (xent.nll_loss, formula):  # the log_softmax of log-probabilities is themselves
        weight = leaf(w)
        pairs.append(value_and_grads(loss(log_p, target, weight=weight, reduction=reduction), weight))
    assert_close(*pairs, **EXACT)


def test_smoothing_of_one_forgets_the_label():
    x, w = torch.randn(6, 4).double(), torch.rand(4).double()
    for target in (torch.tensor([0, 1, 2, 3, -100, 0]), probabilities_for((6, 4))):
        options = {"weight": w, "label_smoothing": 1.0}
        assert_close(xent.cross_entropy(x, target, **options), F.cross_entropy(x, target, **options), **EXACT)


# -- the two means -----------------------------------------------------------------------------------


def test_mean_of_labels_divides_by_the_weight_of_the_labels_kept():
    x, target, w = torch.randn(4, 3).double(), torch.tensor([0, 2, -100, 1]), torch.tensor([1.0, 2.0, 5.0]).double()
    total = xent.cross_entropy(x, target, weight=w, reduction="sum")
    assert_close(xent.cross_entropy(x, target, weight=w), total / 8.0, **EXACT)
    smooth = xent.cross_entropy(x, target, weight=w, reduction="sum", label_smoothing=0.3)
    assert_close(xent.cross_entropy(x, target, weight=w, label_smoothing=0.3), smooth / 8.0, **EXACT)


def test_mean_of_probabilities_divides_by_rows_and_positions_whatever_the_weights():
    x, q, w = torch.randn(2, 3, 5).double(), probabilities_for((2, 3, 5)), torch.tensor([1.0, 2.0, 5.0]).double()
    total = xent.cross_entropy(x, q, weight=w, reduction="sum")
    assert_close(xent.cross_entropy(x, q, weight=w), total / 10.0, **EXACT)


def test_one_hot_probabilities_equal_labels_but_for_the_weighted_mean():
    x, target, w = torch.randn(6, 3).double(), torch.tensor([0, 2, 1, 1, 0, 2]), torch.tensor([1.0, 2.0, 5.0]).double()
    hot = F.one_hot(target, 3).double()
    for options in ({"reduction": "sum", "weight": w}, {"reduction": "none", "weight": w}, {"reduction": "mean"}):
        assert_close(xent.cross_entropy(x, hot, **options), xent.cross_entropy(x, target, **options), **EXACT)
    by_labels, by_rows = xent.cross_entropy(x, target, weight=w), xent.cross_entropy(x, hot, weight=w)
    assert_close(by_labels * 16.0, by_rows * 6.0, **EXACT)


def test_a_batch_of_one_cancels_its_weight():
    x, w = torch.randn(1, 3).double(), torch.tensor([1.0, 7.0, 5.0]).double()
    target = torch.tensor([1])
    assert_close(xent.cross_entropy(x, target, weight=w), xent.cross_entropy(x, target), **EXACT)


def test_an_unbatched_label_of_one_element_gives_a_scalar():
    x = torch.randn(5, dtype=torch.float64)
    for loss, reduction in itertools.product((xent.cross_entropy, xent.nll_loss), REDUCTIONS):
        got = loss(x, torch.tensor([2]), reduction=reduction)
        assert got.shape == ()
        assert_close(got, loss(x, torch.tensor(2), reduction=reduction), rtol=0, atol=0)


# -- weights and ignored labels ----------------------------------------------------------------------


@pytest.mark.parametrize("ignore_index", [2, 0, 255, -1, torch.tensor(2)], ids=repr)
@pytest.mark.parametrize("loss", ["cross_entropy", "nll_loss"])
def test_ignore_index_drops_the_row_and_keeps_the_class_in_the_denominator(loss, ignore_index):
    x, target = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 2, 0])
    target[1] = int(ignore_index)
    ours, theirs = leaf(x), leaf(x)
    got = value_and_grads(getattr(xent, loss)(ours, target, ignore_index=ignore_index), ours)
    assert_close(got, value_and_grads(getattr(F, loss)(theirs, target, ignore_index=ignore_index), theirs), **EXACT)


def test_a_negative_ignore_index_means_nothing_to_probabilities():
    x, q = torch.randn(3, 4), probabilities_for((3, 4), torch.float32)
    assert torch.equal(xent.cross_entropy(x, q, ignore_index=-5), xent.cross_entropy(x, q))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_negative_weights_are_accepted(reduction):
    x, w, target = torch.randn(6, 3).double(), torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0, 1, 2, 1, 0, 2])
    options = {"weight": w, "reduction": reduction, "label_smoothing": 0.2}
    assert_close(xent.cross_entropy(x, target, **options), F.cross_entropy(x, target, **options), **EXACT)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_all_zero_weights(smoothing):
    """The mean is 0 / 0, the sum is 0; neither moves the logits."""
    x, w, target = torch.randn(4, 3), torch.zeros(3), torch.tensor([0, 1, 2, 1])
    for reduction, want in (("sum", 0.0), ("mean", NAN)):
        logits = leaf(x)
        loss = xent.cross_entropy(logits, target, weight=w, reduction=reduction, label_smoothing=smoothing)
        assert_close(loss.item(), want, equal_nan=True)
        if reduction == "sum":
            assert torch.equal(torch.autograd.grad(loss, logits)[0], torch.zeros(4, 3))


def test_probabilities_are_taken_as_they_are():
    """Not normalised, negative or nan: torch asks nothing, and neither do we."""
    x, q = torch.randn(3, 4).double(), torch.randn(3, 4).double() * 3
    assert_close(xent.cross_entropy(x, q), F.cross_entropy(x, q), **EXACT)
    q[1, 2] = NAN
    assert xent.cross_entropy(x, q).isnan()


@pytest.mark.parametrize("shape", [(2, 0), (2, 0, 3), (0, 0), (0,)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_classes(shape, reduction):
    """Nothing can be labelled, but everything can be ignored; probabilities of nothing ask nothing.

    torch agrees for two dimensions, and refuses three.
    """
    x, at = torch.randn(shape), class_dim(shape)
    ignored = torch.full(shape[:at] + shape[at + 1 :], -100)
    want = {"none": torch.zeros(ignored.shape), "sum": torch.tensor(0.0), "mean": torch.tensor(NAN)}[reduction]
    for loss in ("cross_entropy", "nll_loss"):
        for weight in (None, torch.ones(0)):
            got = getattr(xent, loss)(x, ignored, weight=weight, reduction=reduction)
            assert_close(got, want, equal_nan=True)
            if len(shape) < 3:
                assert_close(getattr(F, loss)(x, ignored, weight=weight, reduction=reduction), want, equal_nan=True)
    if ignored.numel():
        with pytest.raises(xent.TargetError, match="there are no classes"):
            xent.cross_entropy(x, ignored * 0, reduction=reduction)
    got = xent.cross_entropy(x, torch.randn(shape), reduction=reduction)
    assert_close(got, F.cross_entropy(x, torch.randn(shape), reduction=reduction), equal_nan=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_weights_that_are_all_zero_move_nothing(smoothing, soft):
    """The mean of nothing is nan (for labels); its gradient is 0, with smoothing as well, where torch's is nan."""
    x = torch.randn(3, 4, requires_grad=True)
    target = torch.rand(3, 4) if soft else torch.tensor([0, 1, 2])
    loss = xent.cross_entropy(x, target, weight=torch.zeros(4), label_smoothing=smoothing)
    assert loss.item() == 0 if soft else loss.isnan()
    assert (torch.autograd.grad(loss, x)[0] == 0).all()


# -- the old names of the reductions -----------------------------------------------------------------


@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_size_average_and_reduce(size_average, reduce):
    if size_average is None and reduce is None:
        pytest.skip("nothing old about it")
    x, target = torch.randn(4, 3).double(), torch.tensor([0, 1, 2, 1])
    for name in ("cross_entropy", "nll_loss"):
        with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
            got = getattr(xent, name)(x, target, None, size_average, -100, reduce)
        with pytest.warns(UserWarning, match="deprecated"):
            want = getattr(F, name)(x, target, None, size_average, -100, reduce)
        assert_close(got, want, **EXACT)


def test_elementwise_mean_is_the_mean_with_a_warning():
    x, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    with pytest.warns(UserWarning, match="elementwise_mean"):
        got = xent.cross_entropy(x, target, reduction="elementwise_mean")
    assert torch.equal(got, xent.cross_entropy(x, target))


# -- numbers that are not floats or ints of Python's own ---------------------------------------------


def test_numpy_numbers_pass_where_torch_lets_them():
    np = pytest.importorskip("numpy")
    x, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    for options in ({"ignore_index": np.int64(1)}, {"ignore_index": np.int32(1)}, {"label_smoothing": np.float32(0.5)}):
        assert_close(xent.cross_entropy(x, target, **options), F.cross_entropy(x, target, **options))
    assert_close(xent.softmax(x, np.int64(1)), F.softmax(x, np.int64(1)))


# -- dtypes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("label_dtype", SIGNED + UNSIGNED, ids=str)
@pytest.mark.parametrize("shape", [(5,), (7, 5), (3, 5, 4), (2, 5, 2, 3)], ids=str)
def test_labels_of_any_integer_dtype_at_any_rank(shape, label_dtype, dtype):
    x, target = torch.randn(shape).to(dtype), labels_for(shape)
    for loss in (xent.cross_entropy, xent.nll_loss):
        wanted, given = leaf(x), leaf(x)
        want = value_and_grads(loss(wanted, target, reduction="none"), wanted)
        got = value_and_grads(loss(given, target.to(label_dtype), reduction="none"), given)
        assert_close(got, want, rtol=0, atol=0)
        assert got[0].dtype == got[1].dtype == dtype


@pytest.mark.parametrize("label_dtype", UNSIGNED, ids=str)
def test_an_unsigned_label_never_wraps_around_to_ignore_index(label_dtype):
    bits = torch.iinfo(label_dtype).bits
    target = torch.tensor([0, 2**bits - 100], dtype=label_dtype)
    with pytest.raises(xent.TargetError, match=str(2**bits - 100)):
        xent.cross_entropy(torch.randn(2, 5), target)


@pytest.mark.parametrize("logits", DTYPES, ids=str)
@pytest.mark.parametrize("probabilities", DTYPES, ids=str)
def test_mixed_dtypes_promote_as_torch_and_gradients_keep_their_own(logits, probabilities):
    x, q = torch.randn(4, 3).to(logits), probabilities_for((4, 3)).to(probabilities)
    for weight in (None, *DTYPES, torch.int64):
        w = None if weight is None else torch.tensor([1, 2, 3], dtype=weight)
        ours, soft = leaf(x), leaf(q)
        got = xent.cross_entropy(ours, soft, weight=w)
        want = F.cross_entropy(x, q, weight=w)
        assert got.dtype == want.dtype
        assert_close(got, formula(x, q, weight=w).to(want.dtype))
        grads = torch.autograd.grad(got, (ours, soft))
        assert [g.dtype for g in grads] == [logits, probabilities]


@pytest.mark.parametrize("logits", DTYPES, ids=str)
@pytest.mark.parametrize("weight", [*DTYPES, torch.int64], ids=str)
def test_labels_take_a_weight_of_any_dtype(logits, weight):
    """torch refuses all but the logits' own; the result is promoted as for probabilities."""
    x, w, target = torch.randn(4, 3).to(logits), torch.tensor([1, 2, 3], dtype=weight), torch.tensor([0, 1, 2, 1])
    for loss, want in (
        (xent.cross_entropy, formula(x, target, w)),
        (xent.nll_loss, F.nll_loss(x.double(), target, w.double())),
    ):
        got = loss(x, target, weight=w)
        assert got.dtype == torch.promote_types(logits, weight)
        assert_close(got, want.to(got.dtype))


def test_a_float16_mean_does_not_overflow():
    x = torch.zeros(7000, 2, dtype=torch.float16)
    x[:, 1] = 10.0
    target = torch.zeros(7000, dtype=torch.long)
    assert F.cross_entropy(x, target).isinf()
    assert xent.cross_entropy(x, target).item() == 10.0


@pytest.mark.parametrize("given", [*DTYPES, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("wanted", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_reads_its_input_as_the_dtype_asked_for(name, given, wanted):
    x = (torch.randn(4, 5) * 3).to(given)
    got = getattr(xent, name)(x, 1, dtype=wanted)
    want = getattr(F, name)(x.to(wanted).double(), 1).to(wanted)
    assert got.dtype == wanted
    assert_close(got, want)
    if x.is_floating_point():
        ours, theirs = leaf(x), leaf(x)
        grads = [
            torch.autograd.grad(f(y, 1, dtype=wanted)[:, 0].sum(), y)[0]
            for f, y in ((getattr(xent, name), ours), (getattr(F, name), theirs))
        ]
        assert grads[0].dtype == given
        narrow = min(given, wanted, key=lambda dtype: -torch.finfo(dtype).eps)
        assert_close(*grads, rtol=8 * torch.finfo(narrow).eps, atol=4 * torch.finfo(narrow).eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16], ids=str)
def test_cpu_autocast_changes_the_dtypes_that_torch_changes(dtype, narrow):
    x, target, q = torch.randn(4, 3).to(dtype), torch.tensor([0, 1, 2, 1]), probabilities_for((4, 3)).to(dtype)
    w = torch.tensor([1.0, 2.0, 3.0])
    calls = {
        "labels": lambda m: m.cross_entropy(x, target),
        "smoothed": lambda m: m.cross_entropy(x, target, label_smoothing=0.1),
        "weighted": lambda m: m.cross_entropy(x, target, weight=w.double() if dtype is torch.float64 else w),
        "probabilities": lambda m: m.cross_entropy(x, q),
        "nll": lambda m: m.nll_loss(x, target),
        "softmax": lambda m: m.softmax(x, 1),
        "log_softmax": lambda m: m.log_softmax(x, 1),
    }
    with torch.autocast("cpu", narrow):
        for name, call in calls.items():
            assert call(xent).dtype == call(F).dtype, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_rounds_nothing_before_the_loss(dtype, assert_within_ulps):
    """A log_softmax rounded to 16 bits would be off by up to 0.4 %; here two float32 ulp are allowed."""
    x, target = (torch.randn(64, 50) * 4).to(dtype), labels_for((64, 50))
    given, wanted = leaf(x), leaf(x.double())
    with torch.autocast("cpu", dtype):
        got = value_and_grads(xent.cross_entropy(given, target, reduction="none"), given)
    want = value_and_grads(F.cross_entropy(wanted, target, reduction="none"), wanted)
    assert got[0].dtype == torch.float32
    assert_within_ulps(got[0], want[0], 2)
    assert got[1].dtype == dtype
    assert_close(got[1].double(), want[1], rtol=0.51 * torch.finfo(dtype).eps, atol=2.0**-24)


# -- softmax -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    "shape", [(), (5,), (3, 4), (2, 3, 4), (2, 3, 4, 5), (1, 1), (3, 0), (0, 3), (2, 0, 3)], ids=str
)
def test_softmax_along_every_dimension(name, shape):
    x = torch.randn(shape, dtype=torch.float64)
    for dim in range(-max(len(shape), 1), max(len(shape), 1)):
        ours, theirs = leaf(x), leaf(x)
        got = value_and_grads(getattr(xent, name)(ours, dim), ours)
        assert_close(got, value_and_grads(getattr(F, name)(theirs, dim), theirs), **EXACT)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_an_implicit_dim_is_torchs_choice_with_a_warning_at_the_callers_line(name, shape):
    x = torch.randn(shape, dtype=torch.float64)
    with pytest.warns(UserWarning, match=f"Implicit dimension choice for {name}") as seen:
        got = getattr(xent, name)(x)
    assert [w.filename for w in seen] == [__file__]
    with pytest.warns(UserWarning, match="Implicit dimension"):
        assert_close(got, getattr(F, name)(x), **EXACT)


# -- nan, inf and 0 * inf ----------------------------------------------------------------------------

ROWS = {
    "-inf off the target": [1.0, 2.0, -INF, 0.5],
    "-inf at the target": [-INF, 2.0, 1.0, 0.5],
    "only the target finite": [1.0, -INF, -INF, -INF],
    "all -inf": [-INF] * 4,
    "+inf at the target": [INF, 0.0, 1.0, 2.0],
    "+inf off the target": [0.0, INF, 1.0, 2.0],
    "two +inf": [INF, INF, 1.0, 2.0],
    "nan at the target": [NAN, 0.0, 1.0, 2.0],
    "nan off the target": [0.0, 1.0, NAN, 2.0],
    "as far apart as float32 goes": [-3e38, 3e38, 0.0, 1.0],
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_row_that_is_not_finite_as_torch(row, smoothing):
    x, target = torch.tensor([row, [0.0, 1.0, 2.0, 3.0]], dtype=torch.float64), torch.tensor([0, 1])
    ours, theirs = leaf(x), leaf(x)
    options = {"reduction": "none", "label_smoothing": smoothing}
    got = value_and_grads(xent.cross_entropy(ours, target, **options), ours)
    assert_close(got, value_and_grads(F.cross_entropy(theirs, target, **options), theirs), **EXACT)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_a_row_that_is_not_finite_as_torch(row, name):
    for dtype in DTYPES:
        x = torch.tensor([row, [0.0, 1.0, 2.0, 3.0]]).to(dtype)
        assert_close(getattr(xent, name)(x, 1), getattr(F, name)(x, 1), equal_nan=True)


@pytest.mark.parametrize("nonsense", [NAN, INF, -INF])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["cross_entropy", "nll_loss"])
def test_an_ignored_row_of_nonsense_is_as_if_it_were_not_there(loss, nonsense, reduction, weighted, smoothing):
    options = {"reduction": reduction, "weight": torch.tensor([1.0, 2.0, 3.0]).double() if weighted else None}
    options |= {"label_smoothing": smoothing} if loss == "cross_entropy" else {}
    x, target = torch.randn(4, 3).double(), torch.tensor([0, 2, -100, 1])
    x[2] = nonsense
    keep = target >= 0
    whole, part = leaf(x), leaf(x[keep])
    losses = getattr(xent, loss)(whole, target, **options)
    got, grad = value_and_grads(losses[keep] if reduction == "none" else losses, whole)
    want, want_grad = value_and_grads(getattr(xent, loss)(part, target[keep], **options), part)
    assert_close(got, want, **EXACT)
    assert_close(grad[keep], want_grad, **EXACT)
    assert torch.equal(grad[2], torch.zeros(3).double())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("masked", [-INF, -3e38])
def test_a_class_of_probability_or_weight_zero_is_as_if_it_were_not_there(masked, smoothing):
    """A masked class asks nothing: the loss is that of the logits without it, and its gradient is 0."""
    x, w = torch.randn(5, 4).double(), torch.tensor([1.0, 2.0, 0.0, 3.0]).double()
    x[:, 2] = masked
    others = torch.tensor([0, 1, 3])
    share = smoothing * 3 / 4  # a quarter of the smoothing falls on the class that weighs nothing
    for target in (torch.tensor([0, 1, 3, 1, 0]), probabilities_for((5, 4)).index_fill(1, torch.tensor(2), 0.0)):
        weight = w if smoothing else None
        less = target.unsqueeze(1) if not target.is_floating_point() else target[:, others]
        if not target.is_floating_point():
            less = torch.zeros(5, 4).double().scatter_(1, less, 1.0)[:, others]
        less = (1 - smoothing) * less + share / 3
        whole, part = leaf(x), leaf(x[:, others])
        got = value_and_grads(
            xent.cross_entropy(whole, target, weight, reduction="none", label_smoothing=smoothing), whole
        )
        want = value_and_grads(
            F.cross_entropy(part, less, None if weight is None else w[others], reduction="none"), part
        )
        assert_close((got[0], got[1][:, others]), want, **EXACT)
        assert torch.equal(got[1][:, 2], torch.zeros(5).double())


@pytest.mark.parametrize("nonsense", [NAN, INF, -INF])
def test_a_row_that_asks_nothing_is_not_looked_at(nonsense):
    x = torch.randn(3, 4).double()
    x[1] = nonsense
    w = torch.tensor([1.0, 0.0, 2.0, 1.0]).double()
    q = probabilities_for((3, 4))
    q[1] = 0.0
    for target, weight in ((torch.tensor([0, 1, 2]), w), (q, None), (q, w)):
        for reduction in REDUCTIONS:
            logits = leaf(x)
            loss = xent.cross_entropy(logits, target, weight, reduction=reduction)
            value, grad = value_and_grads(loss, logits)
            assert value.isfinite().all()
            assert grad[[0, 2]].isfinite().all()
            assert torch.equal(grad[1], torch.zeros(4).double())


def test_a_row_left_out_after_the_loss_gets_no_gradient():
    x, target = torch.randn(3, 4), torch.tensor([0, 1, 2])
    x[1, 3] = NAN
    logits = leaf(x)
    kept = xent.cross_entropy(logits, target, reduction="none")[[0, 2]]
    grad = torch.autograd.grad(kept.sum(), logits)[0]
    assert torch.equal(grad[1], torch.zeros(4))
    assert grad[0].ne(0).all()


# -- memory layouts ----------------------------------------------------------------------------------


def _layouts():
    base = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    wide = torch.randn(4, 10, 3, 8, dtype=torch.float64)
    return {
        "contiguous": base,
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "classes last in memory": base.movedim(1, -1).contiguous().movedim(-1, 1),
        "batch last in memory": base.movedim(0, -1).contiguous().movedim(-1, 0),
        "transposed positions": base.mT.contiguous().mT,
        "every second element": wide[::2, ::2, :, ::2],
        "from the middle": wide[1:3, 2:7, :, 3:7],
        "expanded over rows": base[:1].expand(2, -1, -1, -1),
        "expanded over positions": base[:, :, :1].expand(-1, -1, 3, -1),
        "expanded over classes": base[:, :1].expand(-1, 5, -1, -1),
    }


LAYOUTS = tuple(_layouts())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_any_layout_gives_the_loss_and_the_gradient_and_is_left_alone(layout, soft):
    x = _layouts()[layout]
    target = probabilities_for(x.shape).mT.contiguous().mT if soft else labels_for(x.shape, 0.3).mT.contiguous().mT
    x_was, target_was, version = x.clone(), target.clone(), x._version
    given, wanted = x.detach().requires_grad_(), x.contiguous().clone().requires_grad_()
    got = value_and_grads(xent.cross_entropy(given, target, label_smoothing=0.1), given)
    want = value_and_grads(F.cross_entropy(wanted, target.contiguous(), label_smoothing=0.1), wanted)
    assert_close(got, want, **EXACT)
    assert x._version == version
    assert torch.equal(x, x_was)
    assert torch.equal(target, target_was)


@pytest.mark.parametrize("layout", LAYOUTS[:4])
def test_gradient_and_softmax_keep_the_strides_of_a_dense_input(layout):
    x = _layouts()[layout]
    logits = x.requires_grad_()
    (grad,) = torch.autograd.grad(xent.cross_entropy(logits, labels_for(x.shape)), logits)
    assert grad.stride() == x.stride()
    for name in ("softmax", "log_softmax"):
        out = getattr(xent, name)(logits, 1)
        assert out.stride() == x.stride()
        (grad,) = torch.autograd.grad(out.square().sum(), logits)
        assert grad.stride() == x.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_any_layout(layout, name):
    x = _layouts()[layout]
    x_was = x.clone()
    for dim in range(4):
        given, wanted = x.detach().requires_grad_(), x.contiguous().clone().requires_grad_()
        got = value_and_grads(getattr(xent, name)(given, dim), given)
        assert_close(got, value_and_grads(getattr(F, name)(wanted, dim), wanted), **EXACT)
    assert torch.equal(x, x_was)


def test_nll_of_channels_last_has_a_gradient():
    """torch's backward refuses it: "grad_input must be contiguous"."""
    x, target = torch.randn(2, 5, 3, 4).double().log_softmax(1), labels_for((2, 5, 3, 4), 0.3)
    given, wanted = leaf(x.contiguous(memory_format=torch.channels_last)), leaf(x)
    got = value_and_grads(xent.nll_loss(given, target), given)
    assert_close(got, value_and_grads(F.nll_loss(wanted, target), wanted), **EXACT)


def test_sparse_probabilities_are_read():
    x, q = torch.randn(3, 4).double(), torch.eye(4)[[0, 2, 1]].double()
    assert_close(xent.cross_entropy(x, q.to_sparse()), F.cross_entropy(x, q), **EXACT)


def test_under_no_grad_and_inference_mode_nothing_is_recorded():
    x, target = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 1, 2])
    want = F.cross_entropy(x, target).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            got = xent.cross_entropy(x, target)
        assert not got.requires_grad
        assert_close(got.clone(), want)


@pytest.mark.parametrize("classes", [3, 100, 5000])
@pytest.mark.parametrize("options", [{}, {"dtype": torch.float64}], ids=["plainly", "with an option"])
def test_a_masked_label_under_a_smoothing_of_one_costs_infinity(classes, options, backend):
    """Not nan: what is asked of the label is 0 times infinity, and of its class infinity."""
    logits = torch.zeros(2, classes)
    logits[0, 0] = -torch.inf
    losses = xent.cross_entropy(logits, torch.tensor([0, 1]), label_smoothing=1.0, reduction="none", **options)
    assert losses[0] == torch.inf
    assert losses[1].item() == pytest.approx(math.log(classes))
