"""`xent.bench`: the implementations installed here, side by side, on the shapes that one names."""

import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

import torch

from .. import __version__
from ..errors import DeviceError, LoadError, OptionError
from .cases import MEASURES, Case, cases_of
from .contestants import Contestant, contestants
from .machine import machine
from .progress import shown
from .results import Measurements, Row
from .row import row_of

Shapes = str | tuple[int, ...] | Iterable[str | tuple[int, ...]]
Work = tuple[Case, list[Contestant]]


def bench(
    shapes: Shapes | None = None,
    *,
    dtype: str | torch.dtype = "float32",
    device: str = "cpu",
    task: str = "loss",
    implementations: Iterable[str] | None = None,
    measures: Iterable[str] = MEASURES,
    rounds: int = 5,
    threads: int | None = None,
    progress: bool = False,
) -> Measurements:
    """How long the implementations installed here take on these shapes, how much memory, and how far off they are.

    Each of `rounds` rounds times all implementations in turn, by :class:`torch.utils.benchmark.Timer` (on a GPU by
    Triton's ``do_bench``): the forward pass without a gradient, and a training step, forward and backward. The floor is
    measured in the same rounds: a read of the logits, a copy of them, or the bare matrix products of a head. On Linux
    a round whose threads waited for cores is made up for by another one. Besides, of each implementation, the
    peak memory of a step in a fresh process, and the error of a row's loss and gradient.

    Args:
        shapes: ``"4096x32000"`` or ``(4096, 32000)``, one or several: N x V, N x V x places, and N x D x V (rows,
            width, classes) with ``task="linear"``. None: a few from ten classes to 128,256.
        dtype: float64, float32, float16 or bfloat16, or fp64, fp32, fp16, bf16.
        device: ``"cpu"`` or ``"cuda"``.
        task: ``"loss"``; the loss with an option, ``"smoothing"``, ``"weights"``, ``"probabilities"``, ``"ignored"``;
            ``"softmax"``, ``"log_softmax"``; or ``"linear"``, the loss of a linear head.
        implementations: names that ``xent audit`` knows (``"xent"``, ``"torch"``, ``"torch-compile"``, ``"liger"``,
            ...), or functions as ``"package.module:object"``, either with a label, ``"mine=package.module:object"``.
            None: all that there are for the task. One that is not installed stays in the table, with the reason.
        measures: some of ``"forward"``, ``"step"``, ``"peak"`` and ``"error"``.
        rounds: at least 1. A job takes part in as many as fit into 15 seconds.
        threads: of torch, here and in the fresh processes; as they are where None.
        progress: tell stderr how far it is.

    Raises:
        ShapeError: a shape that the task has not.
        OptionError: any other argument outside what it can be.
        DeviceError: there is no such device here.
        LoadError: none of the implementations can be loaded.

    Example::

        >>> found = xent.bench("64x10", implementations=["xent", "torch"], measures=["forward", "step"], rounds=1)
        >>> [entry.name for entry in found.rows[0].entries]
        ['xent', 'torch']
        >>> sorted(found.rows[0].entries[0].times)
        ['forward', 'step']

    Times are in milliseconds, peaks in MB (10^6 bytes) beyond the inputs, errors in ulp. torch has no twin.
    """
    cases, sides = cases_of(shapes, dtype, device, task, measures), contestants(implementations, task)
    return measure([(case, sides) for case in cases], rounds, threads, progress)


def measure(
    work: Iterable[Work],
    rounds: int = 5,
    threads: int | None = None,
    progress: bool = False,
    each: Callable[[Row], object] = lambda row: None,
) -> Measurements:
    """Any cases, each with those who take part in it; `each` is told every row as soon as it is there."""
    work = list(work)
    _possible(work, rounds, threads)
    place, rows = machine(work[0][0].device), []
    with _torch_threads(threads), shown(len(work), progress) as told:
        for case, sides in work:
            told.begin(case.label)
            rows.append(row_of(case, sides, rounds, told))
            each(rows[-1])
        used = torch.get_num_threads()
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Measurements(now, place, _versions(work), used, rounds, tuple(rows))


def _possible(work: list[Work], rounds: int, threads: int | None) -> None:
    for name, value in (("rounds", rounds), ("threads", threads)):
        if value is not None and value < 1:
            raise OptionError(f"{name} = {value}: expected at least 1.")
    if any(case.device == "cuda" for case, _ in work) and not torch.cuda.is_available():
        raise DeviceError("device = 'cuda': torch sees no GPU here; `xent info` says what it sees.")
    reasons = [(side.label, side.refusal(case)) for case, sides in work for side in sides]
    if all(reason is not None for _, reason in reasons):
        told = "".join(f"\n  {label}: {reason}" for label, reason in dict.fromkeys(reasons))
        raise LoadError(f"none of the implementations can be measured here:{told}")


@contextmanager
def _torch_threads(wanted: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _versions(work: list[Work]) -> dict[str, str]:
    """Of Python, torch, xent, and the packages of everybody who took part."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "xent": __version__}
    for side in (side for _, sides in work for side in sides):
        if side.implementation is not None and side.implementation.missing() is None:
            found |= {name: version for name, version in side.implementation.versions().items() if name not in found}
    return found
