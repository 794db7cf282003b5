"""The native kernels against the reference: the same numbers, and nan and inf in the same places."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

import xent
from xent import ShapeError, backends, ops  # noqa: F401  (ops registers torch.ops.xent)
from xent.backends import native, reference

from ..oracle import MANTISSA, SMALLEST

pytestmark = pytest.mark.skipif(native.serves(torch.device("cpu")) is not None, reason="not compiled")

KINDS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
DTYPES = pytest.mark.parametrize("dtype", KINDS, ids=lambda d: str(d)[6:])
LABELS = [
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
]
CLASSES = [1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 80, 127, 1000, 1025]
NONE = -100
OPS, LABEL = torch.ops.xent, torch.zeros(3, 1, dtype=torch.long)
INF, NAN = float("inf"), float("nan")


def budget(dtype, classes):
    """ulp between two backends of which the reference may be 0.51 off, and both by 8 in float64."""
    if dtype is torch.float64:
        return 16.0
    return 3.51 if dtype is torch.float32 else 1.0


def close(got, want, allowed, size=None):
    """Within so many ulp of `want` (of `size`, where it is the difference of larger numbers)."""
    assert (got.dtype, got.shape, got.stride()) == (want.dtype, want.shape, want.stride())
    dtype, a, b = got.dtype, got.double(), want.double()
    odd = ~((a == b) | (a.isnan() & b.isnan())) & ~(a.isfinite() & b.isfinite())
    assert not odd.any(), (
        f"nan or inf elsewhere: {a[odd][:4].tolist()} for {b[odd][:4].tolist()} in rows {odd.nonzero()[:4].tolist()}"
    )
    fine = b.isfinite()
    size = b[fine].abs() if size is None else size.double().abs().expand_as(b)[fine]
    size = size.where(size.isfinite(), torch.finfo(dtype).max)
    _, exponent = torch.frexp(size)
    ulp = torch.from_numpy(np.ldexp(1.0, (exponent - MANTISSA[dtype]).clamp_min(SMALLEST[dtype]).numpy()))
    wrong = ((a[fine] - b[fine]).abs() / ulp).nan_to_num(nan=INF)
    assert wrong.numel() == 0 or wrong.max() <= allowed, f"{wrong.max():.2f} ulp, {allowed} allowed"


def facts_agree(got, want, dtype, classes):
    """Facts are float64; native ones carry the error of the lanes they were computed in."""
    relative = 2.0**-49 if dtype is torch.float64 else 2.0**-22
    for name, a, b in zip(want._fields, got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=relative, atol=1e-55, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")


def hostile(shape, dtype, g, special=0.5):
    """Normal numbers of every size, and in some rows nan, inf, a mask, ties, offsets, or nothing finite."""
    outer, _, inner = shape
    x = torch.randn(shape, generator=g, dtype=torch.float64) * 10 ** torch.randint(
        -2, 3, (outer, 1, inner), generator=g
    )
    kinds = torch.randint(0, 12, (outer, 1, inner), generator=g)
    kinds = kinds.where(torch.rand(outer, 1, inner, generator=g) < special, 0)
    some = torch.rand(shape, generator=g)
    x = torch.where((kinds == 1) & (some < 0.1), NAN, x)
    x = torch.where((kinds == 2) & (some < 0.1), INF, x)
    x = torch.where((kinds == 3) & (some < 0.6), -INF, x)
    x = torch.where(kinds == 4, -INF, x)
    x = torch.where((kinds == 5) & (some < 0.3), torch.finfo(dtype).max, x)
    x = torch.where((kinds == 6) & (some < 0.3), -torch.finfo(dtype).max, x)
    x = torch.where(kinds == 7, x.round(), x)
    x = torch.where(kinds == 8, x * torch.finfo(dtype).tiny, x)
    x = torch.where(kinds == 9, x + 1e4, x)
    x = torch.where(kinds == 10, 0.0, x)
    x = torch.where((kinds == 11) & (some < 0.5), -0.0, x)
    return x.to(dtype)


def labels_of(shape, g, dtype=torch.int64):
    outer, classes, inner = shape
    top = min(classes, torch.iinfo(dtype).max + 1 if dtype is not torch.uint64 else classes)
    return torch.randint(0, top, (outer, inner), generator=g).to(dtype)


def both(function, *args):
    return getattr(native, function)(*args), getattr(reference, function)(*args)


def check_gradient(rows, target, weight, smoothing, ignore_index=NONE, factor=1.0):
    """Summary and gradient of both backends; the gradient from the reference's facts."""
    dtype, classes = rows.dtype, rows.shape[1]
    got, facts = both("row_summary", rows, target, weight, ignore_index, smoothing)
    facts_agree(got, facts, dtype, classes)
    hard = torch.full_like(facts.peak, factor)
    smooth = torch.full_like(hard, 0.1 * factor / max(classes, 1)) if smoothing else None
    args = (rows, target, weight, ignore_index, facts.peak, facts.rest, hard, smooth)
    a, b = both("row_grad", *args)
    close(
        a, b, budget(dtype, classes), None if smooth is None and not target.is_floating_point() else larger_term(args)
    )


