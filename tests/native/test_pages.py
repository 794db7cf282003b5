"""The pool of pages without Python, whose lock would hide a missing one, under ThreadSanitizer and AddressSanitizer."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None or sys.platform == "win32", reason="no g++, or no pool")
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_a_block_has_one_owner(sanitizer, tmp_path):
    program = str(tmp_path / "pages")
    flags = f"-std=c++17 -O1 -g -Wall -Wextra -pthread -fsanitize={sanitizer} -fno-sanitize-recover".split(" ")
    source = str(Path(__file__).parent / "pages.cpp")
    subprocess.run(["g++", *flags, f"-I{ROOT / 'csrc'}", source, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this sanitizer does not run where addresses are that random")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout == "fine\n"
