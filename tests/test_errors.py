"""Every wrong input is refused with torch's exception type, and says what, where, expected, got and the cure."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import xent


class Wrong(NamedTuple):
    """A call that must fail: given `F` or `xent`, the words its message must have, and our type."""

    call: object
    kind: type
    words: tuple[str, ...]
    torch_refuses: bool = True
    """False where torch accepts the call, and answers with nonsense or a surprise."""


X = torch.zeros(4, 5)
Y = torch.tensor([0, 1, 2, 4])
Q = torch.full((4, 5), 0.2)
MAP, LABEL_MAP = torch.zeros(2, 5, 4, 3), torch.zeros(2, 4, 3, dtype=torch.long)
SEQUENCE = torch.zeros(2, 3, 5)


def ce(*args, **options):
    return lambda m: m.cross_entropy(*args, **options)


def nll(*args, **options):
    return lambda m: m.nll_loss(*args, **options)


SHAPES = {
    "a column of labels (N, 1)": Wrong(
        ce(X, Y[:, None]), xent.ShapeError, ("target of shape (4, 1)", "logits of shape (4, 5)", "(4,)", "squeeze(1)")
    ),
    "a column of labels (N, 1), nll": Wrong(nll(X, Y[:, None]), xent.ShapeError, ("(4, 1)", "(4,)", "squeeze(1)")),
    "a map of labels with a channel (N, 1, H, W)": Wrong(
        ce(MAP, LABEL_MAP[:, None]), xent.ShapeError, ("(2, 1, 4, 3)", "(2, 5, 4, 3)", "squeeze(1)")
    ),
    "a map of labels with a channel at the end": Wrong(
        ce(MAP, LABEL_MAP[..., None]), xent.ShapeError, ("(2, 4, 3, 1)", "(2, 4, 3)", "reshape((2, 4, 3))")
    ),
    "classes last (N, L, V)": Wrong(
        ce(SEQUENCE, torch.zeros(2, 3, dtype=torch.long)),
        xent.ShapeError,
        ("(2, 3)", "(2, 3, 5)", "classes are on dim 1", "movedim(-1, 1)"),
    ),
    "classes last (N, H, W, V)": Wrong(
        ce(MAP.movedim(1, -1), LABEL_MAP), xent.ShapeError, ("(2, 4, 3)", "(2, 4, 3, 5)", "movedim(-1, 1)")
    ),
    "classes last (N, L, V), nll": Wrong(
        nll(SEQUENCE, torch.zeros(2, 3, dtype=torch.long)), xent.ShapeError, ("(2, 3)", "(2, 3, 5)", "movedim(-1, 1)")
    ),
    "a map of another size": Wrong(
        ce(MAP, torch.zeros(2, 8, 8, dtype=torch.long)),
        xent.ShapeError,
        ("(2, 8, 8)", "(2, 4, 3)", "classes are on dim 1"),
    ),
    "flattened labels (N, H * W)": Wrong(
        ce(MAP, LABEL_MAP.flatten(1)), xent.ShapeError, ("(2, 12)", "(2, 5, 4, 3)", "reshape((2, 4, 3))")
    ),
    "flattened labels (N * H * W,)": Wrong(
        ce(MAP, LABEL_MAP.flatten()), xent.ShapeError, ("(24,)", "(2, 5, 4, 3)", "reshape((2, 4, 3))")
    ),
    "an unbatched image": Wrong(ce(MAP[0], LABEL_MAP[0]), xent.ShapeError, ("(4, 3)", "(5, 4, 3)", "(5, 3)")),
    "another number of rows": Wrong(ce(X, Y[:3]), xent.ShapeError, ("(3,)", "(4, 5)", "4 rows of logits, 3 of labels")),
    "another number of rows, nll": Wrong(nll(X, Y[:3]), xent.ShapeError, ("(3,)", "4 rows of logits, 3 of labels")),
    "a scalar label for a batch": Wrong(ce(X, Y[0]), xent.ShapeError, ("shape ()", "(4,)")),
    "many labels for one row": Wrong(ce(X[0], Y), xent.ShapeError, ("(4,)", "logits of shape (5,)")),
    "probabilities of one row more": Wrong(ce(X, torch.rand(5, 5)), xent.ShapeError, ("(5, 5)", "(4, 5)")),
    "logits without dimensions": Wrong(ce(X[0, 0], Y[0]), xent.ShapeError, ("input", "no dimensions", "(N, V)")),
    "logits without dimensions, nll": Wrong(nll(X[0, 0], Y[0]), xent.ShapeError, ("input", "no dimensions", "(N, V)")),
    "weights of the wrong length": Wrong(
        ce(X, Y, weight=torch.ones(7)), xent.ShapeError, ("weight", "(7,)", "(5,)", "(4, 5)", "reduction='none'")
    ),
    "weights of the wrong length, nll": Wrong(nll(X, Y, weight=torch.ones(4)), xent.ShapeError, ("(4,)", "(5,)")),
    "weights of the wrong length, probabilities": Wrong(
        ce(X, Q, weight=torch.ones(4)), xent.ShapeError, ("weight", "(4,)", "(5,)")
    ),
    "weights in two dimensions": Wrong(ce(X, Y, weight=torch.ones(1, 5)), xent.ShapeError, ("(1, 5)", "(5,)")),
}

DTYPES = {
    "one-hot integers": Wrong(
        ce(X, F.one_hot(Y, 5)), xent.DtypeError, ("(4, 5)", "torch.int64", "argmax(1)", "float()")
    ),
    "one-hot booleans": Wrong(ce(X, F.one_hot(Y, 5).bool()), xent.DtypeError, ("torch.bool", "argmax(1)")),
    "complex probabilities": Wrong(ce(X, Q.to(torch.complex64)), xent.DtypeError, ("torch.complex64", "floats")),
    "float labels": Wrong(ce(X, Y.float()), xent.DtypeError, ("torch.float32", "integers", "long()", "(4, 5)")),
    "float labels, nll": Wrong(nll(X, Y.float()), xent.DtypeError, ("torch.float32", "integers", "long()")),
    "bool labels": Wrong(ce(X, Y.bool()), xent.DtypeError, ("torch.bool", "integers", "long()")),
    "integer logits": Wrong(ce(X.long(), Y), xent.DtypeError, ("torch.int64", "float32", "input.float()")),
    "integer logits, nll": Wrong(nll(X.long(), Y), xent.DtypeError, ("torch.int64", "input.float()")),
    "arguments swapped": Wrong(ce(Y, X), xent.DtypeError, ("swapped",), torch_refuses=False),
    "boolean logits": Wrong(ce(X.bool(), Y), xent.DtypeError, ("torch.bool",)),
    "complex logits": Wrong(ce(X.to(torch.complex64), Y), xent.DtypeError, ("torch.complex64", ".real")),
    "8-bit logits": Wrong(ce(X.to(torch.float8_e4m3fn), Y), xent.DtypeError, ("float8_e4m3fn", "bfloat16")),
    "8-bit probabilities": Wrong(ce(X, Q.to(torch.float8_e4m3fn)), xent.DtypeError, ("target", "float8_e4m3fn")),
    "8-bit weights": Wrong(
        ce(X, Y, weight=torch.ones(5).to(torch.float8_e4m3fn)), xent.DtypeError, ("weight", "float8_e4m3fn")
    ),
    "complex weights": Wrong(
        ce(X, Y, weight=torch.ones(5, dtype=torch.complex64)), xent.DtypeError, ("weight", "torch.complex64")
    ),
    "softmax of integers": Wrong(lambda m: m.softmax(Y, 0), xent.DtypeError, ("torch.int64", "input.float()")),
    "softmax of complex": Wrong(lambda m: m.softmax(X.to(torch.complex64), 1), xent.DtypeError, ("complex", ".real")),
    "softmax to integers": Wrong(lambda m: m.softmax(X, 1, dtype=torch.long), xent.DtypeError, ("torch.int64",)),
    "log_softmax of integers": Wrong(lambda m: m.log_softmax(Y, 0), xent.DtypeError, ("torch.int64",)),
}

OPTIONS = {
    "an unknown reduction": Wrong(
        ce(X, Y, reduction="batchmean"), xent.OptionError, ("'batchmean'", "mean, sum, none")
    ),
    "an unknown reduction, nll": Wrong(nll(X, Y, reduction="avg"), xent.OptionError, ("'avg'", "mean, sum, none")),
    "reduction=None": Wrong(ce(X, Y, reduction=None), xent.OptionError, ("None", "mean, sum, none")),
    "smoothing above 1": Wrong(
        ce(X, Y, label_smoothing=1.1), xent.OptionError, ("label_smoothing", "0.0 and 1.0", "1.1")
    ),
    "smoothing below 0": Wrong(
        ce(X, Y, label_smoothing=-0.1), xent.OptionError, ("label_smoothing", "-0.1"), torch_refuses=False
    ),
    "smoothing nan": Wrong(
        ce(X, Y, label_smoothing=float("nan")), xent.OptionError, ("label_smoothing", "nan"), torch_refuses=False
    ),
    "smoothing of a string": Wrong(ce(X, Y, label_smoothing="0.1"), xent.ArgumentError, ("label_smoothing", "str")),
    "smoothing of None": Wrong(ce(X, Y, label_smoothing=None), xent.ArgumentError, ("label_smoothing", "NoneType")),
    "smoothing of two numbers": Wrong(
        ce(X, Y, label_smoothing=torch.tensor([0.1, 0.2])), xent.ArgumentError, ("label_smoothing", "Tensor")
    ),
    "ignore_index=None": Wrong(
        ce(X, Y, ignore_index=None), xent.ArgumentError, ("ignore_index", "int", "NoneType", "-100")
    ),
    "several ignore_index": Wrong(
        ce(X, Y, ignore_index=[0, 1]), xent.ArgumentError, ("ignore_index", "list", "map them")
    ),
    "ignore_index=1.0": Wrong(nll(X, Y, ignore_index=1.0), xent.ArgumentError, ("ignore_index", "float")),
    "ignore_index=True": Wrong(ce(X, Y, ignore_index=True), xent.ArgumentError, ("ignore_index", "bool")),
    "an ignore_index beyond 64 bits": Wrong(
        ce(X, Y, ignore_index=2**70), xent.OptionError, ("ignore_index", str(2**70))
    ),
    "ignore_index with probabilities": Wrong(
        ce(X, Q, ignore_index=1), xent.OptionError, ("ignore_index=1", "probabilities", "zeros")
    ),
    "softmax over dim 2 of 2": Wrong(lambda m: m.softmax(X, 2), xent.DimError, ("dim 2", "2 dimensions", "-2 ... 1")),
    "softmax over dim -3 of 2": Wrong(lambda m: m.log_softmax(X, -3), xent.DimError, ("dim -3", "-2 ... 1")),
    "softmax over dim 1 of a scalar": Wrong(lambda m: m.softmax(X[0, 0], 1), xent.DimError, ("dim 1", "-1 ... 0")),
    "softmax over two dims": Wrong(lambda m: m.softmax(X, (0, 1)), xent.ArgumentError, ("dim", "int", "tuple")),
    "softmax over a named dim": Wrong(lambda m: m.softmax(X, "classes"), xent.ArgumentError, ("dim", "str"), False),
    "softmax to a dtype by name": Wrong(
        lambda m: m.softmax(X, 1, dtype="float64"), xent.ArgumentError, ("dtype", "str")
    ),
}

KINDS = {
    "a list of labels": Wrong(ce(X, [0, 1, 2, 4]), xent.ArgumentError, ("target", "list", "torch.as_tensor")),
    "a list of labels, nll": Wrong(
        nll(X, [0, 1, 2, 4]), xent.ArgumentError, ("target", "list", "torch.as_tensor"), False
    ),
    "an int label": Wrong(ce(X[0], 1), xent.ArgumentError, ("target", "int")),
    "a numpy array of labels": Wrong(
        lambda m: m.cross_entropy(X, Y.numpy()), xent.ArgumentError, ("target", "ndarray")
    ),
    "no labels": Wrong(ce(X, None), xent.ArgumentError, ("target", "NoneType")),
    "no logits": Wrong(ce(None, Y), xent.ArgumentError, ("input", "NoneType")),
    "a list of weights": Wrong(ce(X, Y, weight=[1.0] * 5), xent.ArgumentError, ("weight", "list", "torch.as_tensor")),
    "softmax of a list": Wrong(lambda m: m.softmax([1.0, 2.0], 0), xent.ArgumentError, ("input", "list"), False),
    "logits and labels on two devices": Wrong(
        ce(X, Y.to("meta")), xent.DeviceError, ("cpu", "target", "meta", "target.to(input.device)"), False
    ),
    "logits and weights on two devices": Wrong(
        ce(X, Y, weight=torch.ones(5, device="meta")), xent.DeviceError, ("weight", "meta", "weight.to("), False
    ),
    "sparse logits": Wrong(ce(X.to_sparse(), Y), xent.LayoutError, ("input", "sparse_coo", "to_dense()")),
    "sparse labels": Wrong(ce(X, Y.to_sparse()), xent.LayoutError, ("target", "sparse_coo", "to_dense()")),
    "sparse weights": Wrong(ce(X, Y, weight=torch.ones(5).to_sparse()), xent.LayoutError, ("weight", "to_dense()")),
    "softmax of sparse": Wrong(lambda m: m.softmax(X.to_sparse(), 1), xent.LayoutError, ("to_dense()",), False),
    "jagged logits": Wrong(
        lambda m: m.cross_entropy(torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged), Y),
        xent.LayoutError,
        ("input", "jagged", "input.values()"),
    ),
    "nested logits of the old kind": Wrong(
        lambda m: m.cross_entropy(torch.nested.nested_tensor([X, X[:2]]), Y), xent.LayoutError, ("input", "nested")
    ),
}

CASES = {**SHAPES, **DTYPES, **OPTIONS, **KINDS}


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_refused_as_torch_does_and_with_a_cure(case):
    with pytest.raises(xent.XentError) as ours:
        case.call(xent)
    assert type(ours.value) is case.kind
    message = str(ours.value)
    assert [word for word in case.words if word not in message] == [], message
    if case.torch_refuses:
        with pytest.raises(Exception) as theirs:  # noqa: PT011 (its type is what the test asks)
            case.call(F)
        assert isinstance(ours.value, type(theirs.value)), type(theirs.value)


# -- labels that are not classes ---------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("label", [5, -1, 10**12, -(2**63), 2**63 - 1])
def test_a_label_out_of_range(loss, reduction, label):
    target = torch.tensor([0, 1, label, 4])
    with pytest.raises(IndexError):
        getattr(F, loss)(X, target, reduction=reduction)
    with pytest.raises(xent.TargetError) as error:
        getattr(xent, loss)(X, target, reduction=reduction)
    assert isinstance(error.value, IndexError)
    for word in (f"target[2] = {label}:", "classes are 0 ... 4", "1 of 4 targets"):
        assert word in str(error.value)


def test_a_label_out_of_range_is_placed_in_a_map():
    target = LABEL_MAP.clone()
    target[0, 1, 2], target[1, 3, 0] = 9, 7
    with pytest.raises(xent.TargetError) as error:
        xent.cross_entropy(MAP, target)
    for word in ("target[0, 1, 2] = 9", "target[1, 3, 0] = 7", "2 of 24"):
        assert word in str(error.value)


def test_many_labels_out_of_range_are_counted_and_the_first_five_shown():
    target = torch.arange(10_000) % 7
    with pytest.raises(xent.TargetError) as error:
        xent.cross_entropy(torch.zeros(10_000, 3), target)
    message = str(error.value)
    assert "target[3] = 3, target[4] = 4, target[5] = 5, target[6] = 6, target[10] = 3, ..." in message
    assert "target[11]" not in message
    assert f"{int((target >= 3).sum()):,} of 10,000 targets" in message


@pytest.mark.parametrize(
    ("labels", "cure"),
    [
        ([1, 5, 2], "counted from 1"),
        ([255, 0, 255], "ignore_index=255"),
        ([-1, 0, -1], "ignore_index=-1"),
        ([7, 900, 0], "ignore_index=..."),
    ],
    ids=["counted from 1", "void of a segmentation map", "negative padding", "anything else"],
)
def test_the_likely_cause_is_named(labels, cure):
    with pytest.raises(xent.TargetError) as error:
        xent.cross_entropy(torch.zeros(3, 5), torch.tensor(labels))
    assert cure in str(error.value)


def test_no_classes_at_all_is_said_and_not_blamed_on_the_counting():
    with pytest.raises(xent.TargetError, match="there are no classes") as error:
        xent.cross_entropy(torch.zeros(2, 0), torch.zeros(2, dtype=torch.long))
    assert "counted from 1" not in str(error.value)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int32], ids=str
)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_bad_label_of_any_dtype_is_printed_as_a_number(dtype, reduction):
    """torch prints a uint8 label as a character: a UnicodeDecodeError from 128 on."""
    label = torch.iinfo(dtype).max
    with pytest.raises(xent.TargetError) as error:
        xent.cross_entropy(torch.zeros(2, 5), torch.tensor([0, label], dtype=dtype), reduction=reduction)
    assert f"target[1] = {label}:" in str(error.value)


def test_an_unbatched_label_out_of_range():
    for target in (torch.tensor(9), torch.tensor([9])):
        with pytest.raises(xent.TargetError, match=r"target(\[0\])? = 9"):
            xent.cross_entropy(torch.zeros(5), target)


def test_a_label_that_ignore_index_no_longer_covers():
    target = torch.tensor([0, 1, -100, 4])
    assert xent.cross_entropy(X, target).isfinite()
    with pytest.raises(xent.TargetError, match=r"target\[2\] = -100"):
        xent.cross_entropy(X, target, ignore_index=-1)


# -- modules: options are refused at construction ----------------------------------------------------

CONSTRUCTIONS = {
    "unknown reduction": (lambda kind: kind(reduction="batchmean"), xent.OptionError),
    "ignore_index=None": (lambda kind: kind(ignore_index=None), xent.ArgumentError),
    "ignore_index=1.5": (lambda kind: kind(ignore_index=1.5), xent.ArgumentError),
    "weights in a list": (lambda kind: kind(weight=[1.0, 2.0]), xent.ArgumentError),
    "complex weights": (lambda kind: kind(weight=torch.ones(3, dtype=torch.complex64)), xent.DtypeError),
    "weights in two dimensions": (lambda kind: kind(weight=torch.ones(3, 3)), xent.ShapeError),
}


@pytest.mark.parametrize("build", CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)
@pytest.mark.parametrize("kind", [xent.CrossEntropyLoss, xent.NLLLoss])
def test_a_module_refuses_its_options_at_construction(kind, build):
    make, error = build
    with pytest.raises(error):
        make(kind)


@pytest.mark.parametrize("smoothing", [1.5, -0.1, float("nan"), "0.1", None])
def test_the_smoothing_of_a_module_is_refused_at_construction(smoothing):
    with pytest.raises((xent.OptionError, xent.ArgumentError), match="label_smoothing"):
        xent.CrossEntropyLoss(label_smoothing=smoothing)
    if isinstance(smoothing, float):
        assert nn.CrossEntropyLoss(label_smoothing=smoothing) is not None  # torch lets it through


def test_modules_refuse_inputs_as_the_functions_do():
    with pytest.raises(xent.TargetError, match=r"target\[0\] = 5"):
        xent.CrossEntropyLoss()(X, Y + 5)
    with pytest.raises(xent.TargetError, match=r"target\[0\] = 5"):
        xent.NLLLoss()(X, Y + 5)
    with pytest.raises(xent.ShapeError, match="weight has shape"):
        xent.CrossEntropyLoss(weight=torch.ones(3))(X, Y)
    with pytest.raises(xent.DimError, match="dim 3"):
        xent.Softmax(dim=3)(X)
    with pytest.raises(xent.DtypeError, match="int64"):
        xent.LogSoftmax(dim=0)(Y)


def test_every_error_is_a_xent_error_and_one_of_pythons():
    names = [name for name in dir(xent) if name.endswith("Error") and name != "XentError"]
    assert len(names) == 10
    for name in names:
        kind = getattr(xent, name)
        assert issubclass(kind, xent.XentError)
        assert issubclass(kind, (IndexError, RuntimeError, TypeError, OSError, ImportError)), name
