"""The kernel of the short way, `native.loss`: against the reference, and the same bits whatever surrounds a row."""

import itertools

import pytest
import torch

from xent import _algebra
from xent.backends import native, reference

from .test_native import DTYPES, INF, KINDS, NAN, NONE, facts_agree, hostile, layouts

pytestmark = pytest.mark.skipif(native.serves(torch.device("cpu")) is not None, reason="not compiled")

FEW = [1, 2, 3, 5, 8, 15, 16, 17, 24, 25, 33, 64, 100, 255, 256]
"""Class counts of rows that are lanes; above 256 a row is read by itself, above 8,192 once, above 65,536 in parts."""
MANY = [257, 300, 1000, 4097, 8191, 8192, 8193, 20_000, 65_535, 65_536, 65_537, 131_073, 131_201]
CLASSES = pytest.mark.parametrize("classes", FEW + MANY)
OPTIONS = list(itertools.product((False, True), (False, True), (0.0, 0.1, 1.0)))
"""A distribution? weighted? how smooth?"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows_for(classes):
    return 24 if classes <= 1000 else 7 if classes <= 20_000 else 3


def problem(shape, dtype, seed=0, special=0.7):
    """Hostile rows, labels of which some are ignored, distributions with zeros, weights with zeros."""
    g = torch.Generator().manual_seed(seed)
    (outer, classes, inner), rows = shape, hostile(shape, dtype, g, special)
    labels = torch.randint(0, classes, (outer, inner), generator=g)
    labels[torch.rand(labels.shape, generator=g) < 0.2] = NONE
    q = torch.randn(shape, generator=g, dtype=torch.float64).mul(3).softmax(1)
    q = q.where(torch.rand(shape, generator=g) < 0.7, 0.0).to(dtype)
    weight = torch.rand(classes, generator=g).to(dtype)
    weight[torch.rand(classes, generator=g) < 0.3] = 0
    return rows, labels, q, weight


def run(rows, target, weight=None, smoothing=0.0, mean=False, fused=True):
    """Value and divisor, and what the call writes: losses, `peak`, `rest`, the gradient."""
    shape = rows.shape[0], rows.shape[2] if rows.ndim == 3 else 1
    losses, peak, rest = (torch.full(shape, 7.0, dtype=torch.float64) for _ in range(3))
    gradient = torch.empty_like(rows).fill_(7.0) if fused else None
    value, divisor = native.loss(
        rows,
        target,
        weight,
        NONE,
        _algebra.factors(smoothing, rows.shape[1]),
        mean,
        losses=losses,
        facts=(peak, rest),
        gradient=gradient,
    )
    return torch.tensor([value, divisor], dtype=torch.float64), losses, peak, rest, gradient


def same(got, want):
    """The same numbers, nan in the same places."""
    for a, b in zip(got, want, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, check_stride=False)


def by_reference(rows, target, weight, smoothing, mean):
    """Losses and value, from the terms of the algebra."""
    facts = reference.row_summary(rows, target, weight, NONE, smoothing > 0)
    hard = _algebra.hard(facts.mass, facts.rest, facts.picked)
    whole = float(rows.shape[1]) if weight is None else weight.double().sum()
    smooth = _algebra.smooth(whole, facts.rest, facts.mix) if smoothing else None
    losses = _algebra.loss(hard, smooth, smoothing, rows.shape[1])
    divisor = losses.numel() if target.is_floating_point() else _algebra.exact_sum(facts.mass.flatten()).item()
    total = _algebra.exact_sum(losses.flatten()).item()
    value = total if not mean else total / divisor if divisor else NAN
    return losses, torch.tensor([value, divisor], dtype=torch.float64), facts


# -- the numbers -------------------------------------------------------------------------------------


@DTYPES
@CLASSES
def test_losses_value_and_facts_are_those_of_the_reference(classes, dtype):
    rows, labels, q, weight = problem((rows_for(classes), classes, 1), dtype, seed=classes)
    relative = 2.0**-48 if dtype is torch.float64 else 2.0**-22
    for soft, weighted, smoothing in OPTIONS:
        args = rows, q if soft else labels, weight if weighted else None, smoothing
        for mean in (False, True):
            want, whole, facts = by_reference(*args, mean)
            got = run(*args, mean, fused=False)
            close = {"rtol": relative, "atol": 1e-55, "equal_nan": True}
            torch.testing.assert_close(got[1], want, **close)
            torch.testing.assert_close(got[0], whole, **close)
            facts_agree(facts._replace(peak=got[2], rest=got[3]), facts, dtype, classes)
            same(run(*args, mean)[:4], got[:4])  # the gradient beside them changes nothing


@DTYPES
@CLASSES
def test_the_gradient_beside_the_loss_has_the_bits_of_row_grad(classes, dtype):
    rows, labels, q, weight = problem((rows_for(classes), classes, 1), dtype, seed=classes + 1)
    for (soft, weighted, smoothing), mean in itertools.product(OPTIONS, (False, True)):
        target, w = q if soft else labels, weight if weighted else None
        got = run(rows, target, w, smoothing, mean)
        share = 1.0 if not mean else 1.0 / got[0][1] if got[0][1] else 0.0
        ours, theirs = (torch.full_like(got[2], share * f) for f in _algebra.factors(smoothing, classes))
        facts = native.row_summary(rows, target, w, NONE, False)
        same(got[2:4], facts[:2])
        want = native.row_grad(rows, target, w, NONE, got[2], got[3], ours, theirs if smoothing else None)
        same(got[4:], [want])


@DTYPES
def test_every_row_ignored_no_weight_and_nothing_but_masks(dtype):
    for classes in (1, 3, 200, 300, 9000):
        rows, labels, q, weight = problem((5, classes, 1), dtype, special=1.0)
        for smoothing in (0.0, 0.1):
            value, losses, *_, gradient = run(rows, torch.full_like(labels, NONE), None, smoothing, mean=True)
            assert value.isnan().tolist() == [True, False]
            assert value[1] == 0
            assert not losses.any()
            assert not gradient.any()
            masked = torch.full_like(rows, -INF)
            args = masked, labels.clamp_min(0), None, smoothing
            torch.testing.assert_close(run(*args)[1], by_reference(*args, False)[0], equal_nan=True)
        value, losses, *_, gradient = run(rows, labels, torch.zeros_like(weight), 0.0, mean=True)
        assert value.isnan().tolist() == [True, False]
        assert not losses.any()
        assert not gradient.any()
        assert not run(rows, torch.zeros_like(q), None, 0.0)[1].any()


# -- the bits ----------------------------------------------------------------------------------------


@DTYPES
@CLASSES
def test_a_row_alone_has_the_bits_it_has_in_a_batch(classes, dtype):
    count = 37 if classes <= 1000 else rows_for(classes)
    rows, labels, q, weight = problem((count, classes, 1), dtype, seed=classes + 2)
    for soft, weighted, smoothing in OPTIONS[::2] if classes > 1000 else OPTIONS:
        w, target = weight if weighted else None, q if soft else labels
        whole = run(rows, target, w, smoothing)
        for i in range(0, count, 7):
            alone = run(rows[i : i + 1], target[i : i + 1], w, smoothing)
            same(alone[1:], [part[i : i + 1] for part in whole[1:]])


SHAPES = [(37, 2, 1), (3, 2, 32), (2, 2, 37), (3, 10, 48), (2, 10, 50), (5, 21, 7), (1, 150, 130), (2, 256, 33)]
SHAPES += [(9, 300, 1), (2, 300, 17), (1, 8193, 16), (3, 70_000, 2)]


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_layout_changes_no_bit(shape, dtype):
    rows, labels, q, weight = problem(shape, dtype, seed=5)
    for soft, weighted, smoothing in OPTIONS[::2]:
        w = weight if weighted else None
        want = run(rows, q if soft else labels, w, smoothing, mean=True)
        for x, of_q in zip(layouts(rows), layouts(q), strict=True):
            same(run(x, of_q if soft else labels, w, smoothing, mean=True), want)
        outer, classes, inner = shape
        flat = rows.permute(0, 2, 1).reshape(-1, classes)  # (N, V), as it comes most often
        target = q.permute(0, 2, 1).reshape(-1, classes) if soft else labels.reshape(-1, 1)
        got = run(flat, target, w, smoothing, mean=True)
        same([got[0], *(part.reshape(outer, inner) for part in got[1:4])], want[:4])
        same([got[4].reshape(outer, inner, classes).permute(0, 2, 1)], want[4:])


def test_an_expanded_row_is_read_in_place():
    for classes in (3, 300, 9000):
        row = torch.randn(1, classes)
        want = run(row, torch.zeros(1, 1, dtype=torch.long))
        got = run(row.expand(20, classes), torch.zeros(20, 1, dtype=torch.long))
        same([part[7:8] for part in got[1:]], want[1:])


@DTYPES
@pytest.mark.parametrize(
    "shape", [(40_000, 2, 1), (9000, 10, 1), (2, 21, 4099), (700, 300, 1), (7, 20_000, 1)], ids=str
)
def test_threads_change_no_bit(shape, dtype):
    """At least 32,768 numbers a thread, so each shape has work for three."""
    rows, labels, q, weight = problem(shape, dtype, seed=6)
    for soft, weighted, smoothing in ((False, False, 0.0), (False, True, 0.1), (True, False, 0.0)):
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(rows, q if soft else labels, weight if weighted else None, smoothing, mean=True))
        same(results[1], results[0])
        same(results[2], results[0])


def every_op(rows, labels, q, weight, slope):
    """All that the kernels write, for labels plain and smoothed and for a distribution."""
    out = []
    for target, w, smoothing in ((labels, None, 0.0), (labels, weight, 0.1), (q, weight, 0.0)):
        out += run(rows, target, w, smoothing, mean=True)
        facts = native.row_summary(rows, target, w, NONE, smoothing > 0)
        factor = torch.linspace(0, 1, facts.peak.numel(), dtype=torch.float64).view_as(facts.peak)
        factor.view(-1)[::5] *= 2.0**70  # more than float lanes bear
        smooth = factor / 7 if smoothing else None
        out += [*facts, native.row_grad(rows, target, w, NONE, facts.peak, facts.rest, factor, smooth)]
    for log in (True, False):
        out += native.softmax(rows, log, rows.dtype)
    out.append(native.softmax_grad(rows, out[-2], out[-1], slope))
    return out


@pytest.fixture
def each_set():
    """Runs something on AVX-512 and on AVX2."""
    best = native._native.instruction_set()
    if best != "avx512":
        pytest.skip("the machine has one set of vectors with a fused multiply-add")

    def both(function):
        results = []
        for name in ("avx512", "avx2"):
            native._native.use_instruction_set(name)
            assert native._native.instruction_set() == name
            results.append(function())
        return results

    yield both
    native._native.use_instruction_set(best)


@DTYPES
@CLASSES
def test_avx2_and_avx512_give_the_same_bits(classes, dtype, each_set):
    count = 37 if classes <= 1000 else rows_for(classes)
    shapes = [(count, classes, 1), (2, classes, 19)] if classes <= 1000 else [(count, classes, 1)]
    for seed, shape in enumerate(shapes):
        rows, labels, q, weight = problem(shape, dtype, seed=seed)
        slope = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        same(*each_set(lambda args=(rows, labels, q, weight, slope): every_op(*args)))


@DTYPES
@pytest.mark.parametrize("classes", [2, 50, 300, 9000])
def test_results_that_go_past_the_cache_have_the_same_bits(classes, dtype, each_set):
    """From 16 MiB on the gradient is streamed; a part of the rows is not."""
    count = (16 << 20) // (dtype.itemsize * classes) + 3
    g = torch.Generator().manual_seed(1)
    rows = torch.randn(count, classes, generator=g).to(dtype)
    labels = torch.randint(0, classes, (count, 1), generator=g)
    wide, narrow = each_set(lambda: run(rows, labels))
    same(wide, narrow)
    part = run(rows[:1000], labels[:1000])
    same([x[:1000] for x in narrow[1:]], part[1:])


@pytest.mark.long
@pytest.mark.parametrize("name", ["baseline", "avx2"])
def test_lesser_instruction_sets_keep_the_budget(name):
    best = native._native.instruction_set()
    if best == "baseline" and name != best:
        pytest.skip("the machine has no AVX2")
    try:
        native._native.use_instruction_set(name)
        for dtype, classes in itertools.product(KINDS, (1, 2, 25, 256, 257, 8193)):
            test_losses_value_and_facts_are_those_of_the_reference(classes, dtype)
            test_the_gradient_beside_the_loss_has_the_bits_of_row_grad(classes, dtype)
    finally:
        native._native.use_instruction_set(best)


@DTYPES
@pytest.mark.parametrize("classes", [2, 10, 256, 257, 8193])
def test_flushed_denormals_change_no_normal_number(classes, dtype):
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    torch.set_flush_denormal(False)
    g = torch.Generator().manual_seed(2)
    for scale, (soft, weighted, smoothing) in itertools.product((1, 20), OPTIONS):
        rows = torch.randn(9, classes, generator=g).mul(scale).to(dtype)
        _, labels, q, weight = problem((9, classes, 1), dtype)
        args = rows, q.squeeze(2) if soft else labels, weight if weighted else None, smoothing, True
        want = run(*args)
        torch.set_flush_denormal(True)
        try:
            got = run(*args)
        finally:
            torch.set_flush_denormal(False)
        for a, b in zip(got, want, strict=True):
            tiny = 2 * torch.finfo(b.dtype).tiny
            normal = b.abs() >= tiny
            assert torch.equal(a[normal], b[normal])
            assert (a[~normal].abs() <= tiny).all()


# -- rows that are read once: more than 8,192 classes ------------------------------------------------

LONG = [9000, 65_600, 140_000]


def agrees(rows, dtype):
    """Facts as the reference has them, and the loss of a label that is masked nowhere, and of the last one."""
    facts = reference.row_summary(rows, torch.zeros(len(rows), 1, dtype=torch.long), None, NONE, False)
    for label in (rows.shape[1] // 2, rows.shape[1] - 1):
        target = torch.full((len(rows), 1), label)
        want = by_reference(rows, target, None, 0.0, False)
        got = run(rows, target)
        relative = 2.0**-48 if dtype is torch.float64 else 2.0**-22
        torch.testing.assert_close(got[1], want[0], rtol=relative, atol=1e-55, equal_nan=True)
        facts_agree(facts._replace(peak=got[2], rest=got[3]), facts, dtype, rows.shape[1])
    log_p, peak, rest = native.softmax(rows, True, dtype)
    same([peak, rest], got[2:4])
    assert log_p.isnan().any(1).flatten().tolist() == rest.isnan().flatten().tolist()


def tall(classes, dtype, count=1, scale=3):
    rows = torch.randn(count, classes, 1, generator=torch.Generator().manual_seed(classes)) * scale
    return rows.to(dtype)


@DTYPES
@pytest.mark.parametrize("classes", LONG)
@pytest.mark.parametrize("masked", [1, 15, 16, 63, 64, 65, 127, 128, 4096, 8999])
def test_masks_at_the_front_at_the_end_and_in_whole_blocks(masked, classes, dtype):
    rows = tall(classes, dtype, 4)
    rows[0, :masked] = -INF
    rows[1, -masked:] = -INF
    rows[2, 64 : 64 + masked] = -INF
    rows[3, : classes - masked] = -INF
    agrees(rows, dtype)


@DTYPES
@pytest.mark.parametrize("classes", LONG)
def test_peaks_that_rise_block_by_block(classes, dtype):
    rows = tall(classes, dtype, 7, scale=20)
    rows[0] = rows[0].sort(0).values
    rows[1] = rows[1].sort(0, descending=True).values
    rows[2] = torch.linspace(-90, 90, classes).unsqueeze(1).to(dtype)  # every block by less than e
    rows[3] = torch.linspace(0, 60_000, classes).unsqueeze(1).to(dtype)  # every block by more than a sum holds
    rows[4] = (torch.arange(classes) // 64 % 7 * 40.0).unsqueeze(1).to(dtype)  # and falls again
    rows[5] = (torch.arange(classes) // 64 * 0.5).clamp_max(400.0).unsqueeze(1).to(dtype)  # ties in every block
    rows[6, -1] = 300.0
    agrees(rows, dtype)


@DTYPES
@pytest.mark.parametrize("classes", LONG)
@pytest.mark.parametrize("peak", [2.0**20, 2.0**20 - 1, -(2.0**20), 3e4, 1e30])
def test_peaks_that_leave_float_lanes(peak, classes, dtype):
    rows = tall(classes, dtype, 4)
    peak = min(peak, torch.finfo(dtype).max)
    rows[0, 5000] = peak
    rows[1, -1] = peak
    rows[2] += peak
    rows[3, 3] = peak
    rows[3, 70::997] = peak
    agrees(rows, dtype)


@DTYPES
@pytest.mark.parametrize("classes", LONG)
@pytest.mark.parametrize("special", [NAN, INF], ids=str)
def test_nan_and_inf_are_seen_wherever_they_stand(special, classes, dtype):
    places = [0, 1, 17, 63, 64, 5000, classes // 2, classes - 65, classes - 2, classes - 1]
    rows = tall(classes, dtype, 3 * len(places))
    for k, place in enumerate(places):
        rows[k, place] = special
        rows[len(places) + k, place // 64 * 64 : place // 64 * 64 + 64] = -INF  # inside a block of masks
        rows[len(places) + k, place] = special
        rows[2 * len(places) + k] = -INF  # and alone
        rows[2 * len(places) + k, place] = special
    agrees(rows, dtype)
    _, _, _, rest, gradient = run(rows, torch.ones(len(rows), 1, dtype=torch.long))
    assert rest.isnan().all()
    assert gradient.isnan().all()


@DTYPES
@pytest.mark.parametrize("classes", LONG)
def test_a_row_of_masks_and_one_that_has_a_single_class(classes, dtype):
    rows = torch.full((5, classes, 1), -INF, dtype=dtype)
    for k, place in enumerate((0, 64, classes - 1, 8191), start=1):
        rows[k, place] = 2.5
    agrees(rows, dtype)
    _, peak, rest = native.softmax(rows, True, dtype)
    assert peak.flatten().tolist() == [-INF, 2.5, 2.5, 2.5, 2.5]
    assert rest.isnan().flatten().tolist() == [True, False, False, False, False]
    assert not rest[1:].any()
