"""The sum that does not depend on order, and the algebra on facts."""

import math
from fractions import Fraction

import pytest
import torch

from xent import _algebra, backends

CPU = torch.device("cpu")
SUMS = [_algebra.exact_sum, _algebra._sum_by_limbs, *{b.exact_sum for b in backends.TABLE if b.serves(CPU) is None}]

SPREADS = {
    "alike": lambda n, g: torch.rand(n, generator=g, dtype=torch.float64),
    "35 powers of ten": lambda n, g: torch.exp(torch.rand(n, generator=g, dtype=torch.float64) * -80),
    "beyond 2**128": lambda n, g: torch.exp(torch.randn(n, generator=g, dtype=torch.float64) * 50) * 1e200,
    "subnormal": lambda n, g: torch.rand(n, generator=g, dtype=torch.float64) * 1e-310,
    "signs that cancel": lambda n, g: torch.randn(n, generator=g, dtype=torch.float64),
}


@pytest.mark.parametrize("name", SPREADS)
@pytest.mark.parametrize("count", [1, 2, 63, 5000, 200_000])
@pytest.mark.parametrize("sum_of", SUMS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_one_rounding_in_any_order(name, count, sum_of):
    g = torch.Generator().manual_seed(count)
    values = SPREADS[name](count, g)
    exact = sum(map(Fraction, values.tolist()))
    got = sum_of(values)
    assert abs(Fraction(got.item()) - exact) <= Fraction(math.ulp(float(exact))) * Fraction(51, 100)
    for _ in range(3):
        assert torch.equal(sum_of(values[torch.randperm(count, generator=g)]), got)


@pytest.mark.parametrize("sum_of", SUMS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_what_is_not_finite(sum_of):
    inf, nan = math.inf, math.nan
    for values, want in {(1.0, inf): inf, (-inf, 2.0): -inf, (inf, -inf): nan, (nan, 1.0): nan, (): 0.0}.items():
        got = sum_of(torch.tensor(values, dtype=torch.float64))
        torch.testing.assert_close(got.item(), want, equal_nan=True)


@pytest.mark.parametrize("sum_of", SUMS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_a_partial_sum_may_exceed_the_largest_float(sum_of):
    values = torch.tensor([1.5e308, 1.5e308, -1.5e308], dtype=torch.float64)
    assert sum_of(values).item() == 1.5e308
    assert sum_of(values[:2]).item() == math.inf


LIMBS = (_algebra._sum_by_limbs, backends.triton.exact_sum)
"""They keep 110 and 147 bits below the largest value; the other sums keep all."""


@pytest.mark.parametrize("sum_of", [s for s in SUMS if s not in LIMBS], ids=lambda f: f.__module__)
def test_what_cancels_to_the_last_bit(sum_of):
    tiny = 5e-324
    for values in ([1e308, tiny, -1e308], [-1.0, 2.0**-60, 1.0], [1.0, 2.0**-53, 2.0**-106], [-3.0, 1.0], [tiny] * 5):
        assert sum_of(torch.tensor(values, dtype=torch.float64)).item() == math.fsum(values)


def test_a_block_boundary_is_no_boundary():
    values = torch.rand(10_001, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert _algebra._sum_by_limbs(values, block=64).item() == math.fsum(values.tolist())


def test_leading_dimensions_stay():
    values = torch.rand(3, 4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = _algebra.exact_sum(values)
    assert got.tolist() == [[math.fsum(row) for row in rows] for rows in values.tolist()]


def test_a_row_that_asks_nothing_has_no_loss_whatever_its_logits():
    nan, zero = torch.tensor(math.nan), torch.tensor(0.0)
    assert _algebra.hard(mass=zero, rest=nan, picked=zero) == 0


def test_signs_that_cancel_in_the_mass_still_have_a_loss():
    """An attraction of +1 and -1 sums to zero and is not nothing."""
    assert _algebra.hard(mass=torch.tensor(0.0), rest=torch.tensor(1.0), picked=torch.tensor(-2.0)) == 2
