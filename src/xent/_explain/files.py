"""Files -> logits and target. Nothing is ever unpickled.

numpy and safetensors are asked for here only, when a file needs them.
"""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError

NAMES = {
    "logits": ("logits", "input", "inputs", "output", "outputs", "scores", "x"),
    "target": ("target", "targets", "label", "labels", "y"),
    "weight": ("weight", "class_weight"),
}
"""Names under which each array is looked for, the first found wins."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file held."""

    logits: Tensor
    target: Tensor
    weight: Tensor | None = None
    labels: tuple[str, ...] | None = None


def read(path: Path, target: Path | None = None, target_column: str | None = None) -> Stored:
    """Logits and target from one file, or logits from `path` and the target from its own file.

    ``.npz`` and ``.safetensors`` hold named arrays (`NAMES`), ``.npy`` one array, ``.csv`` a row a line with
    the label in the column named `target_column`, else in one of `NAMES`, else in the last one.

    Raises:
        FileError: the file cannot be opened, is not what its name says, or lacks an array.
    """
    if path.suffix == ".csv":
        if target is None:
            return _csv(path, target_column)
        logits, names = _csv_logits(path)
        return Stored(logits, _array(target, "target"), labels=names)
    arrays = _arrays(path)
    wanted = arrays if target is None else {**arrays, "target": _array(target, "target")}
    logits = _find(arrays, "logits", path)
    return Stored(logits, _find(wanted, "target", path), _optional(arrays, "weight"))


def names(path: Path) -> tuple[str, ...]:
    """Class names: a JSON list, or one a line."""
    try:
        text = path.read_text(encoding="utf-8")
        return tuple(map(str, json.loads(text))) if path.suffix == ".json" else tuple(text.splitlines())
    except (OSError, ValueError) as reason:
        raise FileError(f"{path}: cannot be read as class names ({reason}).") from reason


def _array(path: Path, kind: str) -> Tensor:
    """The one array of a file, or the one named after its kind."""
    if path.suffix == ".csv":
        table, _ = _csv_logits(path)
        return table.reshape(-1).long() if table.shape[1] == 1 else table
    arrays = _arrays(path)
    return next(iter(arrays.values())) if len(arrays) == 1 else _find(arrays, kind, path)


def _arrays(path: Path) -> dict[str, Tensor]:
    reader = READERS.get(path.suffix)
    if reader is None:
        raise FileError(f"{path}: {path.suffix or 'no suffix'} is not a format read here; expected {_formats()}.")
    try:
        return reader(path)
    except FileError:
        raise
    except OSError as reason:
        raise FileError(f"{path}: {reason.strerror or reason}.") from reason
    except Exception as reason:  # a damaged file raises whatever its parser stumbles on
        raise FileError(f"{path}: not a readable {path.suffix} file ({reason}).") from reason


def _npy(path: Path) -> dict[str, Tensor]:
    return {"logits": _tensor(_numpy().load(path, allow_pickle=False, mmap_mode="c"))}


def _npz(path: Path) -> dict[str, Tensor]:
    with _numpy().load(path, allow_pickle=False) as archive:
        return {name: _tensor(archive[name]) for name in archive.files}


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as reason:
        raise _missing("safetensors") from reason
    return load_file(path)


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _csv(path: Path, target_column: str | None) -> Stored:
    head, lines = _lines(path)
    at = _target_at(path, head, target_column, len(lines[0]))
    names = None if head is None else tuple(name for j, name in enumerate(head) if j != at)
    logits = [[_float(cell, path) for j, cell in enumerate(line) if j != at] for line in lines]
    target = [_label(line[at], names, path) for line in lines]
    return Stored(torch.tensor(logits), torch.tensor(target), labels=names)


def _csv_logits(path: Path) -> tuple[Tensor, tuple[str, ...] | None]:
    head, lines = _lines(path)
    return torch.tensor([[_float(cell, path) for cell in line] for line in lines]), tuple(head) if head else None


def _lines(path: Path) -> tuple[list[str] | None, list[list[str]]]:
    """The header, if the first line is one, and the other lines."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file) if line]
    except OSError as reason:
        raise FileError(f"{path}: {reason.strerror or reason}.") from reason
    except (csv.Error, UnicodeDecodeError) as reason:
        raise FileError(f"{path}: not a readable .csv file ({reason}).") from reason
    head = lines.pop(0) if lines and not all(map(_is_number, lines[0])) else None
    if not lines:
        raise FileError(f"{path}: there are no rows in it.")
    width = len(head or lines[0])
    for at, line in enumerate(lines, 2 if head else 1):
        if len(line) != width:
            raise FileError(f"{path}: line {at} has {len(line)} columns, the first {width}.")
    return head, lines


def _target_at(path: Path, head: list[str] | None, wanted: str | None, width: int) -> int:
    if wanted is not None:
        if head is not None and wanted in head:
            return head.index(wanted)
        if wanted.lstrip("-").isdigit() and -width <= int(wanted) < width:
            return int(wanted) % width
        raise FileError(f"{path}: no column {wanted!r}; the columns are {', '.join(head or map(str, range(width)))}.")
    return next((j for j, name in enumerate(head or []) if name.lower() in NAMES["target"]), width - 1)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _float(cell: str, path: Path) -> float:
    if not _is_number(cell):
        raise FileError(f"{path}: {cell!r} is not a number.")
    return float(cell)


def _label(cell: str, names: tuple[str, ...] | None, path: Path) -> int:
    """A class number, or the name of one of the columns of logits."""
    if names is not None and cell in names:
        return names.index(cell)
    if _is_number(cell) and float(cell).is_integer():
        return int(float(cell))
    raise FileError(f"{path}: {cell!r} is not a class; expected a whole number or the name of a column.")


def _find(arrays: Mapping[str, Tensor], kind: str, path: Path) -> Tensor:
    found = _optional(arrays, kind)
    if found is None:
        other = "; a .npy file holds one array, give the target its own file" if path.suffix == ".npy" else ""
        raise FileError(
            f"{path}: no {kind} in it, only {', '.join(arrays) or 'nothing'}{other}.\n"
            f"  Name it one of {', '.join(NAMES[kind])}."
        )
    return found


def _optional(arrays: Mapping[str, Tensor], kind: str) -> Tensor | None:
    return next((arrays[name] for name in NAMES[kind] if name in arrays), None)


def _numpy() -> Any:
    try:
        import numpy
    except ModuleNotFoundError as reason:
        raise _missing("numpy") from reason
    return numpy


def _missing(package: str) -> FileError:
    return FileError(f'{package} is needed to read this file.\n  pip install "xent[files]"')


def _formats() -> str:
    return ", ".join([*READERS, ".csv"])


READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
}
