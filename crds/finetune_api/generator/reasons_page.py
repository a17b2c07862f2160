"""The tables of reasons in docs/operations.md. The page is written by hand, what is between the marks is not."""

from pathlib import Path

from finetune_api.reasons import SECTIONS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operations.md"
BEGIN = "<!-- Generated from finetune_api/reasons.py by `make generate`; do not edit. -->\n"
END = "<!-- End of what is generated. -->\n"


def reasons_table() -> str:
    """A table per section."""
    parts = []
    for title, reasons in SECTIONS.items():
        rows = "".join(f"| `{name}` | {one.meaning} | {one.remedy} |\n" for name, one in reasons.items())
        parts.append(f"### {title}\n\n| reason | means | what to do |\n|---|---|---|\n{rows}")
    return "\n".join(parts)


def operations_page() -> str:
    """The page as it is, with the table as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} lacks the marks between which the reasons stand")
    return before + begin + "\n" + reasons_table() + "\n" + end + after
