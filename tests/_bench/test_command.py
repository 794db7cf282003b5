"""`xent bench`: what it prints where, and what it exits with."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from xent.__main__ import main
from xent._bench.results import Measurements, as_json

from .given import measurements

QUICK = ["--shape", "6x5", "--implementations", "xent,torch", "--measures", "forward,step", "--rounds", "1"]


def run(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def test_a_table_on_stdout_and_progress_on_stderr():
    result = run(*QUICK, "--dtype", "bf16")
    assert result.exit_code == 0
    assert "loss 6x5 bfloat16, cpu" in result.stdout
    assert "[1/1] loss 6x5 bfloat16" in result.stderr
    assert "[1/1]" not in result.stdout


def test_json_to_a_pipe_is_json_alone():
    result = run(*QUICK, "--json", "-")
    assert result.stderr == ""
    stored = json.loads(result.stdout)
    assert stored["schema"] == "xent.bench/1"
    assert Measurements.from_dict(stored).to_dict() == stored


def test_json_and_plot_into_files(tmp_path):
    result = run(*QUICK, "--json", tmp_path / "a.json", "--plot", tmp_path / "a.svg", "--markdown")
    assert result.exit_code == 0
    assert "| xent |" in result.stdout
    assert Measurements.read(tmp_path / "a.json").rows[0].case.shape == (6, 5)
    assert "</svg>" in (tmp_path / "a.svg").read_text()


def test_a_linear_head():
    result = run("--linear", "--shape", "6x5x7", "--implementations", "xent-linear,torch", *QUICK[4:])
    assert result.exit_code == 0
    assert "products" in result.stdout


def test_compare(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, scale in zip(paths, (1.0, 0.5), strict=True):
        path.write_text(as_json(measurements(scale).to_dict()))
    result = run("--compare", *paths)
    assert result.exit_code == 0
    assert "0.33–0.75  less" in result.stdout
    assert json.loads(run("--compare", *paths, "--json", "-").stdout)["schema"] == "xent.bench.comparison/1"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--shape", "64"], 2, "expected NxV"),
        (["--shape", "6x5", "--dtype", "int8"], 2, "dtype = 'int8'"),
        (["--shape", "6x5", "--implementations", "tprch"], 2, "Did you mean torch"),
        (["--shape", "6x5", "--rounds", "0"], 2, "x>=1"),
        (["--shape", "6x5", "--linear"], 2, "NxDxV"),
        (["--linear", "--task", "softmax"], 2, "a task of its own"),
        (["--shape", "6x5", "--plot", "a.pdf"], 2, "expected .svg or .png"),
        (["--shape", "6x5", "--json", "nowhere/a.json"], 3, "no folder"),
        (["--compare", "a.json", "b.json", "--plot", "a.svg"], 2, "measures nothing"),
        (["--shape", "6x5", "--implementations", "no.such:loss"], 3, "cannot be loaded"),
        (["--compare", "no.json", "no.json"], 3, "cannot be read"),
    ],
)
def test_exit_codes(arguments, code, words):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_png_without_matplotlib_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("--shape", "6x5", "--plot", "a.png")
    assert result.exit_code == 3
    assert 'pip install "xent[bench]"' in result.stderr


def test_it_runs_without_tqdm_and_matplotlib():
    code = (
        "import sys\nsys.modules['tqdm'] = sys.modules['matplotlib'] = None\n"
        "from xent.__main__ import main\n"
        f"main(['bench', *{QUICK!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "loss 6x5 float32, cpu" in done.stdout
    assert "[1/1]" in done.stderr


def test_a_bar_where_somebody_watches(monkeypatch):
    pytest.importorskip("tqdm")
    from xent._bench import progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.shown(2) as told:
        assert isinstance(told, progress.Bar)
        told.begin("a")
        told.at("forward")
        told.begin("b")
        assert told.bar.n == 1
        assert told.bar.desc == "b"
