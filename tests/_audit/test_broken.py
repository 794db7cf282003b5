"""Each wrong loss is caught by the cases that name what is wrong with it, and its reproducers show it."""

import pytest

import xent

from . import broken


def audited(loss, signature, *cases):
    return xent.audit(f"tests._audit.broken:{loss.__name__}", signature=signature, cases=cases)


def shown(outcome):
    """The message of the `assert` that the reproducer ends in."""
    lines = outcome.finding.reproducer.split("\n")
    assert len(lines) <= 8
    try:
        exec(outcome.finding.reproducer, {})
    except Exception as failure:
        return failure
    raise AssertionError(f"the reproducer of {outcome.case} shows nothing:\n{outcome.finding.reproducer}")


EVERY = [(loss, "logits", cases) for loss, cases in broken.CAUGHT_BY.items()]
EVERY += [(loss, "linear", cases) for loss, cases in broken.HEADS_CAUGHT_BY.items()]


@pytest.mark.parametrize(("loss", "signature", "cases"), EVERY, ids=[loss.__name__ for loss, *_ in EVERY])
def test_a_wrong_loss_is_caught_by_name(loss, signature, cases):
    report = audited(loss, signature, *cases)
    assert [outcome.case for outcome in report.failures] == list(cases), str(report)
    for outcome in report.failures:
        assert isinstance(shown(outcome), AssertionError)
        assert outcome.case in outcome.finding.what
