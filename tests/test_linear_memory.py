"""What a linear head takes beside inputs and gradients, as the system counts it: in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CODE = r"""
import re, torch, xent
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024
torch.set_num_threads(1)

def step(rows, classes):
    hidden, head = torch.randn(rows, 64, requires_grad=True), torch.randn(classes, 64, requires_grad=True)
    target, options, before = torch.randint(classes, (rows,)), {"memory_budget": 64 << 20}, peak()
    CALL
    return peak() - before - (hidden.nbytes + head.nbytes) / 2**20

step(8, 16)
print("peak", step(2048, 32_000))
"""
CALLS = {
    "plain": "xent.linear_cross_entropy(hidden, head, target, **options).backward()",
    "no reduction": "xent.linear_cross_entropy(hidden, head, target, reduction='none', **options).sum().backward()",
    "softcap": "xent.linear_cross_entropy(hidden, head, target, softcap=30.0, **options).backward()",
    "z_loss": "xent.linear_cross_entropy(hidden, head, target, z_loss=1e-4, **options).backward()",
    "by-products": "xent.linear_cross_entropy_with_stats(hidden, head, target, **options).loss.backward()",
}


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell its peak there")
def test_a_head_keeps_to_its_budget(call):
    """64 MiB, where the logits would take 250."""
    run = [sys.executable, "-c", CODE.replace("CALL", CALLS[call])]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    found = re.search(r"peak (\S+)", out)
    assert found
    assert 50 < float(found[1]) <= 64 * 1.1
