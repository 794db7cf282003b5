"""The command line: what it prints, what it exits with, and that it answers before torch is there."""

import csv
import json
import re
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

import xent
from xent.__main__ import main

LOGITS = [[2.0, 1.0, 0.1], [-4.1, 1.0, 0.1]]
TARGET = [0, 0]
LOSS = 2.93125445  # mean of log(e^2 + e + e^0.1) - 2 and log(e^-4.1 + e + e^0.1) + 4.1


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def document(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def table(tmp_path):
    rows = [["cat", "dog", "llama", "target"], [*LOGITS[0], "0"], [*LOGITS[1], "cat"]]
    return write_csv(tmp_path / "table.csv", rows)


class TestFormats:
    def test_csv(self, table):
        data = document("explain", table)
        assert data["schema"] == "xent.explain/1"
        assert data["loss"] == pytest.approx(LOSS, rel=1e-7)
        assert [entry["label"] for entry in data["rows"][0]["entries"]] == ["cat", "dog", "llama"]

    def test_csv_without_a_header(self, tmp_path):
        path = write_csv(tmp_path / "bare.csv", [[*row, label] for row, label in zip(LOGITS, TARGET, strict=True)])
        assert document("explain", path)["loss"] == pytest.approx(LOSS, rel=1e-7)

    @pytest.mark.parametrize("column", ["truth", "0"])
    def test_csv_target_column(self, tmp_path, column):
        rows = [["truth", "a", "b", "c"], *([label, *row] for row, label in zip(LOGITS, TARGET, strict=True))]
        path = write_csv(tmp_path / "front.csv", rows)
        assert document("explain", path, "--target-column", column)["loss"] == pytest.approx(LOSS, rel=1e-7)

    def test_npz(self, tmp_path):
        numpy = pytest.importorskip("numpy")
        logits = numpy.array(LOGITS, dtype="float32")
        numpy.savez(tmp_path / "a.npz", scores=logits, y=TARGET, weight=numpy.array([2, 1, 1], dtype="float32"))
        data = document("explain", tmp_path / "a.npz")
        assert (data["loss"], data["weighted"]) == (pytest.approx(LOSS, rel=1e-7), True)

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_npy_pair(self, tmp_path, order):
        numpy = pytest.importorskip("numpy")
        numpy.save(tmp_path / "x.npy", numpy.array(LOGITS, dtype=order + "f4"))
        numpy.save(tmp_path / "y.npy", numpy.array(TARGET, dtype=order + "i2"))
        both = document("explain", tmp_path / "x.npy", tmp_path / "y.npy")
        assert both["loss"] == pytest.approx(LOSS, rel=1e-7)
        assert document("explain", tmp_path / "x.npy", "--target", tmp_path / "y.npy") == both

    def test_safetensors(self, tmp_path):
        safetensors = pytest.importorskip("safetensors.torch")
        tensors = {"logits": torch.tensor(LOGITS).bfloat16(), "labels": torch.tensor(TARGET)}
        safetensors.save_file(tensors, tmp_path / "a.safetensors")
        data = document("explain", tmp_path / "a.safetensors")
        want = xent.cross_entropy(torch.tensor(LOGITS).bfloat16().double(), torch.tensor(TARGET))
        assert (data["loss"], data["dtype"]) == (pytest.approx(want.item(), rel=1e-12), "bfloat16")


class TestOptions:
    def test_options_reach_the_walk(self, table, tmp_path):
        names = tmp_path / "names.txt"
        names.write_text("x\ny\nz\n")
        options = ["--row", "1", "--top", "1", "--label-smoothing", "0.1", "--reduction", "sum", "--dtype", "float64"]
        data = document("explain", table, *options, "--labels", names, "--ignore-index", "1")
        assert [row["position"] for row in data["rows"]] == [1]
        assert [entry["label"] for entry in data["rows"][0]["entries"]] == ["y", "x"]
        assert (data["label_smoothing"], data["ignore_index"], data["dtype"]) == (0.1, 1, "float64")
        assert data["reduction"]["name"] == "sum"
        data = document("explain", table, "--softcap", "5", "--logit-scale", "2", "--z-loss", "0.5")
        assert (data["softcap"], data["logit_scale"], data["z_loss"]) == (5.0, 2.0, 0.5)

    def test_text_is_plain_where_there_is_no_terminal(self, table):
        page = run("explain", table).stdout
        assert page.startswith("row 0 · target = class 0 (cat) · 3 classes")
        assert "\x1b" not in page

    def test_colour_only_on_a_terminal_that_wants_it(self, table, monkeypatch, capsys):
        pytest.importorskip("rich")
        from xent import __main__
        from xent._explain.walk import explain

        walk = explain(LOGITS, TARGET)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.delenv("NO_COLOR", raising=False)
        __main__._show(walk, as_json=False, form=None, no_color=False)
        assert "\x1b" in capsys.readouterr().out
        __main__._show(walk, as_json=False, form=None, no_color=True)
        assert "\x1b" not in capsys.readouterr().out
        monkeypatch.setenv("NO_COLOR", "1")
        __main__._show(walk, as_json=False, form=None, no_color=False)
        assert "\x1b" not in capsys.readouterr().out


class TestPage:
    def test_the_page_in_place_of_the_table(self, table, tmp_path):
        page = tmp_path / "loss.html"
        result = run("explain", table, "--html", page, "--max-loss", "9")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"wrote {page}\n")
        from xent._explain import files, walk

        stored = files.read(table)
        assert (
            page.read_text(encoding="utf-8")
            == walk.explain(stored.logits, stored.target, labels=stored.labels).to_html()
        )

    def test_beside_json(self, table, tmp_path):
        result = run("explain", table, "--html", tmp_path / "loss.html", "--json")
        assert json.loads(result.stdout)["loss"] == pytest.approx(LOSS, rel=1e-7)

    def test_every_renderer_has_its_form(self, table):
        from xent._explain import files, walk
        from xent._explain.render import RENDERERS

        stored = files.read(table)
        derivation = walk.explain(stored.logits, stored.target, labels=stored.labels)
        for form, render in RENDERERS.items():
            assert run("explain", table, "--as", form).stdout == render(derivation)
            assert form == "text" or form in run("explain", "--help").stdout
        refused = run("explain", table, "--as", "pdf")
        assert refused.exit_code == 2
        assert "--as pdf: expected one of text, html" in refused.stderr

    def test_opened(self, table, tmp_path, monkeypatch):
        opened = []
        monkeypatch.setattr("click.launch", opened.append)
        monkeypatch.chdir(tmp_path)
        assert run("explain", table, "--html", "loss.html", "--open").exit_code == 0
        assert opened == [(tmp_path / "loss.html").as_uri()]
        assert run("explain", table, "--open").exit_code == 2

    def test_where_nothing_can_be_written(self, table, tmp_path):
        result = run("explain", table, "--html", tmp_path / "none" / "loss.html")
        assert result.exit_code == 3
        assert "loss.html: No such file or directory." in result.stderr


