"""How far a run is, on stderr: a bar where tqdm is installed and somebody watches, a line a case otherwise."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    def begin(self, case: str) -> object:
        """The next case begins."""
        ...

    def at(self, stage: str) -> object:
        """What of it is being done."""
        ...


class Silence:
    def begin(self, case: str) -> None: ...
    def at(self, stage: str) -> None: ...


class Lines:
    def __init__(self, cases: int) -> None:
        self.cases, self.begun = cases, 0

    def begin(self, case: str) -> None:
        self.begun += 1
        print(f"[{self.begun}/{self.cases}] {case}", file=sys.stderr, flush=True)

    def at(self, stage: str) -> None: ...


class Bar:
    def __init__(self, bar) -> None:
        self.bar, self.begun, self.case = bar, 0, ""

    def begin(self, case: str) -> None:
        self.bar.update(1 if self.begun else 0)
        self.begun, self.case = self.begun + 1, case
        self.at("")

    def at(self, stage: str) -> None:
        self.bar.set_description_str(f"{self.case} {stage}".rstrip())


@contextmanager
def shown(cases: int, wanted: bool = True) -> Iterator[Progress]:
    """What tells of so many cases, as long as the block runs."""
    if not wanted:
        yield Silence()
        return
    try:
        from tqdm import tqdm
    except ImportError:
        tqdm = None
    if tqdm is None or not sys.stderr.isatty():
        yield Lines(cases)
        return
    with tqdm(total=cases, leave=False, file=sys.stderr) as bar:
        yield Bar(bar)
