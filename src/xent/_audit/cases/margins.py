"""A label far above the other classes, or far below: where log(1 + tiny) and p - 1 lose every digit."""

from ..case import WIDE, Values, case

RIGHT = """
x, y = torch.zeros(8, 10), torch.full((8,), 3)
x[:, 3] = torch.linspace({low}, {high}, 8)
"""


@case("log of a number near 1: a label 5 to 16 nats above the rest", dtypes=WIDE)
def log_near_one():
    return Values(RIGHT.format(low=5, high=16), 'reduction="none"', judged=("loss",))


@case("log(1 + tiny) as log(1): a label 17 to 80 nats above the rest has loss 0")
def log_of_one_plus_tiny():
    return Values(RIGHT.format(low=17, high=80), 'reduction="none"', judged=("loss",))


@case("p - 1 where p is near 1: a label 5 to 16 nats above the rest", dtypes=WIDE)
def p_minus_one_near_one():
    return Values(RIGHT.format(low=5, high=16), 'reduction="none"', judged=("gradient",))


@case("p - 1 where p is 1: the gradient of a label 17 to 80 nats above the rest is 0, and the row does not sum to 0")
def p_minus_one():
    return Values(RIGHT.format(low=17, high=80), 'reduction="none"', judged=("gradient",))


@case("a margin of 120 nats: the softmax underflows, and so may the loss")
def softmax_underflows():
    return Values(RIGHT.format(low=120, high=127), 'reduction="none"')


@case("log(softmax): a label 5 to 120 nats below the peak has probability 0 and loss inf")
def log_of_zero():
    return Values(
        """
        x, y = torch.zeros(8, 10), torch.full((8,), 3)
        x[:, 3] = -torch.linspace(5, 120, 8)
        """,
        'reduction="none"',
    )


@case("a label above all but one class: two rivals far above the rest")
def two_rivals():
    return Values(
        """
        x, y = torch.randn(8, 30), torch.full((8,), 3)
        x[:, 3], x[:, 4] = 60.0, torch.linspace(40, 60, 8)
        """,
        'reduction="none"',
    )


@case("a confident teacher and a confident student: q log p of both near 0 and near 1", dtypes=WIDE)
def confident_teacher():
    return Values(
        """
        x, y = torch.zeros(4, 6), torch.full((4, 6), 2.0**-40)
        x[:, 2], y[:, 2] = torch.tensor([5.0, 20.0, 40.0, 60.0]), 1 - 5 * 2.0**-40
        """,
        'reduction="none"',
        needs=("probabilities",),
        judged=("loss",),
    )
