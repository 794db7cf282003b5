"""Rows of logits: their number of classes, their size, where they lie."""

from ..case import HALF, WIDE, Probe, Values, case


@case("nothing in particular: random logits")
def random():
    return Values("x, y = torch.randn(64, 100), torch.randint(0, 100, (64,))")


@case("a gradient that leads uphill")
def sign_of_the_gradient():
    return Values("x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([1])", judged=("gradient",))


@case("exp of a rounded difference: logits tens of nats apart")
def spread():
    return Values("x, y = torch.randn(32, 100) * 10, torch.randint(0, 100, (32,))", 'reduction="none"')


@case("one class: the loss is 0 and so is the gradient")
def one_class():
    return Values("x, y = torch.randn(5, 1), torch.zeros(5, dtype=torch.long)", 'reduction="none"', refusable=True)


@case("two classes, the smallest problem")
def two_classes():
    return Values("x, y = torch.randn(64, 2), torch.randint(0, 2, (64,))", 'reduction="none"')


@case("127 classes: a vector with a tail")
def tail_of_a_vector():
    return Values("x, y = torch.randn(16, 127), torch.full((16,), 126)", 'reduction="none"')


@case("1,025 classes: a block and one more")
def one_more_than_a_block():
    return Values("x, y = torch.randn(16, 1025), torch.full((16,), 1024)", 'reduction="none"')


@case("a sum of 128,256 exponentials")
def vocabulary():
    return Values("x, y = torch.randn(1, 128256), torch.tensor([7])", 'reduction="none"')


@case("a sum of 128,256 small exponentials beside a 1, which eats them", dtypes=WIDE)
def vocabulary_confident():
    return Values(
        """
        x, y = torch.randn(2, 128256), torch.tensor([7, 128255])
        x[0, 7], x[1, -1] = 15.0, 20.0
        """,
        'reduction="none"',
    )


@case("labels of the first and of the last class")
def first_and_last_class():
    return Values("x, y = torch.randn(4, 33), torch.tensor([0, 32, 0, 32])", 'reduction="none"')


@case("equal logits, which share the peak")
def ties():
    return Values(
        "x, y = torch.randint(0, 3, (32, 20)) * 1.0, torch.randint(0, 20, (32,))",
        'reduction="none"',
    )


@case("peaks apart by the last digit")
def near_ties():
    return Values(
        """
        x, y = torch.randn(16, 9), torch.zeros(16, dtype=torch.long)
        x[:, 0], x[:, 1] = 8.0, 8.0 - 2.0**-20
        """,
        'reduction="none"',
    )


@case(
    "lse - x[y]: logits with a common offset of 10,000, of which a logarithm of the sum loses the fraction", dtypes=WIDE
)
def offset():
    return Values("x, y = torch.randint(-8, 8, (32, 50)) / 4 + 1e4, torch.randint(0, 50, (32,))", 'reduction="none"')


@case("lse - x[y]: an offset of 2^60, beside which the logarithm of the sum is nothing", dtypes=(*WIDE, "bfloat16"))
def huge_offset():
    return Values("x, y = torch.full((4, 50), 2.0**60), torch.tensor([0, 1, 2, 49])", 'reduction="none"')


@case("exp without the peak subtracted: logits of 1,000 overflow")
def overflow():
    return Values(
        "x, y = torch.tensor([[1000.0, 999.0, 0.0], [-1000.0, 0.0, 1000.0]]), torch.tensor([1, 2])",
        'reduction="none"',
    )


@case("exp without the peak subtracted: logits of -1,000 sum to 0")
def underflow():
    return Values("x, y = torch.randint(-8, 8, (16, 20)) / 4 - 1000, torch.randint(0, 20, (16,))", 'reduction="none"')


@case("the largest numbers of float32, whose difference overflows", dtypes=("float32",))
def largest_numbers():
    return Values(
        "x, y = torch.tensor([[3e38, -3e38, 0.0], [-3e38, -3e38, 3e38]]), torch.tensor([0, 2])",
        'reduction="none"',
    )


@case("gradients below the smallest normal number, flushed to 0", dtypes=("float32",))
def gradual_underflow():
    return Values(
        "x, y = torch.tensor([[0.0, -1.0, -100.0], [0.0, -95.0, -20.0]]), torch.tensor([1, 2])",
        'reduction="none"',
        judged=("gradient",),
        subnormal=True,
    )


@case("logits of 16 bits: log-probabilities rounded to 16 bits before one is picked", dtypes=HALF)
def rounded_log_probabilities():
    return Values("x, y = torch.randn(32, 1000), torch.randint(0, 1000, (32,))", 'reduction="none"')


@case("every second column of a wider tensor")
def strided():
    return Values("x, y = torch.randn(8, 66)[:, 1::2], torch.randint(0, 33, (8,))", 'reduction="none"')


@case("rows that lie in memory as columns")
def transposed():
    return Values("x, y = torch.randn(50, 7).t(), torch.randint(0, 50, (7,))", 'reduction="none"')


@case("one row that stands for many: stride 0")
def expanded():
    return Values("x, y = torch.randn(1, 40).expand(9, 40), torch.randint(0, 40, (9,))", 'reduction="none"')


@case("images: classes on the second of four dimensions", signatures=("logits",))
def images():
    return Values(
        "x, y = torch.randn(2, 5, 3, 4), torch.randint(0, 5, (2, 3, 4))",
        'reduction="none"',
        needs=("dims",),
    )


@case("a row without a batch", signatures=("logits",))
def without_a_batch():
    return Values("x, y = torch.randn(10), torch.tensor(3)", needs=("dims",))


@case("no rows at all: a sum of 0, and no crash", signatures=("logits",))
def no_rows():
    return Probe(
        "x, y = torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)",
        """
        got = loss(x, y, reduction="sum")
        assert got.item() == 0, f"the sum over nothing is {got.item()}"
        """,
        needs=("reduction",),
        refusable=True,
    )
