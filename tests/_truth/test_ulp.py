"""The yardstick: one ulp is one ulp, an infinity is owed where the dtype has no number, a flush is forgiven."""

import math

import pytest
import torch

from xent._truth import Exact, unit, worst


def exact(*numbers):
    high = torch.tensor(numbers, dtype=torch.float64)
    return Exact(high, torch.zeros_like(high))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("number", [1.0, 1.5, 2.0, 0.3, 7.0])
def test_the_next_float_is_one_ulp_away(dtype, number):
    here = torch.tensor([number], dtype=dtype)
    step = unit(here.double(), dtype).item()
    there = here + torch.tensor([step], dtype=dtype)
    assert there.double() - here.double() == step
    assert worst(there, exact(here.item())).ulp == 1
    assert (here.double() + step / 4).to(dtype) == here


def test_the_low_part_counts():
    true = Exact(torch.tensor([1.0], dtype=torch.float64), torch.tensor([2.0**-60], dtype=torch.float64))
    assert worst(torch.tensor([1.0], dtype=torch.float64), true).ulp == 2.0**-8


def test_the_worst_is_found_and_placed():
    got = torch.tensor([[1.0, 2.0], [3.0, 4.5]])
    off = worst(got, exact(1.0, 2.0, 3.0, 4.0).reshape((2, 2)))
    assert (off.at, off.got, off.true) == ((1, 1), 4.5, 4.0)
    assert off.ulp == 0.5 / 2.0**-21


@pytest.mark.parametrize(
    ("got", "true", "ulp"),
    [
        (math.inf, 1e39, 0.0),
        (-math.inf, 1e39, math.inf),
        (3e38, 1e39, math.inf),
        (math.inf, math.inf, 0.0),
        (math.nan, math.inf, math.inf),
        (math.nan, 1.0, math.inf),
        (math.inf, 1.0, math.inf),
        (5.0, math.nan, 0.0),
        (0.0, 1e-39, 0.0),
    ],
)
def test_infinities_nan_and_flushes(got, true, ulp):
    assert worst(torch.tensor([got]), exact(true)).ulp == ulp


def test_a_flush_is_seen_where_it_is_asked_for():
    assert worst(torch.tensor([0.0]), exact(1e-39), subnormal=True).ulp > 1000
    assert worst(torch.tensor([0.0], dtype=torch.float16), exact(1e-6)).ulp > 10


def test_a_size_is_the_measure_of_a_difference():
    assert worst(torch.tensor([1e-8]), exact(0.0), torch.tensor([1.0], dtype=torch.float64)).ulp < 0.1
