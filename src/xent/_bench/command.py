"""What `xent bench` does with its options; the words of the command line are in `__main__`."""

import sys
from pathlib import Path
from typing import Any

from ..errors import FileError, OptionError
from .compare import Comparison
from .render.plot import possible
from .results import Measurements, as_json
from .run import bench

PIPE = Path("-")


def asked_for(kept: Path | None, plot: Path | None, compare: bool) -> None:
    """Whether the files can be written, before anything is measured.

    Raises:
        OptionError: a picture whose suffix is neither .svg nor .png, or one of a comparison.
        FileError: there is no such folder, or no matplotlib for .png.
    """
    if plot is not None and compare:
        raise OptionError("--plot draws what is measured, --compare measures nothing.")
    if plot is not None:
        possible(plot)
    if kept is not None and not kept.parent.is_dir():
        raise FileError(f"{kept}: there is no folder {kept.parent}.")


def measured(
    shapes: tuple[str, ...],
    linear: bool,
    task: str,
    implementations: str | None,
    measures: str | None,
    kept: Path | None,
    **options: Any,
) -> Measurements:
    """Of options as they are written. Nothing is told on the way where stdout is a pipe that takes JSON."""
    if linear and task not in ("loss", "linear"):
        raise OptionError(f"--linear is a task of its own, and so is {task}.")
    if measures is not None:
        options["measures"] = _listed(measures)
    return bench(
        list(shapes),
        task="linear" if linear else task,
        implementations=None if implementations is None else _listed(implementations),
        progress=kept != PIPE or sys.stdout.isatty(),
        **options,
    )


def compared(before: Path, after: Path) -> Comparison:
    return Measurements.read(before).against(Measurements.read(after))


def shown(found: Measurements | Comparison, kept: Path | None, markdown: bool = False) -> str:
    """What goes to stdout: the tables, or JSON alone."""
    if kept == PIPE:
        return as_json(found.to_dict()).rstrip("\n")
    return found.to_markdown() if markdown and isinstance(found, Measurements) else str(found)


def keep(found: Measurements | Comparison, kept: Path | None, plot: Path | None) -> None:
    """The files that were asked for."""
    if kept is not None and kept != PIPE:
        kept.write_text(as_json(found.to_dict()), encoding="utf-8")
    if plot is not None and isinstance(found, Measurements):
        found.plot(plot)


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]
