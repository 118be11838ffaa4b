"""The table of docs/conformance-cri.md out of a report: `python -m tests.conformance.cri.table REPORT`.

The part of the document between the two marks is replaced; what stands around it is written by hand.
"""

import ast
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[2] / "docs" / "conformance-cri.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def cases() -> dict[int, tuple[str, str]]:
    """Area and title of every case, from the marks in the tests' source."""
    found = {}
    for file in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "case":
                number, area, title = (argument.value for argument in node.args if isinstance(argument, ast.Constant))
                found[int(str(number))] = (str(area), str(title))
    return found


def read(document: str) -> dict[int, tuple[str, str]]:
    """Area and title by number, as the document's table has them."""
    found = {}
    for line in document[document.index(BEGIN) : document.index(END)].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 3 and cells[0].isdigit():
            found[int(cells[0])] = (cells[1], cells[2])
    return found


def render(report: Path) -> str:
    """One column per endpoint; reasons of what was not passed whole stand below, by number."""
    endpoints = json.loads(report.read_text())["endpoints"]
    labels = [f"{each['endpoint']} ({each['version']})" for each in endpoints]
    lines = [f"| case | area | title | {' | '.join(labels)} |", "|" + "---|" * (len(labels) + 3)]
    verdicts = [{case["number"]: case for case in each["cases"]} for each in endpoints]
    for number, (area, title) in sorted(cases().items()):
        row = [found[number]["verdict"] if number in found else "" for found in verdicts]
        lines.append(f"| {number} | {area} | {title} | {' | '.join(row)} |")
    counts = []
    for found in verdicts:
        words = [each["verdict"] for each in found.values()]
        counts.append(" / ".join(str(words.count(word)) for word in ("passed", "failed", "skipped")))
    lines.append(f"| | | passed / failed / skipped | {' | '.join(counts)} |")
    reasons: dict[str, list[str]] = {}
    for label, found in zip(labels, verdicts, strict=True):
        for number, each in sorted(found.items()):
            if each["reason"]:
                reasons.setdefault(f"| {number} | {each['reason']} |", []).append(label)
    lines += ["", "| case | why, or what was left out | where |", "|---|---|---|"]
    lines += [f"{line} {'all' if len(where) == len(labels) else ', '.join(where)} |" for line, where in reasons.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    text = DOCUMENT.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    DOCUMENT.write_text(f"{before}\n{render(Path(sys.argv[1]))}\n{after}")
