"""xent passes its own audit on every backend that serves the CPU."""

import pytest

import xent
from xent import backends
from xent._audit.cases import CASES

from ..conftest import SERVING

LONG = pytest.mark.long
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


@pytest.mark.parametrize("name", ["native", pytest.param("reference", marks=LONG)])
def test_the_head_passes_the_whole_audit(name, monkeypatch):
    if name not in SERVING:
        pytest.skip(f"{name} does not serve the CPU here")
    monkeypatch.setattr(backends, "TABLE", (SERVING[name],))
    report = xent.audit("xent-linear")
    assert report.passed, str(report)
