"""The instruction sets of the kernels and the flags of each: for setup.py, and for the tests that compile them."""

# Contraction is off because a multiply-add that the compiler forms on its own would change bits between the sets.
COMMON = [
    *("-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"),
    *("-O2", "-g0", "-ffp-contract=off", "-fno-math-errno"),
]


def is_x86(machine):
    return machine.lower() in ("x86_64", "amd64")


def sets(machine):
    """The sets for a machine as `platform.machine()` names it. Not the common flags."""
    baseline = ["-Wno-psabi"]  # no vector crosses the border of a module
    if not is_x86(machine):
        return {"baseline": baseline}
    # -O3 takes the branches out of the loops: a quarter of the time of float32, more of bfloat16
    avx2 = ["-O3", "-mavx2", "-mfma", "-mf16c"]
    wide = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"]
    headers = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # GCC 12's own
    return {"baseline": [*baseline, "-O1"], "avx2": avx2, "avx512": [*avx2, *wide, *headers]}
