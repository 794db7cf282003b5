"""What the pages link to in torch's and Python's documentation, as inventories that intersphinx reads.

Nothing is fetched: the few names that the docstrings and pages mention are listed here with the page that has them, and
`write` makes the files from the lists each time the site is built. A name that is missing here is a warning of the
build, which is nitpicky; `tests/test_documents.py` asks that each one exists.
"""

import zlib
from pathlib import Path

ADDRESSES = {"torch": "https://docs.pytorch.org/docs/stable", "python": "https://docs.python.org/3"}

GENERATED = "generated/{name}.html#{name}"
"""torch's page of one function or class."""

NAMES = {
    "torch": {
        ("function", GENERATED): (
            "torch.nn.functional.softmax torch.nn.functional.log_softmax torch.nn.functional.nll_loss "
            "torch.nn.functional.cross_entropy torch.nn.functional.linear torch.nn.functional.linear_cross_entropy "
            "torch.compile"
        ),
        ("class", GENERATED): (
            "torch.nn.Softmax torch.nn.LogSoftmax torch.nn.NLLLoss torch.nn.CrossEntropyLoss "
            "torch.nn.LinearCrossEntropyLoss"
        ),
        ("class", "tensors.html#{name}"): "torch.Tensor",
        ("class", "tensor_attributes.html#{name}"): "torch.dtype torch.device",
        ("class", "benchmark_utils.html#{name}"): "torch.utils.benchmark.Timer",
        ("module", "func.html"): "torch.func",
    },
    "python": {
        ("class", "library/functions.html#{name}"): "int float bool",
        ("class", "library/stdtypes.html#{name}"): "str tuple list dict",
        (
            "class",
            "library/collections.abc.html#{name}",
        ): "collections.abc.Sequence collections.abc.Iterable collections.abc.Callable",
        ("class", "library/pathlib.html#{name}"): "pathlib.Path",
        ("data", "library/constants.html#{name}"): "None",
        ("data", "library/typing.html#{name}"): "typing.Any",
    },
}


def write(folder: Path) -> dict[str, tuple[str, str]]:
    """Make the files in `folder`; what intersphinx calls a mapping."""
    folder.mkdir(parents=True, exist_ok=True)
    return {project: (address, str(_written(folder, project))) for project, address in ADDRESSES.items()}


def _written(folder: Path, project: str) -> Path:
    lines = [
        f"{name} py:{kind} 1 {place.format(name=name)} -\n"
        for (kind, place), names in NAMES[project].items()
        for name in names.split()
    ]
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    path = folder / f"{project}.inv"
    path.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
    return path
