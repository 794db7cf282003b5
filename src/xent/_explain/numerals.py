"""How numbers are written: enough digits to follow the arithmetic, never a zero that is not one."""

import math


def number(value: float, places: int = 6) -> str:
    """Fixed point where that shows enough digits, scientific elsewhere."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if 10.0 ** (-1 - places // 2) <= abs(value) < 1e6:
        away = math.nextafter(value, math.copysign(math.inf, value))  # a half goes up, as in every browser
        return f"{away:.{places}f}"
    return f"{value:.{max(places - 2, 2)}e}"


def short(value: float) -> str:
    """Four digits."""
    return number(value, 4)


def signed(value: float) -> str:
    """Four digits and the sign."""
    return f"+{short(value)}" if value > 0 else short(value)


def significant(value: float, digits: int = 11) -> str:
    """For numbers to be compared digit by digit."""
    if not math.isfinite(value) or value == 0 or 1e-4 <= abs(value) < 1e6:
        whole = len(str(int(abs(value)))) if math.isfinite(value) else 0
        return f"{value:.{max(digits - whole, 1)}f}" if math.isfinite(value) and value else number(value)
    return f"{value:.{digits - 1}e}"


def whole_number(value: float) -> str:
    """As a count where it is one."""
    return f"{value:,.0f}" if value.is_integer() else number(value)
