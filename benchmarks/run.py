"""The fixed set of benchmarks/cases.py, against its goals, through `xent bench`.

    python benchmarks/run.py                        all of it, into benchmarks/results/cpu.json and linear_cpu.json
    python benchmarks/run.py linear_cpu             the linear heads alone
    python benchmarks/run.py --only 65536x10        one shape; or "forward", "loss 4096x1000 .*", memory
    python benchmarks/run.py --only "train .*" --rounds 1 --json some.json

The JSON is that of `xent bench --json` (docs/bench.md); "cases": what each row is called here; and "goals": of each
goal the case, the ratio, its median, min and max over the rounds, "at least" or "at most", met; stretch, stretch
met where there is a further goal; busy.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from cases import CASES, HEADS, MEMORY, Benchmark
from goals import summary, verdicts, words
from xent._bench.contestants import contestants
from xent._bench.render.words import digits
from xent._bench.results import Row, as_json
from xent._bench.run import measure

RESULTS = Path(__file__).parent / "results"
SETS = {"cpu": (CASES + MEMORY, 5), "linear_cpu": (HEADS, 3)}
"""Name of a set and of its file -> its benchmarks and how many rounds they take."""


def run(benchmarks: list[Benchmark], rounds: int) -> dict:
    """The result; a line of each row is printed as soon as it is there."""
    told, found = iter(benchmarks), []

    def each(row: Row) -> None:
        benchmark = next(told)
        found.extend(reached := verdicts(benchmark.label, benchmark.goals, row))
        print("  ".join([f"{benchmark.label:<34}", *times_of(row), *map(words, reached)]), flush=True)

    began = perf_counter()
    work = [(one.case, contestants(one.names, one.case.task)) for one in benchmarks]
    measured = measure(work, rounds, progress=True, each=each)
    print(f"{summary(found)}; {perf_counter() - began:.0f} seconds")
    return {**measured.to_dict(), "cases": [one.label for one in benchmarks], "goals": found}


def times_of(row: Row) -> Iterator[str]:
    for entry in row.entries:
        yield from (f"{entry.name} {digits(times.median)} ms" for times in entry.times.values())
        if entry.peak is not None:
            yield f"{entry.name} {digits(entry.peak)} MB"
        if entry.status != "measured":
            yield f"{entry.name}: {entry.status}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", metavar="SET", nargs="*", default=list(SETS), help="cpu, linear_cpu; otherwise both")
    parser.add_argument("--only", metavar="PATTERN", help="rows with these words in 'what shape dtype'")
    parser.add_argument("--rounds", type=int, help="otherwise 5, and 3 of linear heads")
    parser.add_argument("--json", type=Path, help="one file for all; otherwise results/, or nothing with --only")
    args = parser.parse_args()
    for name in args.sets:
        if name not in SETS:
            parser.error(f"{name} is no set: {', '.join(SETS)}")
    return args


def main() -> None:
    args = arguments()
    wanted = {
        name: ([one for one in benchmarks if args.only is None or one.is_in(args.only)], args.rounds or rounds)
        for name, (benchmarks, rounds) in SETS.items()
        if name in args.sets
    }
    if args.json is not None:
        every = [one for benchmarks, _ in wanted.values() for one in benchmarks]
        wanted = {args.json: (every, args.rounds or 5)}
    if not any(benchmarks for benchmarks, _ in wanted.values()):
        raise SystemExit(f"no row has the words {args.only!r}; for example: {CASES[0].label}")
    for name, (benchmarks, rounds) in wanted.items():
        if benchmarks:
            document = as_json(run(benchmarks, rounds))
            if args.only is None or args.json is not None:
                path = args.json or RESULTS / f"{name}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(document)
                print(f"written to {path.name}")


if __name__ == "__main__":
    main()
