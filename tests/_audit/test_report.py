"""What is reported: data, Markdown, JSON, a verdict, an exit code; and what torch's known defects look like in it."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

import xent
from xent.__main__ import main
from xent._audit.report import Report

TORCHS = [
    "vocabulary_confident",
    "rounded_log_probabilities",
    "log_near_one",
    "log_of_one_plus_tiny",
    "p_minus_one_near_one",
    "p_minus_one",
    "two_rivals",
    "no_probability_on_a_mask",
    "no_weight_on_a_mask",
    "ignored_nan",
    "smoothing_in_16_bits",
    "mean_of_many_rows",
    "uint8_label_too_large",
    "negative_smoothing",
]
"""Defects of torch 2.13's cross_entropy on a CPU."""
CHUNKED = "mean_of_a_million_rows too_many_labels wrong_number_of_weights head_all_ignored double_backward forward_mode"
"""Those of its chunked linear_cross_entropy, beside them."""


def run(*arguments):
    return CliRunner().invoke(main, ["audit", *arguments])


@pytest.fixture(scope="module")
def torchs():
    return xent.audit("torch", cases=[*TORCHS, "random", "int32_labels"])


@pytest.mark.skipif(not torch.__version__.startswith("2.13"), reason="the defects are those of torch 2.13")
class TestKnownDefects:
    @pytest.mark.parametrize("name", TORCHS)
    def test_torchs_are_found_and_shown(self, torchs, name):
        (outcome,) = [outcome for outcome in torchs.failures if outcome.case == name]
        with pytest.raises(AssertionError):
            exec(outcome.finding.reproducer, {})

    @pytest.mark.parametrize("name", TORCHS)
    def test_with_another_loss_the_reproducer_holds(self, torchs, name):
        """It is the loss that fails there, not the program."""
        (outcome,) = [outcome for outcome in torchs.failures if outcome.case == name]
        exec(outcome.finding.reproducer.replace("torch.nn.functional import", "xent import"), {})

    def test_those_of_the_chunked_head_are_found(self):
        report = xent.audit("torch-linear", cases=CHUNKED.split())
        assert [outcome.case for outcome in report.failures] == CHUNKED.split(), str(report)

    def test_the_loss_of_many_chunks_is_added_up_in_16_bits(self):
        report = xent.audit("torch-linear", cases=["head_loss_of_many_chunks"], dtype="bfloat16")
        assert report.failures, str(report)


def test_one_reproducer_runs_in_a_process_of_its_own(torchs):
    (outcome,) = [outcome for outcome in torchs.failures if outcome.case == "p_minus_one"]
    done = subprocess.run([sys.executable, "-c", outcome.finding.reproducer], capture_output=True, text=True)
    assert done.returncode == 1
    assert "AssertionError: 0.0, but the true number is -1.6" in done.stderr


def test_it_is_frozen_data(torchs):
    with pytest.raises(dataclasses.FrozenInstanceError):
        torchs.target = "other"
    assert not torchs.passed
    assert torchs.verdict.startswith(
        f"torch: fails {len(TORCHS)} of {len(TORCHS) + 1} cases (1 refused or not offered)"
    )
    (refused,) = [outcome for outcome in torchs.outcomes if outcome.status == "refused"]
    assert refused.case == "int32_labels"
    assert "Long or Byte, but got Int" in refused.detail


def test_markdown_has_the_table_the_findings_and_the_way_back(torchs):
    text = str(torchs)
    assert text.startswith(f"### xent audit `torch`: fails {len(TORCHS)} of {len(TORCHS) + 1} cases")
    assert text.count("```python") == len(TORCHS)
    assert "| p_minus_one | float32 |  | 1e+07 | 256 | 1e+07 | **FAIL** |" in text
    assert re.search(r"\| random \| float32 \| [\d.]+ \| [\d.]+ \| 128 / 256 \| [\d.]+ / [\d.]+ \| ok \|", text)
    assert f"torch {torch.__version__}" in text
    assert "again: `xent audit torch`" in text


