"""The kernels without torch: under AddressSanitizer and UndefinedBehaviorSanitizer, and for another processor."""

import platform
import shutil
import subprocess
from pathlib import Path
from runpy import run_path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FLAGS = run_path(str(ROOT / "csrc" / "cpu" / "sets.py"))
SETS = FLAGS["sets"](platform.machine())
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
CAPABLE = {"avx2": ("AVX2", "AVX512"), "avx512": ("AVX512",)}  # what torch calls the processors that run a set
CROSS, EMULATOR = "aarch64-linux-gnu-g++", shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")

pytestmark = pytest.mark.long


def command(compiler, name, flags, program):
    source = [f'-DXENT_SOURCE="cpu/{name}.cpp"', f"-DXENT_SET=set_{name}", f"-I{ROOT / 'csrc'}"]
    return [compiler, *FLAGS["COMMON"], *flags, *source, str(Path(__file__).parent / "kernels.cpp"), "-o", str(program)]


def runs_here(name):
    return name == "baseline" or torch.backends.cpu.get_cpu_capability() in CAPABLE[name]


def check(arguments):
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def compilations(tmp_path_factory):
    """One process a set, all started at once: each takes most of a minute on one core."""
    folder = tmp_path_factory.mktemp("kernels")
    started = {
        name: (folder / name, subprocess.Popen(command("g++", name, [*flags, *SANITIZED], folder / name)))
        for name, flags in SETS.items()
        if runs_here(name)
    }
    yield started
    for _, process in started.values():
        process.kill()
        process.wait()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("name", SETS)
def test_no_kernel_leaves_its_buffers(name, request):
    """Any bits as logits, labels and factors, over buffers of exactly the size of the call; then long double."""
    if not runs_here(name):
        pytest.skip(f"this machine has no {name}")
    program, compilation = request.getfixturevalue("compilations")[name]
    assert compilation.wait() == 0
    assert check([str(program)]) == "fine\n"


@pytest.mark.skipif(shutil.which(CROSS) is None, reason=f"no {CROSS} (Debian: g++-aarch64-linux-gnu)")
def test_aarch64_compiles_in_silence_and_tells_the_truth(tmp_path):
    """With the flags that setup.py has on such a machine, and without sanitizers: an emulator runs it."""
    program = tmp_path / "kernels"
    flags = FLAGS["sets"]("aarch64")["baseline"]
    assert check(command(CROSS, "baseline", [*flags, "-static"], program)) == ""
    if EMULATOR is None:
        pytest.skip("compiled, not run: no qemu-aarch64 (Debian: qemu-user-static)")
    assert check([EMULATOR, str(program)]) == "fine\n"