def larger_term(args):
    """Of the differences ``hard (mass p - a) + smooth (sum(w) p - w)``: what their rounding is measured by."""
    rows, target, weight, _, peak, _, hard, smooth = args
    p = reference.softmax(rows, False, rows.dtype)[0].double()
    w = torch.ones(rows.shape[1]) if weight is None else weight
    w = w.double().reshape(1, -1, 1)
    if target.is_floating_point():
        a = target.double() * w
    else:
        index = target.reshape(peak.shape).to(torch.int64).unsqueeze(1)
        a = (index == torch.arange(rows.shape[1]).reshape(1, -1, 1)) * w
    size = hard.abs().unsqueeze(1) * (a.sum(1, keepdim=True) * p + a)
    return size if smooth is None else size + smooth.abs().unsqueeze(1) * (w.sum() * p + w)


@DTYPES
@pytest.mark.parametrize("seed", range(3))
def test_labels_on_hostile_rows(dtype, seed):
    g = torch.Generator().manual_seed(seed)
    for classes in CLASSES:
        shape = (24, classes, 1)
        rows, target = hostile(shape, dtype, g), labels_of(shape, g)
        target[torch.rand(target.shape, generator=g) < 0.2] = NONE
        weight = torch.rand(classes, generator=g).to(dtype)
        weight[torch.rand(classes, generator=g) < 0.3] = 0
        for w, smoothing in itertools.product((None, weight), (False, True)):
            check_gradient(rows, target, w, smoothing)


@DTYPES
@pytest.mark.parametrize("seed", range(2))
def test_distributions_on_hostile_rows(dtype, seed):
    g = torch.Generator().manual_seed(seed)
    for classes in CLASSES:
        shape = (24, classes, 1)
        rows = hostile(shape, dtype, g)
        q = torch.randn(shape, generator=g, dtype=torch.float64).mul(3).softmax(1)
        q = q.where(torch.rand(shape, generator=g) < 0.7, 0.0).to(dtype)
        weight = torch.rand(classes, generator=g).to(dtype)
        for w, smoothing in itertools.product((None, weight), (False, True)):
            check_gradient(rows, q, w, smoothing)


