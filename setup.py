"""The native kernels: one source, compiled once per instruction set, in one module of the stable ABI.

Everything else is in pyproject.toml. Without a C++ compiler the install succeeds without the module, and
`xent info` says so.
"""

import platform

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMMON = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
X86 = platform.machine().lower() in ("x86_64", "amd64")
SETS = {"baseline": ["-O2"]}
if X86:
    avx2 = ["-mavx2", "-mfma", "-mf16c"]
    SETS["avx2"] = ["-O3", *avx2]
    SETS["avx512"] = ["-O3", *avx2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-Wno-maybe-uninitialized"]


class BuildSets(build_ext):
    """Compiles csrc/cpu/<set>.cpp with the flags of its set, then links as usual."""

    def build_extension(self, ext):
        objects = []
        for name, flags in SETS.items():  # baseline first: of inline functions shared with std, the linker keeps its
            objects += self.compiler.compile(
                [f"csrc/cpu/{name}.cpp"], output_dir=self.build_temp, extra_postargs=[*COMMON, *flags], depends=ext.depends
            )
        ext.extra_objects = objects
        super().build_extension(ext)


setup(
    ext_modules=[
        Extension(
            "xent.backends._native",
            ["csrc/bind.cpp"],
            include_dirs=["csrc"],
            define_macros=[("XENT_X86", "1")] if X86 else [],
            extra_compile_args=[*COMMON, "-O2"],
            py_limited_api=True,
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildSets},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
