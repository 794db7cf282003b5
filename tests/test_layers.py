"""The architecture as a test: imports point down, and each foreign import has one room."""

import ast
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "xent"

FLOORS = [
    {"errors"},
    {"_check", "_check_head", "_plan", "_algebra", "summary", "_truth", "_implementations"},
    {"backends"},
    {"ops"},
    {"functional", "linear"},
    {"modules"},
    {"_explain", "_audit", "_bench"},
    {"__main__"},
]
"""Lowest first. A room may import from its own floor and from those below; rooms of floor 6 are strangers."""
STRANGERS = {"_explain", "_audit", "_bench"}
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

FOREIGN = {
    "torch": {
        "_check",
        "_check_head",
        "_plan",
        "_algebra",
        "summary",
        "backends",
        "ops",
        "functional",
        "linear",
        "modules",
        "_explain",
        "_bench",
        "_audit",
        "_truth",
        "_implementations",
        "__main__",
    },
    "click": {"__main__"},
    "triton": {"backends", "_bench"},
    "tqdm": {"_bench"},
    "matplotlib": {"_bench", "_explain"},
    "hypothesis": {"_audit"},
    "flint": {"_truth"},
    "mpmath": {"_truth"},
    "numpy": {"_explain"},
    "safetensors": {"_explain"},
    "rich": {"_explain", "__main__"},
}
"""Who may import what from outside; whatever is not named here may not be imported at all."""


JUDGES = {"_audit", "_truth", "_implementations"}
"""Rooms that share no code with what they judge: they know each other and the errors, nothing else of xent."""


def files():
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path):
    """Absolute dotted names of everything `path` imports, wherever in the file."""
    package = ["xent", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def complaints(path: Path):
    room = room_of(path)
    for name in imports_of(path):
        first, *rest = name.split(".")
        if first == "xent":
            other = rest[0] if rest and rest[0] in FLOOR_OF else None
            if other is None:
                if rest and rest[0] != "__version__":
                    yield f"{path.name} imports {name} through the door; import it from its room"
            elif FLOOR_OF[other] > FLOOR_OF[room]:
                yield f"{path.name} reaches up for {name}; move the shared piece down instead"
            elif room in JUDGES and other not in JUDGES | {"errors"}:
                yield f"{path.name} imports {name}; a judge shares no code with the accused"
            elif other != room and {other, room} <= STRANGERS:
                yield f"{path.name} reaches across for {name}; rooms of that floor are strangers"
        elif first == "triton" and path.parent.name != "triton" and (room, path.name) != ("_bench", "clock.py"):
            yield f"{path.name} imports triton, which only backends/triton may, and its clock _bench/clock"
        elif first not in sys.stdlib_module_names and room not in FOREIGN.get(first, set()):
            yield f"{path.name} imports {first}, which has no room here"


def test_every_room_has_a_floor():
    assert {room_of(path) for path in files()} == set(FLOOR_OF)


def test_imports_point_down_and_foreign_ones_have_their_room():
    assert not [complaint for path in files() for complaint in complaints(path)]


def test_the_test_sees_a_judge_that_shares_code(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "_truth").mkdir()
    bad = tmp_path / "_truth" / "bad.py"
    bad.write_text("from .._plan import loss\n")
    assert len(list(complaints(bad))) == 1


def test_the_test_sees_a_wrong_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "backends").mkdir()
    for text in ("from ..functional import softmax", "from xent.ops import softmax", "import triton"):
        bad = tmp_path / "backends" / "bad.py"
        bad.write_text(text)
        assert len(list(complaints(bad))) == 1, text
