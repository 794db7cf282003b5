"""xent passes its own audit on every backend that serves the CPU."""

import pytest

import xent
from xent._audit.cases import CASES
from xent.ops import device_linear, head, tiles

from ..conftest import SERVING, take_in_turn

LONG = pytest.mark.long
INTERPRETED_FOR_LONG = {
    "vocabulary",
    "vocabulary_confident",
    "mean_of_many_rows",
    "mean_of_a_million_rows",
    "runs",
    "threads",
    "batch_split",
    "batch_split_gradient",
    "memory",
    "head_loss_of_many_chunks",
    "head_gradient_of_many_chunks",
    "head_threads",
    "weighted_mean_of_many_rows",
    "backward_twice",
    "loss_without_gradient",
}
"""What takes Triton's interpreter more than 3 s; the others are done in twenty."""
HEADS = [name for name, one in CASES.items() if one.group == "heads" and name != "head_memory"]


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        ("xent", None),
        *(pytest.param("xent", dtype, marks=LONG) for dtype in ("float64", "bfloat16", "float16")),
        *(pytest.param("xent-linear", dtype, marks=LONG) for dtype in ("float64", "bfloat16", "float16")),
    ],
)
def test_xent_passes_its_own_audit(backend, target, dtype):
    report = xent.audit(target, dtype=dtype)
    assert report.passed, str(report)
    assert len(report.judged) > 80
    assert not [outcome for outcome in report.outcomes if outcome.status == "refused"]


def test_the_head_passes_on_every_backend_what_is_about_heads(backend):
    report = xent.audit("xent-linear", cases=HEADS)
    assert report.passed, str(report)
    assert len(report.judged) == len(HEADS)


def test_the_gpu_kernels_pass_in_the_interpreter(monkeypatch):
    if "triton" not in SERVING:
        pytest.skip("no Triton here, or a GPU")
    take_in_turn("triton", monkeypatch)
    heads = [name for name in HEADS if name not in INTERPRETED_FOR_LONG]
    rows = [name for name, one in CASES.items() if one.group != "heads" and name not in INTERPRETED_FOR_LONG]
    for report in (xent.audit("xent", cases=rows), xent.audit("xent-linear", cases=heads)):
        assert report.passed, str(report)
        assert len(report.judged) == len(report.outcomes)


def test_the_head_passes_as_on_a_gpu(monkeypatch):
    """Where the host knows no number: ignored rows stay, a tile is one product, and there is a short way."""
    if "triton" not in SERVING:
        pytest.skip("no Triton here, or a GPU")
    take_in_turn("triton", monkeypatch)
    for module in (head, tiles, device_linear):
        monkeypatch.setattr(module, "at_hand", lambda tensor: False)
    report = xent.audit("xent-linear", cases=[name for name in HEADS if name not in INTERPRETED_FOR_LONG])
    assert report.passed, str(report)
    assert len(report.judged) == len(report.outcomes)


@pytest.mark.parametrize("name", ["native", pytest.param("reference", marks=LONG)])
def test_the_head_passes_the_whole_audit(name, monkeypatch):
    if name not in SERVING:
        pytest.skip(f"{name} does not serve the CPU here")
    take_in_turn(name, monkeypatch)
    report = xent.audit("xent-linear")
    assert report.passed, str(report)
