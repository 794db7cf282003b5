"""What the GPU kernels come to, without a GPU: machine instructions for each logit, and registers, by program shape.

PYTHONPATH=src python benchmarks/gpu_code.py [--capability 90]

Triton's own assembler makes the code. Every instruction is counted once: there are no loops, and the few that belong to
slow ways (a division that is no ordinary one) are counted too. Kernels that wait for instructions, not for memory, take
time in this proportion; which ones do is for `benchmarks/gpu.py` to say, on a GPU.
"""

# ruff: noqa: E402
import argparse
import re
import subprocess
import tempfile
from pathlib import Path

import torch

torch.version.cuda = torch.version.cuda or "12.8"  # pyright: ignore  # the kernels ask before they write PTX

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from xent.backends.triton import cut, programs
from xent.backends.triton.launch import OPTIONS, Launch

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
DTYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}
CLASSES = (128_256, 1000)
SHAPES = ((2048, 32), (2048, 64), (4096, 32), (4096, 64))
"""Classes and elements a thread."""


def made(launch: Launch, tensors: list[str | None], capability: int) -> tuple[int, int]:
    """Instructions and registers of a thread."""
    given = [*tensors, *launch.numbers]
    fixed = set(launch.kernel.do_not_specialize)
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(launch.kernel.arg_names):
        value = launch.constants.get(name) if name in launch.constants else given[i]
        signature[name] = "constexpr"
        if isinstance(value, str):
            signature[name], attributes[i,] = value, [["tt.divisibility", 16]]
        elif name in launch.constants or value is None or (value == 1 and name not in fixed):
            constants[i,] = value
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if name not in fixed and value % 16 == 0:
                attributes[i,] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": launch.warps, **OPTIONS}
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.asm["cubin"])
        file.flush()
        run = {"capture_output": True, "text": True, "check": True}
        text = subprocess.run([TOOLS / "nvdisasm", "-c", file.name], **run).stdout
        usage = subprocess.run([TOOLS / "cuobjdump", "-res-usage", file.name], **run)
    lines = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", text)
    registers = re.findall(r"REG:(\d+)", usage.stdout + usage.stderr)
    return len([name for name in lines if name != "NOP"]), max(map(int, registers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, default=90, help="90 is Hopper")
    options = parser.parse_args()
    asked = programs.Asked(torch.int64, None, None, -100, False, (1.0, 0.0))
    print("| classes, dtype | tile / elements a thread | facts: instructions a logit, registers | gradient |")
    print("|---|---|--:|--:|")
    for dtype, name in DTYPES.items():
        for classes in CLASSES:
            seen = set()
            rows = cut.Like((8192, classes, 1), (classes, 1, 1), dtype)
            kind = cut.kind_of(classes, dtype)
            for tile, share in SHAPES:
                cut.READ[kind] = cut.WRITE[kind] = cut.Shape(tile, 1024, share)
                programs.forget()
                found = cut.reading(rows, kind)
                if (found.tile, found.warps) in seen:
                    continue
                seen.add((found.tile, found.warps))
                facts = programs.loss(rows, asked, True, dtype, dtype).facts
                partial = None if facts.merge is None else "*fp64"
                given = [name, "*i64", None, None, "*i64", partial, *["*fp64"] * 4, None]
                told = made(facts.summary, given, options.capability)
                back = programs.gradient(rows, rows, asked, (), dtype)
                given = [name, "*i64", None, None, "*fp64", "*fp64", None, None, name, None, "*fp64", name]
                pulled = made(back, given, options.capability)
                each = found.rows * found.tile / (32 * found.warps)
                cells = " | ".join(f"{count / each:.1f}, {registers}" for count, registers in (told, pulled))
                print(f"| {classes}, {str(dtype)[6:]} | {found.tile} / {each:.0f} | {cells} |")


if __name__ == "__main__":
    main()