def test_json_is_one_document():
    result = run("torch", "--case", "log_of_one_plus_tiny", "--case", "no_probability_on_a_mask", "--json")
    data = json.loads(result.stdout)
    assert (result.exit_code, data["schema"], data["passed"]) == (1, "xent.audit/1", False)
    first, second = data["outcomes"]
    assert first["loss"]["ulp"] > 1e6
    assert first["loss"]["allowed"] == 128
    assert second["loss"]["ulp"] == "inf"
    assert "assert abs(got - " in first["finding"]["reproducer"]
    several = json.loads(run("torch", "xent", "--case", "random", "--json").stdout)
    assert [one["target"] for one in several["reports"]] == ["torch", "xent"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["xent", "--case", "random", "--case", "p_minus_one"], 0, "xent: passes 2 cases"),
        (["torch", "--case", "p_minus_one"], 1, "torch: fails 1 of 1 cases: p_minus_one"),
        ([], 2, "name a TARGET, or say --all"),
        (["torhc"], 2, "Did you mean torch?"),
        (["torch", "--case", "randon"], 2, "there is no case 'randon'"),
        (["torch", "--skip", "randon"], 2, "there is no case 'randon'"),
        (["torch", "--dtype", "int8"], 2, "'int8' is not one of"),
        (["nowhere:loss"], 3, "No module named 'nowhere'"),
        (["torch.nn.functional:cross_entropie"], 3, "has no attribute 'cross_entropie'"),
        (["sklearn", "--case", "images"], 3, "nothing could be judged"),
    ],
)
def test_exit_codes_and_what_is_said(arguments, code, said):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert said in result.output


def test_everything_known_is_in_the_table_also_what_is_not_here(monkeypatch):
    monkeypatch.delitem(xent._implementations.CATALOGUE, "torch-compile")  # compiles for half a minute
    result = run("--all", "--case", "one_class", "--case", "p_minus_one", "--dtype", "float64", "--summary")
    assert result.exit_code == 1
    rows = {line.split("|")[1].strip(" `"): line for line in result.stdout.splitlines()}
    assert {"xent", "torch", "torch-linear", "liger", "cce", "optax", "tensorflow"} <= set(rows)
    assert "| 2 | 0 |  |" in rows["xent"]
    assert "`p_minus_one`" in rows["torch"]
    if xent._implementations.find("liger").missing():
        assert "liger-kernel is not installed" in rows["liger"]


def test_the_cases_are_listed():
    result = run("--list")
    assert result.exit_code == 0
    assert "p_minus_one " in result.stdout
    assert "torch-linear" in result.stdout


def test_a_module_of_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "losses_of_mine.py").write_text("from torch.nn.functional import cross_entropy as mine\n")
    monkeypatch.chdir(tmp_path)
    result = run("losses_of_mine:mine", "--case", "random")
    assert result.exit_code == 0, result.output


def test_an_error_is_refused_only_where_more_than_a_loss_is_asked_and_only_if_it_is_clear():
    def picky(x, y, weight=None):
        if weight is not None:
            raise NotImplementedError("no weights here")
        raise RuntimeError("out of order")

    def unclear(x, y, weight=None):
        raise KeyError("w")

    first = {outcome.case: outcome.status for outcome in xent.audit(picky, cases=["random", "weights"]).outcomes}
    assert first == {"random": "FAIL", "weights": "refused"}
    assert len(xent.audit(unclear, cases=["random", "weights"]).failures) == 2


def test_a_loss_without_a_graph_or_of_another_shape_fails():
    report = xent.audit(lambda x, y: F.cross_entropy(x.detach(), y), cases=["random"])
    assert "has no graph" in report.failures[0].finding.what
    report = xent.audit(lambda x, y: F.cross_entropy(x, y).reshape(1), cases=["random"])
    assert "has shape (1,), not ()" in report.failures[0].finding.what


def test_threads_and_random_numbers_are_left_as_they_were():
    torch.manual_seed(5)
    before, threads, expected = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    xent.audit("torch", cases=["threads", "random", "mean_of_many_rows", "batch_split"])
    assert torch.equal(torch.get_rng_state(), before)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, expected)


def test_cases_are_skipped_by_name():
    report = xent.audit("torch", cases=["random", "spread", "ties"], skip=["spread"])
    assert [outcome.case for outcome in report.outcomes] == ["random", "ties"]
    assert run("torch", "--case", "p_minus_one", "--case", "random", "--skip", "p_minus_one").exit_code == 0


def test_a_report_of_nothing_does_not_pass():
    empty = Report("x", "logits", None, "cpu", 0, {}, "", 0.0, ())
    assert not empty.passed
    assert empty.verdict == "x: nothing could be judged"


def test_a_callable_is_called_by_its_address_where_it_has_one():
    assert xent.audit(F.cross_entropy, cases=["random"]).target == "torch.nn.functional:cross_entropy"
    here = xent.audit(lambda x, y: F.cross_entropy(x, y) * 2, cases=["random"])
    assert "loss = ...  # the loss that was audited" in here.failures[0].finding.reproducer
    (failure,) = xent.audit(torch.nn.NLLLoss, cases=["random"]).failures
    with pytest.raises(AssertionError):
        exec(failure.finding.reproducer, {})
