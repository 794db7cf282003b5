"""The kernels without torch, under AddressSanitizer and UndefinedBehaviorSanitizer."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SETS = {"baseline": ["-Wno-psabi"], "avx2": ["-mavx2", "-mfma", "-mf16c"]}
SANITIZED = "-std=c++17 -O1 -g -ffp-contract=off -Wall -Wextra -fsanitize=address,undefined -fno-sanitize-recover"


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("name", SETS)
def test_no_kernel_leaves_its_buffers(name, tmp_path):
    """Any bits as logits, labels and factors, over buffers of exactly the size of the call; then long double."""
    if name == "avx2" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this machine has no AVX2")
    source = [f'-DXENT_SOURCE="cpu/{name}.cpp"', f"-DXENT_RUN=run_{name}", f"-I{ROOT / 'csrc'}"]
    command = ["g++", *SANITIZED.split(" "), *SETS[name], *source, str(Path(__file__).parent / "kernels.cpp")]
    subprocess.run([*command, "-o", str(tmp_path / "kernels")], check=True)
    done = subprocess.run([str(tmp_path / "kernels")], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout == "fine\n"
