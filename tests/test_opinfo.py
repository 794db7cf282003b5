"""torch's own samples for these functions, run against ours at every dtype.

The judge is torch in float64 on the very numbers that ours was given: 16-bit results must be its result
rounded once, float32 ones within the numbers promised in `docs/design/numerics.md`: gradients in ulp of the larger
of the terms they are the difference of.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_map

import xent

from .formulas import Contributions

ULPS = {torch.float64: (16, 256), torch.float32: (2, 3), torch.bfloat16: (0.51, 0.51), torch.float16: (0.51, 0.51)}
"""Of a value and of a gradient. In float64 the judge errs too, most where an entry is a difference."""
NAMES = ("softmax", "log_softmax", "nn.functional.cross_entropy", "nn.functional.nll_loss")
OPS = {f"{op.name} {op.variant_test_name}".strip(): op for op in op_db if op.name in NAMES}
WITH_DTYPE = {name: op for name, op in OPS.items() if op.variant_test_name == "with_dtype"}


def twins(op):
    name = op.name.rpartition(".")[2]
    return getattr(xent, name), getattr(F, name)


def wide(value):
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def run(function, sample, convert, differentiable):
    """The value, and the gradients of a sum with uneven coefficients that every dtype holds exactly."""
    args = [tree_map(convert, arg) for arg in (sample.input, *sample.args)]
    if differentiable:
        args = [_leaf(arg) for arg in args]
    options = {key: tree_map(convert, _detached(value)) for key, value in sample.kwargs.items()}
    out = function(*args, **options)
    if not differentiable:
        return [out]
    leaves = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.requires_grad]
    slope = (torch.arange(out.numel()) % 4 + 1).to(out.dtype).reshape(out.shape)
    return [out.detach(), *torch.autograd.grad(out, leaves, slope)]


def _detached(value):
    return value.detach() if isinstance(value, torch.Tensor) else value


def _leaf(value):
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_()
    return value


def test_nothing_is_missing_from_torchs_list():
    assert sorted(OPS) == sorted([*NAMES, "softmax with_dtype", "log_softmax with_dtype"])


@pytest.mark.parametrize("dtype", ULPS, ids=str)
@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_samples(op, dtype, assert_within_ulps):
    ours, theirs = twins(op)
    seen = 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        got, want = run(ours, sample, lambda v: v, True), run(theirs, sample, wide, True)
        with Contributions():
            sizes = run(theirs, sample, wide, True)
        assert len(got) == len(want)
        assert got[0].dtype == sample.kwargs.get("dtype", dtype)
        assert_within_ulps(got[0], want[0], ULPS[got[0].dtype][0])
        for grad, want_grad, size in zip(got[1:], want[1:], sizes[1:], strict=True):
            assert grad.dtype == dtype
            assert_within_ulps(grad, want_grad, ULPS[dtype][1], size=None if dtype is torch.float64 else size)
        seen += 1
    assert seen >= 5


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool], ids=str)
@pytest.mark.parametrize("op", WITH_DTYPE.values(), ids=WITH_DTYPE)
def test_samples_of_integers_read_as_floats(op, dtype, assert_within_ulps):
    ours, theirs = twins(op)
    for sample in op.sample_inputs("cpu", dtype, requires_grad=False):
        (got,), (want,) = run(ours, sample, lambda v: v, False), run(theirs, sample, lambda v: v, False)
        assert got.dtype == want.dtype
        assert_within_ulps(got, want.double(), 16)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_samples_on_meta_have_the_shape_and_dtype_of_the_real_ones(op):
    ours, _ = twins(op)
    for sample in op.sample_inputs("cpu", torch.float32, requires_grad=False):
        (real,) = run(ours, sample, lambda v: v, False)
        (meta,) = run(ours, sample, lambda v: v.to("meta") if isinstance(v, torch.Tensor) else v, False)
        assert (meta.shape, meta.dtype, meta.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_error_inputs(op):
    if op.error_inputs_func is None:
        pytest.skip("torch has none for this one")
    ours, _ = twins(op)
    for error in op.error_inputs("cpu"):
        sample = error.sample_input
        with pytest.raises(xent.XentError) as raised:
            ours(sample.input, *sample.args, **sample.kwargs)
        assert isinstance(raised.value, error.error_type)
