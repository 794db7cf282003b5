"""Class weights, smoothing, ignored labels, probabilities: the formulas of torch's documentation."""

from ..case import HALF, Values, case

ROWS = "x, y = torch.randn(16, 12), torch.randint(0, 12, (16,))"


@case("the divisor of a weighted mean: the weights of the labels, not the number of rows")
def weights():
    return Values(f"{ROWS}\nw = torch.rand(12) + 0.5", "weight=w")


@case("the mean of one weighted row, where the weight cancels")
def weight_of_one_row():
    return Values("x, y, w = torch.randn(1, 4), torch.tensor([2]), torch.tensor([1.0, 2.0, 0.25, 4.0])", "weight=w")


@case("classes of weight 0")
def weights_of_zero():
    return Values(f"{ROWS}\nw = (torch.arange(12) % 3) * 1.0", 'weight=w, reduction="none"')


@case("label smoothing: e / V for every class, the label too")
def smoothing():
    return Values(ROWS, "label_smoothing=0.1")


@case("label smoothing of logits 120 nats apart: a sum over log(0)")
def smoothing_far_apart():
    return Values(
        """
        x, y = torch.zeros(4, 8), torch.tensor([0, 1, 0, 1])
        x[:, 0], x[:, 5] = 60.0, -60.0
        """,
        'label_smoothing=0.1, reduction="none"',
    )


@case("label smoothing of everything: e = 1")
def smoothing_of_one():
    return Values(ROWS, 'label_smoothing=1.0, reduction="none"')


@case("label smoothing of 32,000 classes in 16 bits: a sum that overflows", dtypes=HALF)
def smoothing_in_16_bits():
    return Values("x, y = torch.randn(2, 32000) * 4, torch.tensor([3, 4])", 'label_smoothing=0.1, reduction="none"')


@case("label smoothing with class weights: weights inside the sum, not in the divisor")
def smoothing_and_weights():
    return Values(f"{ROWS}\nw = torch.rand(12) + 0.5", "weight=w, label_smoothing=0.2")


@case("ignored labels: left out of the mean and of its divisor")
def ignored():
    return Values(f"{ROWS}\ny[::3] = -100", "ignore_index=-100")


@case("an ignore_index that is a class, off by one on either side")
def ignored_class():
    return Values("x, y = torch.randn(9, 6), torch.tensor([2, 3, 4, 2, 3, 4, 0, 5, 3])", "ignore_index=3")


@case("ignored labels with smoothing: nothing of an ignored row counts")
def ignored_and_smoothing():
    return Values(f"{ROWS}\ny[::3] = 5", "ignore_index=5, label_smoothing=0.3")


@case("ignored labels with class weights: their weights left out of the divisor")
def ignored_and_weights():
    return Values(f"{ROWS}\nw = torch.rand(12) + 0.5; y[1::4] = 7", "ignore_index=7, weight=w")


@case("class probabilities as the target")
def probabilities():
    return Values("x, y = torch.randn(8, 10), torch.randn(8, 10).softmax(1)", needs=("probabilities",))


@case("class probabilities with weights: a mean divided by the rows, not by the weights")
def probabilities_and_weights():
    return Values(
        "x, y, w = torch.randn(8, 10), torch.randn(8, 10).softmax(1), torch.rand(10) + 0.5",
        "weight=w",
        needs=("probabilities",),
    )


@case("class probabilities with smoothing: q (1 - e) + e / V")
def probabilities_and_smoothing():
    return Values(
        "x, y = torch.randn(8, 10), torch.randn(8, 10).softmax(1)",
        "label_smoothing=0.1",
        needs=("probabilities",),
    )


@case("probabilities that do not sum to 1: the gradient is A p - q, not p - q")
def unnormalised_probabilities():
    return Values(
        "x, y = torch.randn(8, 10), torch.rand(8, 10)", 'reduction="none"', needs=("probabilities", "unnormalised")
    )
