"""Linear heads: hidden states and weights in, no logits."""

from ..case import WIDE, HeadValues, Probe, case

HEADS = ("linear", "hidden")
GRID = "h, w = torch.randint(-4, 5, (24, 6)) / 4, torch.randint(-4, 5, (33, 6)) / 2"


@case("the gradients of hidden states and head", HEADS)
def head_gradients():
    return HeadValues(f"{GRID}\ny = torch.randint(0, 33, (24,))", 'reduction="sum"')


@case("a gradient of the head that ignores what comes from above", HEADS)
def head_upstream():
    return HeadValues(
        f"{GRID}\ny, g = torch.randint(0, 33, (24,)), torch.randint(-4, 5, (24,)) / 2",
        'reduction="none"',
    )


@case("the bias: added once, however wide the hidden states", HEADS, WIDE)
def head_bias():
    return HeadValues(
        """
        h, w = torch.randint(-1, 2, (8, 600)) / 8, torch.randint(-1, 2, (40, 600)) / 8
        b, y = torch.randint(-8, 9, (40,)) / 4, torch.randint(0, 40, (8,))
        """,
        'linear_bias=b, reduction="sum"',
        judged=("loss", "hidden", "head", "bias"),
    )


@case("ignored labels in the gradient of the head and in its divisor", HEADS)
def head_ignored():
    return HeadValues(f"{GRID}\ny = torch.randint(0, 33, (24,)); y[::5] = -100", "ignore_index=-100")


@case("every label ignored: gradients of 0, not nan", HEADS)
def head_all_ignored():
    return Probe(
        f"{GRID}\ny = torch.full((24,), -100)",
        """
        got = torch.autograd.grad(head(h.requires_grad_(), w.requires_grad_(), y, ignore_index=-100), (h, w))
        assert not any(gradient.isnan().any() for gradient in got), "nan in the gradient of a batch without labels"
        """,
        needs=("ignore_index", "gradient"),
    )


@case("a loss added up in 16 bits from chunk to chunk", HEADS, ("bfloat16", "float16"))
def head_loss_of_many_chunks():
    return HeadValues(
        """
        h, w = torch.randint(-2, 3, (16, 4)).repeat(64, 1) / 2, torch.randint(-2, 3, (2048, 4)) / 2
        y = torch.randint(0, 2048, (16,)).repeat(64)
        """,
        judged=("loss",),
        times=64,
    )


@case("gradients of the head added up in 16 bits from chunk to chunk", HEADS, ("bfloat16", "float16"))
def head_gradient_of_many_chunks():
    return HeadValues(
        """
        h, w = torch.randint(-2, 3, (16, 4)).repeat(64, 1) / 2, torch.randint(-2, 3, (1024, 4)) / 2
        y = torch.randint(0, 1024, (16,)).repeat(64)
        """,
        judged=("head",),
        times=64,
    )


@case("hidden states or head, written over", HEADS)
def head_in_place():
    return Probe(
        f"{GRID}\ny, before = torch.randint(0, 33, (24,)), (h.clone(), w.clone())",
        """
        head(h.requires_grad_(), w.requires_grad_(), y).backward()
        assert torch.equal(h, before[0]), "the hidden states were written over"
        assert torch.equal(w, before[1]), "the head was written over"
        """,
        needs=("gradient",),
    )


# The two below ask what a head adds to its matrix products, so every product is exact: a matrix library's own order of
# additions depends on threads and on the number of rows (docs/audit.md has figures).


@case("the number of threads changes the loss or the gradient of the head, products of matrices apart", HEADS)
def head_threads():
    return Probe(
        "h, w, y = torch.eye(512), torch.randn(2000, 512, requires_grad=True), torch.randint(0, 2000, (512,))",
        """
        def run(n): torch.set_num_threads(n); a = head(h, w, y); return a.detach(), *torch.autograd.grad(a, w)
        same = [torch.equal(*pair) for pair in zip(run(1), run(2))]
        assert all(same), f"1 and 2 threads: loss equal {same[0]}, gradient of the head equal {same[1]}"
        """,
        needs=("gradient",),
    )


@case("what surrounds a row changes its loss, products of matrices apart", HEADS)
def head_batch_split():
    return Probe(
        """
        h, w = torch.randint(-4, 5, (33, 64)) / 4, torch.randint(-4, 5, (1025, 64)) / 2
        y = torch.randint(0, 1025, (33,))
        """,
        """
        whole = head(h, w, y, reduction="none")
        rows = torch.cat([head(h[n:n + 1], w, y[n:n + 1], reduction="none") for n in range(33)])
        assert torch.equal(whole, rows), f"the loss of {(whole != rows).sum()} of 33 rows depends on the batch"
        """,
        needs=("reduction",),
    )


@case("memory: the logits, which a head is there not to make", HEADS, ("float32",))
def head_memory():
    return Probe(
        "h, w, y = torch.randn(4096, 8), torch.randn(65536, 8), torch.randint(0, 65536, (4096,))",
        """
        peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 2**20
        open("/proc/self/clear_refs", "w").write("5"); before = peak()
        head(h.requires_grad_(), w.requires_grad_(), y).backward(); took = peak() - before
        assert took < 0.9, f"{took:.2f} times the 1 GiB of the logits"
        """,
        needs=("gradient", "linux"),
        compared=False,
    )
