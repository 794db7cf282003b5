"""A report as text: Markdown for an issue, plain lines for a terminal."""

from collections.abc import Iterable

from .report import FAIL, Measured, Outcome, Report


def markdown(report: Report) -> str:
    """The verdict, the table, each finding with its reproducer, and how to get the same again."""
    if report.missing is not None:
        return f"### xent audit `{report.target}`: {report.missing}\n"
    parts = [f"### xent audit `{report.target}`: {_count(report)}", "\n".join(_table(report))]
    parts += [f"{o.finding.what}\n\n```python\n{o.finding.reproducer}\n```" for o in report.failures if o.finding]
    return "\n\n".join([*parts, _foot(report)]) + "\n"


def terminal(report: Report) -> str:
    """The same without marks: a line a case, then the findings."""
    if report.missing is not None:
        return report.verdict
    width = max((len(outcome.case) for outcome in report.outcomes), default=4)
    head = f"{'':<4} {'case':<{width}}  {'loss':>9} {'gradient':>9}   torch"
    text = [head, *(_line(outcome, width) for outcome in report.outcomes), ""]
    for outcome in report.failures:
        if outcome.finding is not None:
            text += [outcome.finding.what, *(f"    {line}" for line in outcome.finding.reproducer.split("\n")), ""]
    return "\n".join([*text, _foot(report), report.verdict])


def summary(reports: Iterable[Report]) -> str:
    """One row for each of several targets, as Markdown."""
    rows = ["| target | versions | cases judged | fails | found by |", "|---|---|--:|--:|---|"]
    for report in reports:
        own = {k: v for k, v in report.versions.items() if k not in ("python", "xent") or k == report.target}
        versions = ", ".join(f"{name} {version}" for name, version in own.items())
        if report.missing is not None:
            rows.append(f"| `{report.target}` | {versions} | | | {report.missing} |")
            continue
        found = ", ".join(f"`{outcome.case}`" for outcome in report.failures)
        rows.append(f"| `{report.target}` | {versions} | {len(report.judged)} | {len(report.failures)} | {found} |")
    return "\n".join(rows) + "\n"


def _count(report: Report) -> str:
    return report.verdict.removeprefix(f"{report.target}: ").partition(":")[0]


def _table(report: Report) -> list[str]:
    rows = ["| case | dtype | loss (ulp) | gradient (ulp) | allowed | torch | |", "|---|---|--:|--:|--:|--:|---|"]
    for o in report.outcomes:
        parts = [part for part in (o.loss, o.gradient) if part is not None]
        allowed = " / ".join(dict.fromkeys(f"{part.allowed:g}" for part in parts))
        verdict = f"**{FAIL}**" if o.status == FAIL else o.status
        aside = f": {_cell(o.detail)}" if o.detail and o.status != FAIL else ""
        loss, gradient = _ulp(o.loss), _ulp(o.gradient)
        rows.append(f"| {o.case} | {o.dtype} | {loss} | {gradient} | {allowed} | {_torch(o)} | {verdict}{aside} |")
    return rows


def _line(outcome: Outcome, width: int) -> str:
    mark = "FAIL" if outcome.status == FAIL else "ok" if outcome.status == "ok" else "-"
    aside = "" if outcome.status in ("ok", FAIL) else f"   {outcome.status}: {outcome.detail}"
    numbers = f"{_ulp(outcome.loss):>9} {_ulp(outcome.gradient):>9}   {_torch(outcome)}"
    return f"{mark:<4} {outcome.case:<{width}}  {numbers}{aside}".rstrip()


def _torch(outcome: Outcome) -> str:
    errors = [_number(part.torch) for part in (outcome.loss, outcome.gradient) if part is not None]
    return " / ".join(errors) or outcome.torch


def _ulp(measured: Measured | None) -> str:
    return "" if measured is None else _number(measured.ulp)


def _number(ulp: float | None) -> str:
    return "-" if ulp is None else f"{ulp:.2g}" if ulp < 10 else f"{ulp:.0f}" if ulp < 1e5 else f"{ulp:.0e}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _foot(report: Report) -> str:
    versions = " · ".join(f"{name} {version}" for name, version in report.versions.items())
    few = report.outcomes if len(report.outcomes) <= 3 else ()
    options = "".join(f" --case {outcome.case}" for outcome in few if outcome.case != "fuzz")
    options += "".join(f" --{k} {v}" for k, v in (("dtype", report.dtype), ("seed", report.seed or None)) if v)
    options += f" --device {report.device}" if report.device != "cpu" else ""
    options += f" --signature {report.signature}" if ":" in report.target and report.signature != "logits" else ""
    again = f"xent audit {report.target}{options}"
    return f"{versions} · {report.device} · truth by {report.truth} · {report.seconds} s · again: `{again}`"
