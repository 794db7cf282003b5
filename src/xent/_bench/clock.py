"""Milliseconds in interleaved rounds, by torch's benchmark timer, or by Triton's on a GPU.

Rounds, because a machine that slows down for a second then slows down all; interleaved, so that a ratio is one of
neighbours in time.
"""

import timeit
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch
from torch.utils.benchmark import Timer, timer

from .results import Times

Job = Callable[[], object]
Clock = Callable[[], float]
"""Milliseconds of a job, each time it is asked."""

SECONDS = 0.05
"""Of one job in one round. A call that is longer is made twice, and the second counts."""
LONG = 1.0
"""Seconds of a call that is made once a round, since it warms up by itself."""
TURN = 15.0
"""Seconds that the rounds of one job may take; a longer job is left out of the later ones."""
BUSY = 0.05
"""A round whose threads waited longer for cores, in parts of its time, was measured on a busy machine."""


class Found(NamedTuple):
    times: dict[str, Times]
    waited: float
    """What the worst of the rounds waited for cores, in parts of its time."""
    failed: dict[str, str]
    """Jobs that raised when they were first called, and what."""


class Round(NamedTuple):
    waited: float
    """For cores, in parts of its time."""
    ms: dict[str, float]


def interleaved(
    jobs: dict[str, Job],
    rounds: int,
    device: str,
    compiled: Collection[str] = (),
    tell: Callable[[int], object] = lambda done: None,
) -> Found:
    """The times of each job, where a round runs all of them in turn. Those in `compiled` compile when first called.

    Busy rounds are made up for by others, as many again at most; the quietest count.
    """
    first, failed = first_calls(jobs, compiled)
    turns = {name: turns_of(seconds, rounds) for name, seconds in first.items()}
    clocks = {name: _clock(jobs[name], seconds, device) for name, seconds in first.items()}
    done: list[Round] = []
    while len(done) < rounds or (_quiet(done) < rounds and len(done) < 2 * rounds):
        done.append(one_round({name: clock for name, clock in clocks.items() if len(done) < turns[name]}))
        tell(len(done))
    times, waited = quietest(done, rounds)
    unrepeated = {name: Times((seconds * 1e3,)) for name, seconds in first.items() if turns[name] == 0}
    return Found({name: unrepeated.get(name) or times[name] for name in first}, waited, failed)


def first_calls(jobs: dict[str, Job], compiled: Collection[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of the call that warms a job up, after the one that compiles it; and the words of those that raise."""
    seconds, failed = {}, {}
    for name, job in jobs.items():
        try:
            if name in compiled:
                job()
            seconds[name] = once(job)
        except Exception as error:  # a peer may raise anything
            failed[name] = in_a_line(error)
    return seconds, failed


def once(job: Job) -> float:
    """Seconds of a single call, by the clock of torch's timer, which waits for a GPU; `Timer.timeit(1)` makes three."""
    return timeit.Timer("job()", timer=timer, globals={"job": job}).timeit(1)


def in_a_line(error: Exception) -> str:
    words = (str(error).strip() or "no words").splitlines()[0]
    return f"{type(error).__name__}: {words}"[:160]


def turns_of(seconds: float, rounds: int) -> int:
    """In how many rounds a job of so many seconds takes part: 2 * rounds is all, 0 that its first call counts."""
    calls = 1 if seconds >= LONG else 2
    if calls * seconds * rounds <= TURN:
        return 2 * rounds
    return int(TURN / (calls * seconds))


def one_round(clocks: dict[str, Clock]) -> Round:
    start, before = perf_counter(), seconds_waited()
    ms = {name: clock() for name, clock in clocks.items()}
    return Round((seconds_waited() - before) / (perf_counter() - start), ms)


def quietest(done: list[Round], rounds: int) -> tuple[dict[str, Times], float]:
    """The times of the rounds that waited least, and the most that one of them did.

    A job that none of those rounds held keeps the times that it has, in rounds of its own.
    """
    kept = sorted(done, key=lambda one: one.waited)[:rounds]
    times = {}
    for name in done[0].ms:
        values = [one.ms.get(name) for one in kept]
        if not any(values):
            values += [one.ms[name] for one in done if name in one.ms]
        times[name] = Times(tuple(values))
    return times, max(one.waited for one in kept)


def seconds_waited() -> float:
    """Seconds for which threads of this process wanted a core that others had, on Linux; 0 elsewhere.

    One thread that waits holds up every parallel loop: on a busy machine 64 x 10 took torch 26 ms instead of 0.04.
    """
    seconds = 0.0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            seconds += int(file.read_text().split()[1]) / 1e9
    return seconds


def _quiet(done: list[Round]) -> int:
    return sum(one.waited <= BUSY for one in done)


def _clock(job: Job, seconds: float, device: str) -> Clock:
    """Torch's timer, which waits for a GPU too; there Triton's where it is, whose calls each find an empty cache."""
    if seconds >= LONG:
        return lambda: once(job) * 1e3
    if device == "cuda":
        with suppress(ImportError):
            from triton.testing import do_bench

            return lambda: float(do_bench(job, return_mode="median"))  # pyright: ignore
    timed = Timer("job()", globals={"job": job}, num_threads=torch.get_num_threads())
    return lambda: timed.blocked_autorange(min_run_time=SECONDS).median * 1e3