@DTYPES
@pytest.mark.parametrize("seed", range(3))
def test_softmax_and_its_gradient_on_hostile_rows(dtype, seed):
    g = torch.Generator().manual_seed(seed)
    for classes in CLASSES:
        rows = hostile((24, classes, 1), dtype, g)
        for log in (False, True):
            got, want = both("softmax", rows, log, dtype)
            close(got[0], want[0], budget(dtype, classes))
            torch.testing.assert_close(got[1], want[1], rtol=0, atol=0, equal_nan=True)
        slope = hostile(rows.shape, dtype, g, special=0.2)
        slope = slope.where(
            ~slope.isfinite(), slope.clamp(-min(1e24, torch.finfo(dtype).max), min(1e24, torch.finfo(dtype).max))
        )  # float lanes are not meant for more
        p, peak, rest = want[0].double().exp().unsqueeze(2), *want[1:]
        got, want = both("softmax_grad", rows, peak, rest, slope)
        moments = (p.squeeze(2) * slope.double().abs()).where(p.squeeze(2) != 0, 0.0)
        size = moments + p.squeeze(2) * moments.sum(1, keepdim=True)
        close(got, want, budget(dtype, classes), size + want.double().abs())


@DTYPES
@pytest.mark.parametrize("label_dtype", LABELS, ids=str)
def test_labels_of_every_integer_dtype(dtype, label_dtype):
    g = torch.Generator().manual_seed(1)
    for shape in ((9, 12, 1), (2, 5, 7), (3, 200, 1)):
        rows, target = hostile(shape, dtype, g, special=0), labels_of(shape, g, label_dtype)
        check_gradient(rows, target, None, False)
        kept = target.clone().reshape(-1)
        kept[::2] = 4
        check_gradient(rows, kept, None, True, ignore_index=4)  # any shape of the right size


@pytest.mark.parametrize("label_dtype", LABELS, ids=str)
def test_a_label_that_is_no_class_is_refused(label_dtype):
    rows = torch.randn(4, 5, 1)
    ones = torch.ones(4, 1)
    limits = torch.iinfo(label_dtype) if label_dtype is not torch.uint64 else None
    for wrong in {5, limits.min if limits else 2**64 - 1, limits.max if limits else 2**63} - {0}:
        target = torch.tensor([0, 1, wrong, 2], dtype=label_dtype)
        for backend in (native, reference):
            with pytest.raises(xent.TargetError, match=str(wrong)):
                backend.row_summary(rows, target, None, NONE, False)
            with pytest.raises(xent.TargetError, match=str(wrong)):
                backend.row_grad(rows, target, None, NONE, ones.double(), ones.double(), ones.double(), None)


def test_a_label_beyond_int64_is_not_the_ignored_one():
    target = torch.tensor([2**64 - 100], dtype=torch.uint64)  # the bits of -100
    with pytest.raises(xent.TargetError):
        native.row_summary(torch.randn(1, 5, 1), target, None, NONE, False)


def layouts(x):
    """The values of `x` (outer, classes, inner) as they may lie in memory."""
    o, v, i = x.shape
    yield x.permute(1, 0, 2).contiguous().permute(1, 0, 2)
    yield x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    yield x.permute(0, 2, 1).contiguous().permute(0, 2, 1)
    wide = x.new_full((o + 1, 2 * v + 1, 3 * i + 2), 7.0)
    view = wide[1:, 1::2, 1 : 3 * i + 1 : 3]
    view.copy_(x)
    yield view
    yield x.new_zeros(x.numel() + 1)[1:].view_as(x).copy_(x)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 17), (2, 70, 33), (17, 10, 1), (1, 129, 16), (5, 3, 2)])
