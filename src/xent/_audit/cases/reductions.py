"""Means and sums, long ones, and what comes back through them from above."""

from ..case import HALF, Probe, Values, case

ROWS = "x, y = torch.randn(16, 12), torch.randint(0, 12, (16,))"


@case("a sum divided by anything")
def sum_of_rows():
    return Values(ROWS, 'reduction="sum"')


@case("the divisor of a plain mean: the number of rows")
def mean_of_rows():
    return Values(ROWS)


@case("a mean of 100,000 rows in 16 bits, whose count and sum are beyond float16", dtypes=HALF)
def mean_of_many_rows():
    return Values(
        "x, y = torch.tensor([[0.0, 0.0], [3.0, 0.0]]).repeat(50000, 1), torch.tensor([0, 1]).repeat(50000)",
        times=50000,
    )


@case("a mean of 1,000,000 rows, added up in the dtype of the logits")
def mean_of_a_million_rows():
    return Values(
        "x, y = torch.tensor([[0.0, 0.0], [3.0, 0.0]]).repeat(500000, 1), torch.tensor([0, 1]).repeat(500000)",
        judged=("loss",),
        times=500000,
    )


@case("a weighted mean of 100,000 rows in 16 bits: the sum of weights overflows", dtypes=HALF)
def weighted_mean_of_many_rows():
    return Values(
        """
        x, y = torch.tensor([[0.0, 0.0], [3.0, 0.0]]).repeat(50000, 1), torch.tensor([0, 1]).repeat(50000)
        w = torch.tensor([2.0, 3.0])
        """,
        "weight=w",
        judged=("loss",),
        times=50000,
    )


@case("a gradient that ignores what comes from above: random factors for the losses of rows")
def upstream_of_rows():
    return Values(f"{ROWS}\ng = torch.randn(16)", 'reduction="none"')


@case("a gradient that ignores what comes from above: a mean scaled by 4,096")
def upstream_of_a_mean():
    return Values(f"{ROWS}\ng = torch.tensor(4096.0)")


@case("a gradient from above of 0 for some rows")
def upstream_of_zero():
    return Values(f"{ROWS}\ng = (torch.arange(16) % 2) * 1.0", 'reduction="none"')


@case("every label ignored: the gradient is 0, not nan, and the mean nan or 0")
def all_ignored():
    return Probe(
        "x, y = torch.randn(3, 5, requires_grad=True), torch.full((3,), -100)",
        """
        got = loss(x, y, ignore_index=-100); got.backward()
        assert got.isnan() or got == 0, f"the mean over nothing is {got.item()}"
        assert not x.grad.any(), f"the gradient of nothing is {x.grad[0].tolist()}"
        """,
        needs=("ignore_index", "gradient"),
    )


@case("every label ignored: a sum of 0")
def all_ignored_sum():
    return Probe(
        "x, y = torch.randn(3, 5), torch.full((3,), -100)",
        """
        got = loss(x, y, ignore_index=-100, reduction="sum")
        assert got.item() == 0, f"the sum over nothing is {got.item()}"
        """,
        needs=("ignore_index", "reduction"),
    )
