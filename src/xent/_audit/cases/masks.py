"""Logits of -inf: classes that cannot be, and 0 * inf."""

from ..case import Values, case

MASKED = """
x, y = torch.randn(16, 40), torch.randint(0, 40, (16,))
x[:, ::3] = -torch.inf; y = torch.where(y % 3 == 0, 1, y)
"""


@case("exp(-inf): a third of the classes masked")
def masked_classes():
    return Values(MASKED, 'reduction="none"')


@case("-inf - -inf: a block of 4,096 leading classes masked")
def masked_block():
    return Values(
        """
        x, y = torch.randn(2, 4160), torch.tensor([4096, 4159])
        x[:, :4096] = -torch.inf
        """,
        'reduction="none"',
    )


@case("every class masked but the label: the loss is 0")
def only_the_label_left():
    return Values(
        """
        x, y = torch.full((3, 7), -torch.inf), torch.full((3,), 2)
        x[:, 2] = torch.tensor([0.0, 5.0, -5.0])
        """,
        'reduction="none"',
    )


@case("a label that is masked: its loss is inf, not nan, and its neighbours are untouched")
def masked_label():
    return Values(
        """
        x, y = torch.randn(3, 5), torch.tensor([0, 4, 1])
        x[:, 4] = -torch.inf
        """,
        'reduction="none"',
        judged=("loss",),
    )


@case("0 * inf: probabilities of 0 on masked classes")
def no_probability_on_a_mask():
    return Values(
        """
        x, y = torch.randn(4, 6), torch.tensor([[0.0, 0.0, 0.5, 0.25, 0.125, 0.125]]).repeat(4, 1)
        x[:, :2] = -torch.inf
        """,
        'reduction="none"',
        needs=("probabilities",),
    )


@case("0 * inf: a masked class whose weight is 0, with label smoothing")
def no_weight_on_a_mask():
    return Values(
        """
        x, y, w = torch.randn(4, 6), torch.tensor([0, 1, 2, 3]), torch.ones(6)
        x[:, 5], w[5] = -torch.inf, 0.0
        """,
        'weight=w, label_smoothing=0.1, reduction="none"',
    )


@case("label smoothing asks for a masked class: the loss is inf, not nan")
def smoothing_on_a_mask():
    return Values(MASKED, 'label_smoothing=0.1, reduction="none"', judged=("loss",))


@case("0 * nan: ignored rows that hold nan and inf")
def ignored_nan():
    return Values(
        """
        x, y = torch.randn(6, 9), torch.arange(6)
        x[1], x[4], y[1], y[4] = torch.nan, torch.inf, -100, -100
        """,
        "ignore_index=-100",
    )