def test_layouts_change_no_bit_of_any_op(dtype, shape):
    g = torch.Generator().manual_seed(2)
    rows, target = hostile(shape, dtype, g), labels_of(shape, g)
    q, slope = torch.rand(shape, generator=g).to(dtype), torch.randn(shape, generator=g).to(dtype)
    weight = torch.rand(shape[1], generator=g).to(dtype)
    plain = everything(rows, target, q, slope, weight)
    for views in zip(layouts(rows), layouts(q), layouts(slope), strict=True):
        for a, b in zip(everything(views[0], target, views[1], views[2], weight), plain, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, check_stride=False)
    for _ in range(2):
        for a, b in zip(everything(rows, target, q, slope, weight), plain, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def everything(rows, target, q, slope, weight):
    out = []
    for t in (target, q):
        facts = native.row_summary(rows, t, weight, NONE, True)
        out += facts
        factor = torch.linspace(0, 1, facts.peak.numel(), dtype=torch.float64).view_as(facts.peak)
        out.append(native.row_grad(rows, t, weight, NONE, facts.peak, facts.rest, factor, factor / 7))
    for log in (False, True):
        out += native.softmax(rows, log, rows.dtype)
    out.append(native.softmax_grad(rows, *out[-2:], slope))
    return out


@DTYPES
def test_expanded_tensors_are_read_in_place(dtype):
    g = torch.Generator().manual_seed(3)
    row = hostile((1, 100, 1), dtype, g, special=0)
    for rows in (row.expand(20, 100, 1), row.expand(1, 100, 20), row[:, :1].expand(3, 100, 2)):
        check_gradient(rows, labels_of(rows.shape, g), None, True)


def test_offsets_beyond_32_bits():
    """A view whose rows lie 2**31 elements apart, over memory that is never touched in between."""
    room = torch.empty(2**32 + 64, dtype=torch.float16, device="cpu")  # 8 GB of addresses, two pages of memory
    rows = room.as_strided((3, 10, 1), (2**31, 1, 1))
    rows.copy_(torch.randn(3, 10, 1))
    check_gradient(rows, torch.tensor([1, 2, 3]), None, True)
    turned = room.as_strided((1, 3, 10), (0, 2**31, 1))
    check_gradient(turned, torch.randint(0, 3, (1, 10)), None, True)


@DTYPES
@pytest.mark.parametrize("shape", [(0, 5, 1), (0, 5, 3), (3, 5, 0), (0, 0, 0), (2, 0, 3)])
def test_nothing_to_do(dtype, shape):
    rows = torch.zeros(shape, dtype=dtype)
    target = torch.full((shape[0], shape[2]), NONE)
    check_gradient(rows, target, None, True)
    check_gradient(rows, rows.clone(), None, True)
    for log in (False, True):
        got, want = both("softmax", rows, log, dtype)
        close(got[0], want[0], 0)


@DTYPES
@pytest.mark.parametrize("factor", [0.0, 1e-30, 1e30, 1e300, INF, -INF, NAN])
def test_factors_of_every_size(dtype, factor):
    """Factors that no float holds, and those of a loss scaler that has run over."""
    g = torch.Generator().manual_seed(4)
    for classes in (3, 200):
        rows, target = torch.randn(6, classes, 1, generator=g).mul(60).to(dtype), labels_of((6, classes, 1), g)
        q = torch.rand(rows.shape, generator=g).to(dtype)
        facts = reference.row_summary(rows, target, None, NONE, False)
        for t, smooth in itertools.product((target, q), (None, torch.full_like(facts.peak, factor / 4))):
            args = (rows, t, None, NONE, facts.peak, facts.rest, torch.full_like(facts.peak, factor), smooth)
            got, want = both("row_grad", *args)
            size = None if t is target and smooth is None else larger_term(args)
            close(got, want, budget(dtype, classes), size)


def test_a_slope_with_a_common_offset_keeps_its_digits():
    """``g - sum p g`` where every g is 1e6 and a bit; the truth takes the offset away first, which is exact."""
    g = torch.Generator().manual_seed(5)
    for margin in (0.0, 5.0, 20.0):
        rows = torch.randn(8, 300, 1, generator=g)
        rows[:, 7] += margin + rows.amax(1)
        slope = torch.randn(8, 300, 1, generator=g) + 1e6
        _, peak, rest = native.softmax(rows, False, torch.float32)
        got = native.softmax_grad(rows, peak, rest, slope)
        p, s = reference.softmax(rows.double(), False, torch.float64)[0], slope.double() - slope[:, 7:8].double()
        centre = (p * s).sum(1, keepdim=True)
        close(got, (p * (s - centre)).to(torch.float32), 3.51, p * (s.abs() + (p * s.abs()).sum(1, keepdim=True)))


def test_slopes_far_from_the_mean():
    """A slope at the peak, or of a class of little mass, that is larger than all that counts."""
    g = torch.Generator().manual_seed(6)
    for classes in (8, 300, 5000):
        rows = torch.randn(6, classes, 1, generator=g)
        rows[:, 3] = torch.tensor([-60.0, -30.0, 0.0, 3.0, 6.0, 30.0])[:, None]
        slope = torch.randn(6, classes, 1, generator=g) * 0.01
        slope[:, 3] = 100.0
        _, peak, rest = native.softmax(rows, False, torch.float32)
        got = native.softmax_grad(rows, peak, rest, slope)
        p, s = reference.softmax(rows.double(), False, torch.float64)[0], slope.double()
        size = p * (s.abs() + (p * s.abs()).sum(1, keepdim=True))
        close(got, (p * (s - (p * s).sum(1, keepdim=True))).to(torch.float32), 3.51, size)


@pytest.mark.parametrize("classes", [8, 300, 5000])
def test_huge_slopes_of_classes_that_floats_call_zero(classes):
    """``e**-135 * 1e30`` is a gradient; float lanes have no such exp, and 1e30 sends the row elsewhere."""
    rows = torch.zeros(3, classes, 1)
    rows[:, 1] = -135.0
    slope = torch.ones(3, classes, 1)
    slope[:, 1] = torch.tensor([1e30, 1.0, -1e30])[:, None]
    _, peak, rest = native.softmax(rows, False, torch.float32)
    got, want = (b.softmax_grad(rows, peak, rest, slope)[:, 1] for b in (native, reference))
    assert want[0] > 1e-33
    assert want[2] < -1e-33
    torch.testing.assert_close(got, want, rtol=3e-7, atol=0)


def test_a_distribution_over_classes_that_tie():
    """The attraction at the peak is that of a thousand classes."""
    g = torch.Generator().manual_seed(7)
    for classes in (24, 1000, 5000):
        q = torch.rand(4, classes, 1, generator=g)
        check_gradient(torch.zeros(4, classes, 1), q / q.sum(1, keepdim=True), None, False)


@DTYPES
@pytest.mark.parametrize("rows", [1, 3])
def test_threads_that_share_rows_change_no_bit(dtype, rows):
    """Rows of more than 131,072 classes are divided among the threads (`csrc/xent/parts.hpp`)."""
    g = torch.Generator().manual_seed(rows)
    classes = 300_001
    x = torch.randn(rows, classes, 1, generator=g).mul(5).to(dtype)
    x[0, 7], x[0, 200_000] = 40, 40  # a tie between two parts
    target = torch.randint(classes, (rows, 1), generator=g)
    weight = torch.rand(classes, generator=g).to(dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            got = []
            for w in (None, weight):
                facts = native.row_summary(x, target, w, NONE, False)
                hard = torch.full_like(facts.peak, 0.5)
                got += [*facts, native.row_grad(x, target, w, NONE, facts.peak, facts.rest, hard, None)]
            for log in (False, True):
                got += native.softmax(x, log, dtype)
            results.append(got)
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    check_gradient(x, target, None, False)
    check_gradient(x, target, weight, False)


def test_distributions_of_another_dtype_and_wider_results():
    rows = torch.randn(5, 100, 1).to(torch.bfloat16)
    q = torch.rand(5, 100, 1)
    facts_agree(*both("row_summary", rows, q, None, NONE, True), torch.bfloat16, 100)
    for log in (False, True):
        got, want = both("softmax", rows, log, torch.float32)
        close(got[0], want[0], 3.51)


FLUSHED = """
import torch, xent
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
jobs = [(torch.randn(40, v, generator=g).mul(s).to(d), torch.randint(0, v, (40,), generator=g))
        for v in (2, 10, 64, 65, 1000) for s in (1, 20)
        for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)]
def run():
    out = []
    for x, y in jobs:
        x = x.clone().requires_grad_()
        loss = xent.cross_entropy(x, y, reduction="none", label_smoothing=0.1)
        p = xent.softmax(x, 1)
        out += [loss.detach(), *torch.autograd.grad(loss.sum(), x), p.detach()]
    return out
want = run()
assert torch.set_flush_denormal(True)
got = run()
torch.set_flush_denormal(False)
for a, b in zip(got, want):
    normal = b.abs() >= 2 * torch.finfo(b.dtype).tiny
    assert torch.equal(a[normal], b[normal]), (a.dtype, a.shape, (a[normal] - b[normal]).abs().max())
    assert (a[~normal].abs() <= 2 * torch.finfo(b.dtype).tiny).all()
"""


def test_flushed_denormals_change_no_normal_number():
    done = subprocess.run([sys.executable, "-c", FLUSHED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_instruction_set_keeps_the_budget():
    """The lesser sets of this machine. The baseline rounds twice in a multiply-add, so its bits are its own."""
    best = native._native.instruction_set()
    try:
        for name in ("baseline", "avx2"):
            if name == "avx2" and best == "baseline":
                continue
            native._native.use_instruction_set(name)
            assert native._native.instruction_set() == name
            for dtype in KINDS:
                test_labels_on_hostile_rows(dtype, 7)
                test_distributions_on_hostile_rows(dtype, 7)
                test_softmax_and_its_gradient_on_hostile_rows(dtype, 7)
                test_factors_of_every_size(dtype, 1e30)
    finally:
        native._native.use_instruction_set(best)
    with pytest.raises(ValueError, match="abacus"):
        native._native.use_instruction_set("abacus")


def test_it_is_chosen_and_says_so():
    assert backends.choose(torch.device("cpu")) is native
    assert "not meta" in native.serves(torch.device("meta"))


@pytest.mark.parametrize(
    "call",
    {
        "fewer labels than rows": lambda x, f: OPS.row_summary(x, torch.zeros(2, dtype=torch.long), None, -100, False),
        "a smaller distribution": lambda x, f: OPS.row_summary(x, x[:2], None, -100, False),
        "fewer weights than classes": lambda x, f: OPS.row_summary(x, LABEL, torch.ones(4), -100, False),
        "fewer facts than rows": lambda x, f: OPS.row_grad(x, LABEL, None, -100, f[:2], f, f, None),
        "facts of another dtype": lambda x, f: OPS.row_grad(x, LABEL, None, -100, f.float(), f, f, None),
        "fewer factors than rows": lambda x, f: OPS.row_grad(x, LABEL, None, -100, f, f, f, f[:1]),
        "a smaller slope": lambda x, f: OPS.softmax_grad(x, f, f, x[:1]),
    }.items(),
    ids=lambda case: case[0],
)
def test_ops_called_by_name_with_what_does_not_fit_are_refused(call):
    """The kernels take addresses: without a check this would read and write elsewhere."""
    rows, facts = torch.randn(3, 5, 1), torch.zeros(3, 1, dtype=torch.float64)
    with pytest.raises(ShapeError):
        call[1](rows, facts)


@DTYPES
@pytest.mark.parametrize(
    "block", [slice(0, 64), slice(0, 16), slice(64, 128), slice(0, 4099), slice(4099, 4100)], ids=str
)
def test_a_nan_is_found_wherever_it_stands(block, dtype):
    """The first 64 classes of a long row, all nan, were passed over (found by the fuzzer)."""
    rows = torch.zeros(2, 4100, 1, dtype=dtype)
    rows[0, block] = float("nan")
    peak, rest = native.row_summary(rows, torch.tensor([7, 7]), None, -100, False)[:2]
    assert (peak + rest)[0].isnan()
    assert (peak + rest)[1] == 4099
