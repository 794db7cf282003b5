"""Times in interleaved rounds, their ratios, and what they say of the goals."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch.utils.benchmark import Timer

from cases import NO_GOALS, Goals
from jobs import Job

# Seconds of one implementation in one round. A call that is longer is made twice, and the second counts.
SECONDS = 0.05

# A round whose threads waited longer for cores, in parts of its time, was measured on a busy machine.
BUSY = 0.05

Times = dict[str, list[float]]


def interleaved(jobs: dict[str, Job], rounds: int) -> tuple[Times, float]:
    """Milliseconds of each job in each round, where a round runs all of them in turn; and what the rounds waited.

    Busy rounds are made up for by others, as many again at most; the quietest count.
    """
    threads = torch.get_num_threads()
    timers = {name: Timer("job()", globals={"job": job}, num_threads=threads) for name, job in jobs.items()}
    for job in jobs.values():
        job()
    done = [one_round(timers) for _ in range(rounds)]
    while sum(waited <= BUSY for waited, _ in done) < rounds and len(done) < 2 * rounds:
        done.append(one_round(timers))
    quietest = sorted(done, key=lambda one: one[0])[:rounds]
    return {name: [times[name] for _, times in quietest] for name in jobs}, max(waited for waited, _ in quietest)


def one_round(timers: dict[str, Timer]) -> tuple[float, dict[str, float]]:
    """What its threads waited for cores, in parts of its time; and the milliseconds of each job."""
    start, before = perf_counter(), seconds_waited()
    times = {name: timer.blocked_autorange(min_run_time=SECONDS).median * 1e3 for name, timer in timers.items()}
    return (seconds_waited() - before) / (perf_counter() - start), times


def seconds_waited() -> float:
    """Seconds for which threads of this process wanted a core that others had, on Linux; 0 elsewhere.

    One thread that waits holds up every parallel loop: on a busy machine 64 x 10 took torch 26 ms instead of 0.04.
    """
    seconds = 0.0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            seconds += int(file.read_text().split()[1]) / 1e9
    return seconds


def with_one_floor(times: Times) -> tuple[Times, str]:
    """Of the calls "copy with ..." or "read with ..." only the fastest, as "copy" or "read"; and which it was."""
    ways = [name for name in times if " with " in name]
    fastest = min(ways, key=lambda name: median(times[name]))
    kept = {name: values for name, values in times.items() if name not in ways}
    return kept | {fastest.split()[0]: times[fastest]}, fastest


def spread(values: list[float]) -> dict[str, float]:
    """Four digits, which is more than they hold."""
    return {name: float(f"{of(values):.4g}") for name, of in (("median", median), ("min", min), ("max", max))}


def ratios(times: Times, goals: Goals, stretch: Goals) -> dict[str, dict[str, object]]:
    """By name ("torch / xent"): the spread of the ratios of each round, the goal, and whether the median meets it."""
    floor = "read" if "read" in times else "copy"
    pairs = {"torch": ("torch", "xent"), "compile": ("compile", "xent"), "floor": ("xent", floor)}
    found = {}
    for field, (above, below) in pairs.items():
        if above in times:
            values = [a / b for a, b in zip(times[above], times[below], strict=True)]
            verdict = judged(median(values), field, goals, stretch)
            found[f"{above} / {below}"] = {**spread(values), **verdict}
    return found


def judged(value: float, field: str, goals: Goals, stretch: Goals = NO_GOALS) -> dict[str, object]:
    """The goal of a ratio and whether the value meets it; nothing where there is none."""
    bound = "at most" if field == "floor" else "at least"
    goal, further = getattr(goals, field), getattr(stretch, field)
    if goal is None:
        return {}
    verdict = {bound: goal, "met": meets(value, bound, goal)}
    return verdict if further is None else verdict | {"stretch": further, "stretch met": meets(value, bound, further)}


def meets(value: float, bound: str, goal: float) -> bool:
    return value <= goal if bound == "at most" else value >= goal


def compiled_loss() -> tuple[Callable[..., torch.Tensor] | None, str]:
    """torch.compile of torch's loss after one call of it, or None; and a word on which."""
    loss = torch.compile(torch.nn.functional.cross_entropy, dynamic=False)
    try:
        loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    except Exception as error:  # whatever Inductor meets on its way to a compiler
        return None, f"not available: {(str(error).strip() or repr(error)).splitlines()[0]}"
    return loss, "measured"
