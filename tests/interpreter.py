"""Triton's interpreter as a GPU would round: numpy has no bfloat16, and the conversion to it cuts digits off; before
Triton 3.8 a fused multiply-add rounds twice."""

import numpy as np
import torch


def mend() -> None:
    """float32 to bfloat16 rounded to the nearest, and one rounding of a float32 `fma`, as every GPU does it."""
    from triton import language as tl
    from triton.runtime import interpreter

    if not hasattr(getattr(interpreter, "_interpreter", None), "fma_fp32"):
        interpreter.InterpreterBuilder.create_fma = _fma
    convert = interpreter._convert_float

    def rounded(values, source, result, mode):
        if (source, result) != (tl.float32, tl.bfloat16):
            return convert(values, source, result, mode)
        halves = torch.from_numpy(np.ascontiguousarray(values)).view(torch.float32).bfloat16()
        return halves.view(torch.int16).numpy().view(np.uint16).reshape(values.shape)

    interpreter._convert_float = rounded


def _fma(self, x, y, z):
    """Products of float32 are exact in float64, whose own rounding of the sum is 2**-29 of an ulp."""
    from triton.runtime.interpreter import TensorHandle

    wide = np.float64 if x.data.dtype == np.float32 else x.data.dtype
    sums = x.data.astype(wide) * y.data + z.data
    return TensorHandle(sums.astype(x.data.dtype), z.dtype.scalar)


def watch_launches() -> None:
    """A launch keeps the machine code of its first call, and the interpreter has none: so every later call must be one
    that the same code would serve. Shapes are in the launch; the dtypes of tensors have to be."""
    from xent.backends.triton.launch import Launch

    run = Launch.__call__

    def watched(self, device, *tensors):
        dtypes = [None if t is None else t.dtype for t in tensors]
        known = self.__dict__.setdefault("dtypes", dtypes)
        for i, (had, has) in enumerate(zip(known, dtypes, strict=True)):
            assert had is None or has is None or had is has, f"{self.kernel.arg_names[i]} of {self.kernel} was {had}"
            known[i] = known[i] or has
        run(self, device, *tensors)

    Launch.__call__ = watched
