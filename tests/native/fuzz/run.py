"""Compiles tests/native/fuzz.cpp with every instruction set, side by side, and runs it: `make fuzz`.

    python tests/native/fuzz/run.py SECONDS [FILE ...]

With files it runs those alone: what made it fail, say. What it learned stays in build/fuzz/corpus for the next time.
"""

import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from runpy import run_path

ROOT = Path(__file__).parents[3]
FLAGS = run_path(str(ROOT / "csrc" / "cpu" / "sets.py"))
SANITIZED = ["-O1", "-g", "-fsanitize=fuzzer-no-link,address,undefined", "-fno-sanitize-recover=all"]


def build(folder):
    machine = platform.machine()
    x86 = ["-DXENT_X86"] if FLAGS["is_x86"](machine) else []
    common = ["clang++", *FLAGS["COMMON"], *x86, f"-I{ROOT / 'csrc'}", "-Wno-unknown-warning-option"]
    sources = {"fuzz": (ROOT / "tests" / "native" / "fuzz.cpp", [])}
    for name, flags in FLAGS["sets"](machine).items():
        sources[name] = (ROOT / "csrc" / "cpu" / f"{name}.cpp", flags)

    def compile_one(name):
        source, flags = sources[name]
        subprocess.run([*common, *flags, *SANITIZED, "-c", str(source), "-o", str(folder / f"{name}.o")], check=True)

    with ThreadPoolExecutor() as pool:
        list(pool.map(compile_one, sources))
    # as in setup.py: of inline functions of std the linker keeps the first it sees, and any machine can run those
    objects = [str(folder / f"{name}.o") for name in sources]
    program = folder / "fuzz"
    subprocess.run(["clang++", "-fsanitize=fuzzer,address,undefined", *objects, "-o", str(program)], check=True)
    return program


def main(seconds, *files):
    if shutil.which("clang++") is None:
        sys.exit("make fuzz needs clang with its sanitizers: on Debian, apt-get install clang")
    folder = ROOT / "build" / "fuzz"
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    program = build(folder)
    limits = [f"-max_total_time={seconds}", "-max_len=4096", "-len_control=0", "-timeout=60"]
    output = [f"-artifact_prefix={folder}/", "-verbosity=0", "-print_final_stats=1"]
    print(f"{len(files)} files" if files else f"{seconds} seconds from now", flush=True)
    sys.exit(subprocess.run([str(program), *limits, *output, *(files or [str(folder / "corpus")])]).returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
