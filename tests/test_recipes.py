"""The recipes of docs/recipes.md, followed: their code goes where the page says, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs.extensions.executed import examples

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")


def code(heading: str) -> str:
    """Of the first block under a heading, without prompts."""
    block = PAGE.split(f"\n## {heading}\n")[1].split("```python\n")[1].split("```")[0]
    return "".join(example.source for example in examples(f"```python\n{block}```"))


@pytest.fixture
def copy(tmp_path):
    """The repository, as far as the recipes need it."""
    for folder in ("src", "tests", "docs/extensions"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    return tmp_path


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has no one place for the line of the recipe: {old!r}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def python(copy: Path, *arguments: str) -> str:
    """What a Python with the copy's xent prints; it has to end well."""
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_backend_and_a_family_are_a_file_and_a_line_and_the_tests_take_them(copy):
    rooms = copy / "src/xent/backends"
    (rooms / "plain.py").write_text(code("A backend"), encoding="utf-8")
    edited(rooms / "__init__.py", "import native, reference", "import native, plain, reference")
    edited(rooms / "__init__.py", "= (native,", "= (plain, native,")
    recipe = code("A family of hard logits")
    lines = [line for line in recipe.split("logits, labels =")[0].splitlines() if not line.startswith("from tests")]
    with (copy / "tests/cases.py").open("a", encoding="utf-8") as cases:
        cases.write("\n\n" + "\n".join(lines) + "\n")

    few = "(plain and (cold or right or threads_change) and not 131073) or point_down"
    files = "tests/test_accuracy.py::test_labels", "tests/backends/test_promises.py", "tests/test_layers.py"
    out = python(copy, "-m", "pytest", "-p", "no:cacheprovider", "-vv", "-k", few, *files)
    assert re.search(r"test_labels\[plain-cold-float32\] PASSED", out)
    assert re.search(r"test_threads_change_no_bit\[plain-10-float32\] PASSED", out)
    assert re.search(r"test_imports_point_down\w+ PASSED", out)


def test_a_renderer_is_a_file_and_a_line(copy):
    rooms = copy / "src/xent/_explain/render"
    source = code("A way to show a derivation").split("line(xent.explain")[0]
    (rooms / "line.py").write_text(source, encoding="utf-8")
    edited(rooms / "__init__.py", "from .text import text", "from .line import line\nfrom .text import text")
    edited(rooms / "__init__.py", '"text": text', '"text": text, "line": line')
    ask = "import xent\nfrom xent._explain.render import RENDERERS\n"
    ask += "print(RENDERERS['line'](xent.explain([[2.0, 1.0, 0.1]], [0])))"
    assert python(copy, "-c", ask) == "loss 0.4170 nats; row 0: 0.4170, p = 0.6590\n"


def test_an_option_is_where_the_recipe_says_and_no_backend_knows_of_it():
    rows = re.findall(r"^\| (`[^|]*\.py`(?:, `[^|]*\.py`)*) \|", PAGE.split("## An option of the loss")[1], re.M)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)} - {"_algebra.py"}  # where it is `z`
    source = ROOT / "src" / "xent"
    paths = [p for p in source.rglob("*.py") if "z_loss" in p.read_text(encoding="utf-8")]
    found = {path.relative_to(source).as_posix() for path in paths}
    assert named <= found
    assert {name for name in found if name.startswith(("backends/", "ops/"))} == {"ops/losses.py"}
    assert [path for path in (ROOT / "csrc").rglob("*.?pp") if "z_loss" in path.read_text(encoding="utf-8")] == []
