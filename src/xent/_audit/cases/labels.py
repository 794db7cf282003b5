"""Labels of other dtypes, and arguments that have to be refused."""

from ..case import Probe, Values, case

REFUSED = """
try: got = loss(x, {y})
except Exception as refusal: got = torch.nan * x.sum(); assert not isinstance(refusal, UnicodeError), repr(refusal)
assert got.isnan().any(), f"{what}, and a loss of {{got.sum().item()}}"
"""


def refused(y: str, what: str) -> str:
    """A call that has to raise, or to give nan; never a number."""
    return REFUSED.replace("{y}", y).replace("{what}", what).replace("{{", "{").replace("}}", "}")


@case("labels of int32")
def int32_labels():
    return Values("x, y = torch.randn(8, 10), torch.randint(0, 10, (8,), dtype=torch.int32)", refusable=True)


@case("labels of uint8, beyond 127")
def uint8_labels():
    return Values("x, y = torch.randn(8, 256), torch.arange(124, 132, dtype=torch.uint8) + 124", refusable=True)


@case("a label of V: a row read beyond its end")
def label_too_large():
    return Probe("x, y = torch.randn(4, 10), torch.tensor([1, 10, 2, 3])", refused("y", "label 10 of 10 classes"))


@case("a label of -1 that is not ignored: counted from the end, or taken for one that is")
def negative_label():
    return Probe("x, y = torch.randn(4, 10), torch.tensor([1, -1, 2, 3])", refused("y", "label -1"))


@case("a label beyond 32 bits, cut to a class")
def label_beyond_32_bits():
    return Probe("x, y = torch.randn(4, 10), torch.tensor([1, 2**32 + 1, 2, 3])", refused("y", "label 2**32 + 1"))


@case("a label of uint8 beyond the classes: an error that says so, not one of its own making")
def uint8_label_too_large():
    return Probe(
        "x, y = torch.randn(2, 10), torch.tensor([1, 255], dtype=torch.uint8)",
        refused('y, reduction="none"', "label 255 of 10 classes"),
        needs=("reduction",),
    )


@case("more labels than rows")
def too_many_labels():
    return Probe("x, y = torch.randn(4, 10), torch.randint(0, 10, (8,))", refused("y", "8 labels for 4 rows"))


@case("class weights of another number of classes")
def wrong_number_of_weights():
    return Probe(
        "x, y, w = torch.randn(4, 5), torch.tensor([0, 1, 2, 3]), torch.ones(7)",
        refused("y, weight=w", "7 weights for 5 classes"),
        needs=("weight",),
    )


@case("a smoothing of -0.1, taken for none")
def negative_smoothing():
    return Probe(
        "x, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])",
        refused("y, label_smoothing=-0.1", "label_smoothing=-0.1"),
        needs=("label_smoothing",),
    )
