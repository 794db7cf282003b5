"""What surrounds the numbers: tensors left alone, the same bits again, memory."""

from ..case import Probe, Values, case

ROWS = "x, y = torch.randn(64, 1025), torch.randint(0, 1025, (64,))"
EACH = "for v in (2, 10, 129, 1025, 33000):"


@case("the caller's logits, written over by the forward or the backward pass")
def input_in_place():
    return Probe(
        f"{ROWS}\nbefore, x = x.clone(), x.requires_grad_()",
        """
        loss(x, y).backward()
        assert torch.equal(x, before), f"{(x != before).sum()} of {x.numel()} logits were written over"
        """,
        needs=("gradient",),
    )


@case("the caller's logits, written over where no gradient is wanted")
def input_in_place_without_gradient():
    return Probe(
        f"{ROWS}\nbefore = x.clone()",
        """
        with torch.no_grad(): loss(x, y)
        assert torch.equal(x, before), f"{(x != before).sum()} of {x.numel()} logits were written over"
        """,
    )


@case("the caller's labels, written over where they are ignored")
def target_in_place():
    return Probe(
        f"{ROWS}\ny[::5] = -100; before = y.clone()",
        """
        loss(x.requires_grad_(), y, ignore_index=-100).backward()
        assert torch.equal(y, before), f"{(y != before).sum()} of {y.numel()} labels were written over"
        """,
        needs=("ignore_index", "gradient"),
    )


@case("a second backward pass over the same graph")
def backward_twice():
    return Probe(
        ROWS,
        """
        got = loss(x.requires_grad_(), y)
        first, = torch.autograd.grad(3 * got, x, retain_graph=True); first = first.clone()
        second, = torch.autograd.grad(3 * got, x, retain_graph=True)
        assert torch.equal(first, second), f"the second gradient is {(second / first).nanmedian():.3g} times the first"
        """,
        needs=("autograd",),
        refusable=True,
    )


@case("a loss that differs with and without a gradient")
def loss_without_gradient():
    return Probe(
        ROWS,
        """
        with torch.no_grad(): alone = loss(x, y)
        got = loss(x.requires_grad_(), y).detach()
        assert torch.equal(got, alone), f"{got.item()} with a gradient, {alone.item()} without"
        """,
        needs=("gradient",),
    )


@case("two runs, two results")
def runs():
    return Probe(
        "x, y = torch.randn(256, 4099), torch.randint(0, 4099, (256,)); x.requires_grad_()",
        """
        first, *others = [(a := loss(x, y), *torch.autograd.grad(a, x)) for run in range(4)]
        assert all(torch.equal(*pair) for other in others for pair in zip(first, other)), "two runs, two results"
        """,
        needs=("gradient",),
    )


@case("the number of threads changes the result")
def threads():
    return Probe(
        "x, y = torch.randn(300, 1031, requires_grad=True), torch.randint(0, 1031, (300,))",
        """
        def run(n): torch.set_num_threads(n); a = loss(x, y); return a.detach(), *torch.autograd.grad(a, x)
        same = [torch.equal(*pair) for pair in zip(run(1), run(2))]
        assert all(same), f"1 and 2 threads: loss equal {same[0]}, gradient equal {same[1]}"
        """,
        needs=("gradient",),
    )


@case("what surrounds a row changes its loss: one row alone, sixteen, sixteen more, and all")
def batch_split():
    return Probe(
        "",
        f"""
        {EACH}
            x, y = torch.randn(33, v, dtype=dtype) * 4, torch.randint(0, v, (33,))
            got = torch.cat([loss(x[a:b], y[a:b], reduction="none") for a, b in ((0, 1), (1, 17), (17, 33))])
            wrong = (got != loss(x, y, reduction="none")).sum()
            assert not wrong, f"{{v}} classes: the loss of {{wrong}} of 33 rows depends on the batch"
        """,
        needs=("reduction",),
    )


@case("what surrounds a row changes its gradient")
def batch_split_gradient():
    return Probe(
        "",
        f"""
        {EACH}
            x, y = torch.randn(33, v, dtype=dtype, requires_grad=True), torch.randint(0, v, (33,))
            whole, = torch.autograd.grad(loss(x, y, reduction="sum"), x)
            row, = torch.autograd.grad(loss(x[5:6], y[5:6], reduction="sum"), x)
            assert torch.equal(whole[5], row[5]), f"{{v}} classes: the gradient of a row depends on the batch"
        """,
        needs=("reduction", "gradient"),
    )


@case("an exact common offset moves the loss by more than its last digit")
def shift():
    return Probe(
        "x, y = torch.randint(-32, 32, (64, 100)) / 8, torch.randint(0, 100, (64,))",
        """
        plain, moved = loss(x, y, reduction="none"), loss(x + 8, y, reduction="none")
        ulp = torch.finfo(plain.dtype).eps * 2.0 ** (torch.frexp(torch.maximum(plain, moved).double())[1] - 1)
        off = ((plain.double() - moved.double()).abs() / ulp).max().item()
        assert off <= 1, f"an offset of 8, which is exact, moves a loss by {off:.3g} ulp"
        """,
        needs=("reduction",),
    )


@case("a loss below 0")
def negative_loss():
    return Probe(
        "x, y = torch.randn(20000, 3) * 8 + 30, torch.zeros(20000, dtype=torch.long)",
        """
        got = loss(x, y, reduction="none")
        assert not (got < 0).any(), f"{(got < 0).sum()} of 20,000 losses are below 0, down to {got.min().item()}"
        """,
        needs=("reduction",),
    )


@case("a loss called float32 under autocast that was rounded to 16 bits on the way", dtypes=("bfloat16",))
def autocast():
    return Values(
        "x, y = torch.randn(16, 100), torch.randint(0, 100, (16,))",
        'reduction="none"',
        needs=("autograd",),
        under="torch.autocast(x.device.type, torch.bfloat16)",
        judged=("loss",),
    )


@case("memory: more than three tensors of the size of the logits, gradient included", ("logits",), ("float32",))
def memory():
    return Probe(
        "x, y = torch.randn(512, 32768, requires_grad=True), torch.randint(0, 32768, (512,))",
        """
        peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 2**16
        open("/proc/self/clear_refs", "w").write("5"); before = peak()
        loss(x, y).backward(); took = peak() - before
        assert took < 3.1, f"{took:.2f} times the logits of 64 MiB"
        """,
        needs=("autograd", "linux"),
    )
