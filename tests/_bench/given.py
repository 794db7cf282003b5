"""Measurements that nobody measured: the same in every run."""

from xent._bench.cases import Case
from xent._bench.results import MEASURED, Entry, Error, Floor, Measurements, Row, Times

MACHINE = {"processor": "A Processor", "instructions": "AVX2", "architecture": "x86_64", "cores": 2, "gpu": None}


def measurements(scale=1.0, machine=MACHINE, waited=0.0):
    """Two implementations on three shapes, one that is not installed; the first takes `scale` times as long."""
    rows = []
    for at, (count, classes) in enumerate(((4096, 1000), (65536, 10), (512, 32000))):
        case = Case("loss", (count, classes), "float32")
        ours, theirs = Times((2.0 * scale, 3.0 * scale, 2.5 * scale)), Times((20.0 + at, 30.0, None))
        entries = (
            Entry(
                "xent", "0.1.0", MEASURED, {"forward": ours, "step": ours}, 16.5, (Error("random", 0.25, float("inf")),)
            ),
            Entry(
                "torch", "2.13.0", MEASURED, {"forward": theirs, "step": theirs}, 49.0, (Error("random", 2.0, 11.5),)
            ),
            Entry("liger", None, "liger-kernel is not installed", {}),
        )
        floor = Floor("copy with cat", Times((1.0, 1.0, 2.0)))
        rows.append(Row(case, entries, {"step": floor}, waited))
    versions = {"python": "3.11.7", "torch": "2.13.0", "xent": "0.1.0"}
    return Measurements("2026-11-01T10:00:00+00:00", machine, versions, 2, 3, tuple(rows))
