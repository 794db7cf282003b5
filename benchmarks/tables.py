"""Markdown from the stored results, in its place in the README and on the pages of the CPU and the linear head.

python benchmarks/tables.py                     all tables
python benchmarks/tables.py --write             between their marks
python benchmarks/tables.py --markdown results/cpu.json     every row of a result with its goals
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from goals import kept
from xent._bench.clock import BUSY
from xent._bench.render.markdown import table
from xent._bench.render.words import digits, where
from xent._bench.results import Measurements, Row

HERE = Path(__file__).parent
RESULTS = HERE / "results"

SHOWN = (
    ("loss", (2048, 32000), "float32"),
    ("loss", (2048, 32000), "bfloat16"),
    ("loss", (4096, 1000), "float32"),
    ("loss", (65536, 10), "float32"),
    ("loss", (64, 10), "float32"),
)
"""The rows of the README: what a language model, an image classifier and a digit classifier have, and a small batch."""
PEAK = (1024, 32000)
HEAD = (2048, 512, 32000)


def proof() -> str:
    """Right and wrong answers, as examples/proof.py stored them."""
    stored = json.loads((RESULTS / "proof.json").read_text(encoding="utf-8"))
    version = ".".join(stored["versions"]["torch"].split(".")[:2])
    rows = [[row[name] for name in ("what", "true", "torch", "xent")] for row in stored["rows"]]
    return table(["", "true", f"torch {version}", "xent"], rows)


def speed() -> str:
    """Times and peaks, as benchmarks/run.py stored them, and on what; no time of a busy machine."""
    found, heads = (Measurements.read(RESULTS / name) for name in ("cpu.json", "linear_cpu.json"))
    times = [(_row(found, *shown, "step"), "xent") for shown in SHOWN]
    times.append((_row(heads, "linear", HEAD, "float32", "step"), "xent-linear"))
    lines = [_time(row, ours) for row, ours in times if row.waited <= BUSY]
    lines.append(_peak(_row(found, "loss", PEAK, "float32", "peak"), "xent", "peak beyond the logits, MB"))
    lines.append(_peak(_row(heads, "linear", HEAD, "float32", "peak"), "xent-linear", "peak beyond gradients, MB"))
    columns = ["forward and backward, ms", "torch", "torch.compile", "xent", "torch / xent"]
    return "\n\n".join([table(columns, lines), _grounds(found, heads)])


def _row(found: Measurements, task: str, shape: tuple[int, ...], dtype: str, measure: str) -> Row:
    return next(
        row
        for row in found.rows
        if (row.case.task, row.case.shape, row.case.dtype) == (task, shape, dtype) and measure in row.case.measures
    )


def _time(row: Row, ours: str) -> list[str]:
    times = [row.times(name, "step") for name in ("torch", "torch-compile", ours)]
    ratio = row.ratio("torch", ours, "step")
    medians = [digits(one.median if one else None) for one in times]
    return [_named(row), *medians, digits(ratio.median if ratio else None)]


def _peak(row: Row, ours: str, words: str) -> list[str]:
    """Of a head beyond its gradients too, which a step leaves behind."""
    less = kept(row) if row.case.task == "linear" else 0.0
    theirs, mine = (entry.peak - less for name in ("torch", ours) if (entry := row.entry(name)) and entry.peak)
    return [f"{_named(row)}: {words}", digits(theirs), digits(None), digits(mine), digits(theirs / mine)]


def _named(row: Row) -> str:
    kind = "linear head " if row.case.task == "linear" else ""
    return f"{kind}{' x '.join(f'{size:,}' for size in row.case.shape)} {row.case.dtype}"


def _grounds(*found: Measurements) -> str:
    """Once where both were measured on the same day and machine."""
    places = {
        f"{one.machine['processor']} ({one.machine['instructions']}), {one.threads} threads, "
        f"torch {one.versions['torch']}, {one.date[:10]}": None
        for one in found
    }
    return f"{'; '.join(places)}. Medians of interleaved rounds; `make bench` measures them again."


def goals(path: Path) -> str:
    """A line a case: milliseconds or MB, and every ratio with its goal in parentheses, bold where it is met."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    found = Measurements.from_dict(stored)
    ratios = list({verdict["ratio"]: None for verdict in stored["goals"]})
    judged = {(verdict["case"], verdict["ratio"]): _judged(verdict) for verdict in stored["goals"]}
    rows = [
        [case, _ours(row), *(judged.get((case, ratio), "") for ratio in ratios)]
        for case, row in zip(stored["cases"], found.rows, strict=True)
    ]
    return table(["", "xent", *ratios], rows) + f"\n\n{where(found)}"


def _ours(row: Row) -> str:
    entry = row.entries[0]
    times = [f"{digits(one.median)} ms" for one in entry.times.values()]
    return ", ".join(times + ([f"{digits(entry.peak)} MB"] if entry.peak is not None else []))


def _judged(verdict: dict[str, Any]) -> str:
    bound = verdict.get("at least", verdict.get("at most"))
    words = f"{digits(verdict['median'])} ({bound:g})"
    return f"**{words}**" if verdict["met"] else words


TABLES: dict[str, Callable[[], str]] = {
    "proof": proof,
    "speed": speed,
    "cpu": lambda: goals(RESULTS / "cpu.json"),
    "linear": lambda: goals(RESULTS / "linear_cpu.json"),
}
PAGES = {
    HERE.parent / "README.md": ("proof", "speed"),
    HERE.parent / "docs" / "design" / "cpu.md": ("cpu",),
    HERE.parent / "docs" / "design" / "linear.md": ("linear",),
}
"""Page -> the tables between marks in it."""


def placed(path: Path, text: str) -> str:
    """A page with its tables between their marks."""
    for name in PAGES[path]:
        begin, end = (f"<!-- {name}:{part} -->" for part in ("begin", "end"))
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{TABLES[name]()}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into the pages")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="every row of a result with its goals")
    args = parser.parse_args()
    if args.markdown:
        print(goals(args.markdown))
    elif args.write:
        for page in PAGES:
            page.write_text(placed(page, page.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(of() for of in TABLES.values()))


if __name__ == "__main__":
    main()
