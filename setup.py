"""The native kernels: one source, compiled once per instruction set, in one module of the stable ABI.

Everything else is in pyproject.toml. Without a C++ compiler the install succeeds without the module, and
`xent info` says so.
"""

import platform
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from runpy import run_path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = run_path("csrc/cpu/sets.py")
COMMON, X86 = FLAGS["COMMON"], FLAGS["is_x86"](platform.machine())
SETS = FLAGS["sets"](platform.machine())


class BuildSets(build_ext):
    """Compiles csrc/cpu/<set>.cpp with the flags of its set, side by side, then links as usual."""

    def build_extension(self, ext):
        def compile_set(name):
            flags = [*COMMON, *SETS[name]]
            return self.compiler.compile([f"csrc/cpu/{name}.cpp"], output_dir=self.build_temp, extra_postargs=flags)

        with ThreadPoolExecutor() as pool:
            # baseline comes first: of inline functions shared with std the linker keeps the first it sees
            ext.extra_objects = [path for paths in pool.map(compile_set, SETS) for path in paths]
        super().build_extension(ext)


setup(
    ext_modules=[
        Extension(
            "xent.backends._native",
            ["csrc/bind.cpp"],
            include_dirs=["csrc"],
            depends=glob("csrc/*/*"),
            define_macros=[("XENT_X86", "1")] if X86 else [],
            extra_compile_args=COMMON,
            extra_link_args=["-pthread"],  # pthread_atfork, before glibc 2.34
            py_limited_api=True,
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildSets},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
