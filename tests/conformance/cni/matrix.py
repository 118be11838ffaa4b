"""The tables of docs/conformance-cni.md out of reports: `python -m tests.conformance.cni.matrix REPORT...` writes them.

Each report is a file of `--conformance-report`, given as LABEL=FILE. Without any, the verdicts are left as they are and
the causes are taken anew from known_failures.toml. The part of the document between the two marks is replaced; what
stands around it is written by hand.
"""

import json
import sys
import tomllib
from pathlib import Path

from tests.conformance.cni.references import LABELS

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[2] / "docs" / "conformance-cni.md"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
COLUMNS = ("podwire", *LABELS)


def read(document: str) -> dict[int, dict[str, str]]:
    """Verdicts by case number and plugin, as the document's matrix has them."""
    verdicts = {}
    for line in document[document.index(BEGIN) : document.index(END)].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(COLUMNS) + 3 and cells[0].isdigit():
            verdicts[int(cells[0])] = dict(zip(COLUMNS, cells[3:], strict=True))
    return verdicts


def causes(file: Path) -> str:
    """The failures and their causes as a table, with what each is known from."""
    rows = ["| cases | builds | cause | known from |", "|---|---|---|---|"]
    for entry in tomllib.loads(file.read_text())["failure"]:
        numbers, builds = (", ".join(map(str, entry[key])) for key in ("cases", "builds"))
        chance = "Not in every run: " if entry.get("by_chance") else ""
        known = "; ".join(f"{how}: {entry[how]}" for how in ("seen", "read") if how in entry)
        rows.append(f"| {numbers} | {builds} | {chance}{' '.join(entry['cause'].split())} | {known} |")
    return "\n".join(rows)


def render(reports: dict[str, Path]) -> str:
    """The table of verdicts, with the counts of each plugin in its last row."""
    rows: dict[int, list[str]] = {}
    counts = []
    for label in COLUMNS:
        cases = json.loads(reports[label].read_text())["plugins"][0]["cases"]
        for case in cases:
            row = rows.setdefault(case["number"], [str(case["number"]), case["kind"], f"`{case['name']}`"])
            row.append(case["verdict"])
        words = [case["verdict"] for case in cases]
        counts.append(" / ".join(str(words.count(word)) for word in ("passed", "failed", "skipped")))
    lines = [f"| case | kind | name | {' | '.join(COLUMNS)} |", "|" + "---|" * (len(COLUMNS) + 3)]
    lines += [f"| {' | '.join(rows[number])} |" for number in sorted(rows)]
    lines.append(f"| | | passed / failed / skipped | {' | '.join(counts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    given = {label: Path(file) for label, _, file in (argument.partition("=") for argument in sys.argv[1:])}
    if given and set(given) != set(COLUMNS):
        sys.exit(f"usage: python -m tests.conformance.cni.matrix {' '.join(f'{label}=REPORT' for label in COLUMNS)}")
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    between, _, after = rest.partition(END)
    verdicts = render(given) if given else between.strip().partition("\n\n")[0]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{verdicts}\n\n{causes(HERE / 'known_failures.toml')}\n{END}{after}")
