"""docs/audit.md names every case, with what it breaks."""

from pathlib import Path

from xent._audit.cases import CASES

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "audit.md"


def table():
    rows = [f"| `{one.name}` | {one.breaks.replace('|', chr(92) + '|')} |" for one in CASES.values()]
    return "\n".join(["| case | breaks |", "|---|---|", *rows])


def test_every_case_is_in_the_document():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.partition("<!-- cases:begin -->\n")[2].partition("\n<!-- cases:end -->")[0] == table()
