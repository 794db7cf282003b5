"""The door is exactly what is documented, and opens without torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import xent

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "xent" / "__init__.py"


def names_for_type_checkers():
    tree = ast.parse(SOURCE.read_text())
    return {a.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level for a in node.names}


def test_the_names_a_type_checker_sees_are_the_names_that_load():
    assert names_for_type_checkers() == set(xent._HOME_OF)


def test_every_public_name_is_documented_and_nothing_else():
    documented = re.findall(
        r"^\.\. auto(?:function|class|exception):: xent\.(\w+)(?:\(\))?$", (ROOT / "docs/api.md").read_text(), re.M
    )
    assert sorted(documented) == sorted(xent._HOME_OF)


@pytest.mark.parametrize("name", sorted(xent._HOME_OF))
def test_every_name_loads_and_says_what_it_is(name):
    value = getattr(xent, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(xent)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'cross_entrpy'"):
        xent.cross_entrpy  # noqa: B018


def test_importing_the_door_does_not_import_torch():
    code = "import sys, xent; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize(
    "name", [n for home in ("functional", "linear") for n in xent._HOMES[home].split() if n != "plan"]
)
def test_a_loss_says_everything_that_a_caller_asks(name):
    text = getattr(xent, name).__doc__
    parts = (".. math::", "Shape:", "Dtypes:", "Raises:", "Source:", "Example:")
    assert [part for part in parts if part not in text] == []
    assert "Differs from :func:`torch." in text or "torch has no twin" in text
