"""Which picture a file's name asks for."""

from importlib.util import find_spec
from pathlib import Path

from ...errors import FileError, OptionError
from ..results import Measurements
from .figure import figure
from .png import png
from .svg import svg


def write(measurements: Measurements, path: Path) -> None:
    possible(path)
    drawn = figure(measurements)
    if path.suffix == ".svg":
        path.write_text(svg(drawn), encoding="utf-8")
    else:
        png(drawn, path)


def possible(path: Path) -> None:
    """Asked before anything is measured.

    Raises:
        OptionError: the suffix is not .svg or .png.
        FileError: .png without matplotlib; there is no such folder.
    """
    if path.suffix not in (".svg", ".png"):
        raise OptionError(f"{path}: {path.suffix or 'no suffix'} is not a format drawn here; expected .svg or .png.")
    if path.suffix == ".png" and find_spec("matplotlib") is None:
        cure = 'pip install "xent[bench]", or write .svg, which needs nothing'
        raise FileError(f"{path}: .png is drawn by matplotlib, which is not installed: {cure}.")
    if not path.parent.is_dir():
        raise FileError(f"{path}: there is no folder {path.parent}.")
