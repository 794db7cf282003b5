"""JAX's loss and gradient, jitted, in a process of its own because it brings its own threads.

python benchmarks/beside_jax.py 65536x10 float32 5
"""

import json
import subprocess
import sys

from jobs import inputs
from measure import interleaved


def times_of(shape: str, dtype: str, rounds: int) -> list[float]:
    """Milliseconds, from a fresh process."""
    command = [sys.executable, __file__, shape, dtype, str(rounds)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main(shape: str, dtype: str, rounds: int) -> None:
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    wide, target = inputs(shape, "float64" if dtype == "float64" else "float32")
    logits = jax.numpy.asarray(wide.detach().numpy(), dtype=dtype)
    labels = jax.numpy.asarray(target.numpy())

    def loss(logits):
        log_p = jax.nn.log_softmax(logits, axis=1)
        return -jax.numpy.take_along_axis(log_p, jax.numpy.expand_dims(labels, 1), axis=1).mean()

    step = jax.jit(jax.value_and_grad(loss))
    times, _ = interleaved({"jax": lambda: jax.block_until_ready(step(logits))}, rounds)
    print(json.dumps(times["jax"]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
