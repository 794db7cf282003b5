"""The row of highest loss as a formula with its numbers in it, for notebooks on paper."""

from ..derivation import Derivation, worst
from ..numerals import number, significant, whole_number
from ..parts import Row


def latex(derivation: Derivation) -> str:
    """Aligned lines of display mathematics."""
    row = worst(derivation.rows)
    lines = [] if row is None or row.ignored else _row(row, derivation)
    lines += _reduction(derivation)
    return "$$\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}$$"


def _row(row: Row, derivation: Derivation) -> list[str]:
    shaped = derivation.softcap is not None or derivation.logit_scale != 1
    z = "x" if shaped else "z"
    picked, rest = row.picked, _value(number(row.rest))
    lines = [
        rf"m &= \max_j {z}_j = {_value(number(row.peak))}",
        rf"\operatorname{{logsumexp}} {z} &= m + \log\Big(1 + \sum_{{j \ne j^*}} e^{{{z}_j - m}}\Big)"
        rf" = {_value(number(row.peak))} + \log(1 + {rest}) = {_value(number(row.logsumexp))}",
    ]
    if picked is not None:
        y = picked.index
        lines.append(
            rf"-\log p_{{{y}}} &= \operatorname{{logsumexp}} {z} - {z}_{{{y}}} = {_value(number(row.logsumexp))} - "
            rf"({_value(number(picked.shaped))}) = {_value(number(-picked.log_probability))}"
        )
        lines.append(rf"\partial L / \partial z_{{{y}}} &= {_value(number(picked.gradient))}")
    token, close = (r"t \Big(", r"\Big)") if derivation.token_weighted else ("", "")
    z_loss = r" + \zeta \operatorname{logsumexp}^2" if derivation.z_loss else ""
    asked = r"\sum_j a_j (-\log p_j)"
    where = ", ".join(map(str, row.index)) or "0"
    lines.append(rf"\ell_{{{where}}} &= {token}{asked}{z_loss}{close} = {_value(number(row.loss))}")
    return lines


def _reduction(derivation: Derivation) -> list[str]:
    how = derivation.reduction
    if derivation.loss is None:
        return []
    total, loss = _value(number(how.total)), _value(significant(derivation.loss))
    if how.name != "mean":
        return [rf"L &= \sum_n \ell_n = {loss}"]
    divisor = _value(whole_number(how.divisor)).replace(",", "{,}")
    return [rf"L &= \frac{{1}}{{D}} \sum_n \ell_n = \frac{{{total}}}{{{divisor}}} = {loss}"]


def _value(text: str) -> str:
    """A number as print sets it."""
    if text.lstrip("-") in ("inf", "nan"):
        return text.replace("inf", r"\infty").replace("nan", r"\text{nan}")
    mantissa, _, exponent = text.partition("e")
    return rf"{mantissa} \times 10^{{{int(exponent)}}}" if exponent else text
