"""The search finds what is wrong and makes it small; what is right it leaves alone."""

import pytest
from click.testing import CliRunner

from xent.__main__ import main
from xent._audit.fuzz import fuzz
from xent._audit.setting import Setting
from xent._implementations import find

pytest.importorskip("hypothesis")


@pytest.mark.parametrize("loss", ["off_by_one_ignore_index", "divided_by_the_rows", "lse_minus_target"])
def test_a_wrong_loss_is_found_and_made_small(loss):
    one = find(f"tests._audit.broken:{loss}")
    outcome = fuzz(one, one.load(), Setting(), 500)
    assert outcome.status == "FAIL"
    assert len(outcome.finding.reproducer.split("\n")) <= 8
    namespace = {}
    with pytest.raises(AssertionError):
        exec(outcome.finding.reproducer, namespace)
    assert namespace["x"].numel() <= 8, outcome.finding.reproducer


def test_the_same_seed_searches_the_same():
    one = find("tests._audit.broken:lse_minus_target")
    first, again = (fuzz(one, one.load(), Setting(seed=3), 200) for _ in range(2))
    assert first == again


def test_without_hypothesis_it_says_what_to_install(monkeypatch):
    def missing(name, *rest, **options):
        if name == "hypothesis":
            raise ModuleNotFoundError(name)
        return real(name, *rest, **options)

    real = __import__
    monkeypatch.setattr("builtins.__import__", missing)
    result = CliRunner().invoke(main, ["audit", "torch", "--case", "random", "--fuzz", "5"])
    assert result.exit_code == 2
    assert "pip install 'xent[audit]'" in result.output
