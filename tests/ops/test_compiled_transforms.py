"""torch.func inside torch.compile: Dynamo loses derivatives through a Function without a word, so it is stopped.

With fullgraph=True that is an error, without it the call runs uncompiled. Either way no number is wrong.
"""

import pytest
import torch
from torch.func import grad, hessian, jacrev, jvp, vmap

import xent

LOGITS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])
WEIGHT = torch.rand(5, generator=torch.Generator().manual_seed(1))


def loss(x, w=None):
    return xent.cross_entropy(x, LABELS, weight=w, reduction="sum")


CASES = {
    "grad": lambda x, w: grad(loss)(x),
    "grad of a class weight": lambda x, w: grad(loss, argnums=(0, 1))(x, w),
    "grad of probabilities": lambda x, w: grad(lambda q: xent.cross_entropy(x, q))(x.softmax(1)),
    "jvp": lambda x, w: jvp(loss, (x,), (x,)),
    "vmap of grad": lambda x, w: vmap(grad(lambda row, y: xent.cross_entropy(row, y)))(x, LABELS),
    "jacrev of jacrev": lambda x, w: jacrev(jacrev(loss))(x),
    "hessian": lambda x, w: hessian(loss)(x),
    "grad of softmax": lambda x, w: grad(lambda x: (xent.softmax(x, 1) * x).sum())(x),
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_traced_runs_and_is_right(name):
    call = CASES[name]
    torch.testing.assert_close(torch.compile(call, backend="aot_eager")(LOGITS, WEIGHT), call(LOGITS, WEIGHT))


@pytest.mark.parametrize("name", CASES)
def test_in_one_graph_it_is_refused(name):
    with pytest.raises(torch._dynamo.exc.Unsupported, match="graph_break"):
        torch.compile(CASES[name], backend="aot_eager", fullgraph=True)(LOGITS, WEIGHT)


def test_vmap_alone_is_traced():
    def call(x):
        return vmap(lambda row, y: xent.cross_entropy(row, y))(x, LABELS)

    torch.testing.assert_close(torch.compile(call, backend="aot_eager", fullgraph=True)(LOGITS), call(LOGITS))
