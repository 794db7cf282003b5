"""`xent audit`: from the names on the command line to reports and an exit code."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace

from .._implementations import CATALOGUE, Implementation, find
from .fuzz import fuzz
from .render import markdown, summary, terminal
from .report import Report
from .run import chosen_cases, missing, report
from .setting import Setting

PASSED, FINDINGS, NOT_LOADED = 0, 1, 3


def reports(
    targets: Iterable[str],
    everything: bool,
    tell: Callable[[str], None],
    cases: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
    signature: str | None = None,
    dtype: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    **search: int | None,
) -> list[Report]:
    """One a target. What is missing is told in its report with `everything`, and raised where it was named."""
    setting, chosen = Setting(dtype, device, seed), chosen_cases(cases or None, skip)
    found = [find(target, signature) for target in targets]
    found += [one for one in CATALOGUE.values() if everything and one not in found]
    results = []
    for one in found:
        reason = one.missing() or one.refusal(device, dtype or one.dtypes[0])
        if everything and reason is not None:
            results.append(missing(one, setting, reason))
            continue
        if len(found) > 1:
            tell(f"auditing {one.name} ...")
        loss = one.load()
        result = report(one, chosen, setting, loss)
        results.append(result if search.get("fuzz") is None else _searched(result, one, loss, setting, search["fuzz"]))
    return results


def _searched(result: Report, one: Implementation, loss, setting: Setting, examples: int | None) -> Report:
    return replace(result, outcomes=(*result.outcomes, fuzz(one, loss, setting, examples or 1)))


def rendered(reports: list[Report], style: str | None) -> str:
    """As text for a terminal, or as ``'markdown'``, ``'summary'``, ``'json'``."""
    if style == "json":
        documents = [one.to_dict() for one in reports]
        whole = documents[0] if len(documents) == 1 else {"schema": "xent.audit/1", "reports": documents}
        return json.dumps(whole, allow_nan=False, ensure_ascii=False)
    if style == "summary":
        return summary(reports).rstrip()
    return "\n\n".join((markdown if style == "markdown" else terminal)(one).rstrip() for one in reports)


def exit_code(reports: list[Report]) -> int:
    """0 where everything that is here passes, 1 where something was found, 3 where nothing could be judged."""
    here = [one for one in reports if one.missing is None]
    if any(one.failures for one in here):
        return FINDINGS
    return PASSED if any(one.judged for one in here) else NOT_LOADED


def listing() -> str:
    """Every case with what it breaks, and every implementation with what it misses."""
    cases = chosen_cases(None)
    width = max(len(case.name) for case in cases)
    text = [f"{case.name:<{width}}  {case.breaks}" for case in cases]
    text += ["", *(f"{one.name:<{width}}  {one.missing() or 'installed'}" for one in CATALOGUE.values())]
    return "\n".join(text)
