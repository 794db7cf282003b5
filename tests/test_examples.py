"""The examples run on small settings; what the README claims of them holds."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

pytest.importorskip("sklearn")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script of the examples, as from the command line but in this process; what it printed."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    threads = torch.get_num_threads()

    def main(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    with torch.random.fork_rng():
        yield main
    torch.set_num_threads(threads)


def test_digits_trains_compares_and_explains(run):
    out = run("digits.py", "--epochs", "6")
    lines = {
        line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("xent", "torch", "difference"))
    }
    assert float(lines["xent"][1].rstrip("%")) > 85.0
    assert lines["xent"][1] == lines["torch"][1]
    assert abs(float(lines["difference"][1])) < 1e-5
    assert "The costliest test image" in out
    assert "█" in out
    assert "the same number by every route" in out


@pytest.mark.long  # half a minute
def test_a_language_model_learns_the_same_without_logits(run):
    out = run("language_model.py", "--steps", "2", "--width", "16", "--rows", "256", "--pieces", "8000")
    assert "8,000 word pieces" in out
    losses = {line.split()[0]: line.split()[1:3] for line in out.splitlines() if line.startswith(("torch", "xent"))}
    assert losses["torch"] == losses["xent"]
    assert float(out.split()[-1]) < 1e-5


def test_margins_cost_torch_its_digits_and_xent_none(run, tmp_path):
    out = run("margins.py", "--plot", str(tmp_path / "margins.svg"))
    torch_errors, xent_errors = (list(map(float, line.split()[1:])) for line in out.splitlines()[1:3])
    assert torch_errors[1] > 0.01
    assert torch_errors[2] == 1.0
    assert max(xent_errors) < 2.4e-7
    assert "</svg>" in (tmp_path / "margins.svg").read_text()


def test_collapse_starts_at_equal_points_and_draws_its_picture(run, tmp_path):
    picture = tmp_path / "deep" / "collapse.svg"
    out = run("softmax_collapse.py", "--steps", "40", "--every", "20", "--plot", str(picture))
    torch_rows, xent_rows = (part.splitlines()[1:] for part in out.split("step")[1:3])
    assert torch_rows[0].split()[1:4] == xent_rows[0].split()[1:4] == ["0.0%", "0.0%", "0.0"]
    assert "</svg>" in picture.read_text()


@pytest.mark.long
def test_collapse_torch_loses_most_rows_and_drifts_and_xent_does_neither(run, tmp_path):
    out = run("softmax_collapse.py", "--steps", "5000", "--every", "1000", "--plot", str(tmp_path / "collapse.svg"))
    theirs, ours = (part.splitlines()[6].split() for part in out.split("step")[1:3])
    assert theirs[0] == ours[0] == "5000"
    assert float(theirs[2].rstrip("%")) > 80.0
    assert float(ours[2].rstrip("%")) == 0.0
    assert float(theirs[3]) < -500.0
    assert abs(float(ours[3])) < 20.0


def test_the_stored_proof_is_what_the_script_answers(run, tmp_path):
    """torch's column may differ in a digit from processor to processor; the truth and ours may not."""
    run("proof.py", "--json", str(tmp_path / "proof.json"))
    stored, found = (
        json.loads(path.read_text())["rows"]
        for path in (ROOT / "benchmarks" / "results" / "proof.json", tmp_path / "proof.json")
    )
    assert len(stored) == 6
    for row in (*stored, *found):
        del row["torch"]
    assert stored == found