class TestExitCodes:
    def test_threshold(self, table):
        assert run("explain", table, "--max-loss", "3").exit_code == 0
        missed = run("explain", table, "--max-loss", "2.9", "--json")
        assert missed.exit_code == 1
        assert json.loads(missed.stdout)["loss"] > 2.9
        assert "loss 2.93125 is not at most 2.9" in missed.stderr

    def test_a_loss_of_nan_misses_every_threshold(self, tmp_path):
        path = write_csv(tmp_path / "all.csv", [[1.0, 2.0, -100]])
        assert run("explain", path).exit_code == 0
        assert run("explain", path, "--max-loss", "1e9").exit_code == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            ["explain"],
            ["explain", "a.npy", "b.npy", "c.npy"],
            ["explain", "a.npy", "--reduction", "median"],
            ["explain", "a.npy", "--max-loss", "1", "--reduction", "none"],
            ["expalin"],
        ],
    )
    def test_usage(self, arguments):
        assert run(*arguments).exit_code == 2

    def refused(self, *arguments):
        result = run("explain", *arguments)
        assert result.exit_code == 3
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        return result.stderr

    def test_no_such_file(self, tmp_path):
        for name in ("a.npz", "a.npy", "a.csv", "a.safetensors"):
            assert self.refused(tmp_path / name).startswith("FileError: ")

    def test_no_such_format(self, tmp_path):
        assert "expected .npy, .npz, .safetensors, .csv" in self.refused(tmp_path / "a.pt")

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".csv"])
    def test_damaged(self, tmp_path, suffix):
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(b"\x80\x04\x95 not what the name says")
        assert self.refused(path).startswith("FileError: ")

    def test_a_pickle_stays_shut(self, tmp_path):
        numpy = pytest.importorskip("numpy")
        array = numpy.array([{"a": 1}], dtype=object)
        numpy.save(tmp_path / "x.npy", array, allow_pickle=True)
        numpy.savez(tmp_path / "x.npz", logits=array)
        assert "Python objects" in self.refused(tmp_path / "x.npy", tmp_path / "x.npy")
        assert "allow_pickle=False" in self.refused(tmp_path / "x.npz")

    def test_an_array_is_missing(self, tmp_path):
        numpy = pytest.importorskip("numpy")
        numpy.savez(tmp_path / "a.npz", logits=numpy.zeros((2, 3)), answer=TARGET)
        assert "no target in it, only logits, answer" in self.refused(tmp_path / "a.npz")
        numpy.save(tmp_path / "x.npy", numpy.zeros((2, 3)))
        assert "give the target its own file" in self.refused(tmp_path / "x.npy")

    def test_a_label_out_of_range(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", [[1.0, 2.0, 0], [1.0, 2.0, 2]])
        assert self.refused(path).startswith("TargetError: target[1] = 2: not a class (classes are 0 ... 1)")

    @pytest.mark.parametrize("cell", ["dgo", "0.5"])
    def test_a_label_that_is_none(self, tmp_path, cell):
        path = write_csv(tmp_path / "a.csv", [["cat", "dog", "target"], [1.0, 2.0, cell]])
        assert f"'{cell}' is not a class" in self.refused(path)

    def test_ragged_lines(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", [["a", "b", "target"], [1.0, 2.0, 0], [1.0, 0]])
        assert "line 3 has 2 columns, the first 3" in self.refused(path)

    def test_a_missing_package_is_named_with_its_cure(self, tmp_path, monkeypatch):
        (tmp_path / "a.npy").touch()
        monkeypatch.setitem(sys.modules, "numpy", None)
        assert 'pip install "xent[files]"' in self.refused(tmp_path / "a.npy")


class TestInfo:
    def test_json(self):
        data = document("info")
        assert data["schema"] == "xent.info/1"
        assert data["versions"]["torch"] == torch.__version__
        assert data["cpu"]["threads"] == torch.get_num_threads()
        assert data["devices"]["cpu"]["refusals"]["reference"] is None

    def test_text_says_the_same(self):
        page = run("info").stdout
        assert f"xent         {xent.__version__}" in page
        assert "reference: available" in page

    def test_a_gpu_without_triton_is_served_and_says_what_to_install(self, monkeypatch):
        from xent.backends import triton

        monkeypatch.setitem(sys.modules, "triton", None)  # as where it is not installed
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: "a GPU")
        triton._missing.cache_clear()
        try:
            page = run("info").stdout
        finally:
            triton._missing.cache_clear()
        assert re.search(r"cuda:0 +a GPU: served by reference", page)
        assert "triton: Triton is not installed: pip install triton" in page

    def test_a_refusal_is_shown_with_its_reason(self, monkeypatch):
        from xent import backends

        monkeypatch.setattr(backends, "refusals", lambda device: {"triton": f"no CUDA on {device}", "reference": None})
        assert "triton: no CUDA on cpu" in run("info").stdout


class TestStartup:
    @pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["explain", "--help"], ["explain"]])
    def test_answers_without_torch(self, arguments):
        code = (
            "import sys\nfrom xent.__main__ import main\n"
            f"try: main({arguments!r})\nexcept SystemExit: pass\n"
            "print(sorted({'torch', 'numpy', 'rich', 'safetensors'} & set(sys.modules)))"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert out.stdout.splitlines()[-1] == "[]"

    def test_as_a_module(self):
        out = subprocess.run([sys.executable, "-m", "xent", "--version"], capture_output=True, text=True, check=True)
        assert out.stdout == f"xent {xent.__version__}\n"
