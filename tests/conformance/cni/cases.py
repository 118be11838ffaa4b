"""The mark of a case, and what became of the cases: the terminal's table and the report for machines.

    @case(26, "S", "add_ifname_exists")
    def test_add_refuses_a_name_that_is_taken(cni): ...

Numbers run from 1 to 99. The kind says what the case rests on: S a rule of the specification or its conventions,
R what runtimes really do, X what users may expect of a good plugin. Several tests may belong to one case. A case has
failed when one of its tests has, is skipped when all of them are, and has passed otherwise.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

KINDS = {"S": "specification", "R": "runtime reality", "X": "excellence"}
F = TypeVar("F", bound=Callable[..., object])


def case(number: int, kind: str, name: str) -> Callable[[F], F]:
    """The mark of a test that belongs to a case."""
    assert 1 <= number <= 99, number
    assert kind in KINDS, kind
    mark = pytest.mark.case(number, kind, name)

    def marked(test: F) -> F:
        marked_test: F = mark(test)
        return marked_test

    return marked


@dataclass
class Verdict:
    """One case for one plugin. `tests` are (id, outcome, reason) as they ran."""

    number: int
    kind: str
    name: str
    known: str = ""
    by_chance: bool = False
    tests: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """passed, failed or skipped."""
        outcomes = {outcome for _, outcome, _ in self.tests}
        return "failed" if "failed" in outcomes else "passed" if "passed" in outcomes else "skipped"

    @property
    def outdated(self) -> bool:
        """Whether it was known to fail, and does no more."""
        return bool(self.known) and not self.by_chance and self.verdict == "passed"

    @property
    def reason(self) -> str:
        """Why it failed or was skipped; for one that passed, what of it was skipped."""
        wanted = "failed" if self.verdict == "failed" else "skipped"
        reasons = list(dict.fromkeys(reason for _, outcome, reason in self.tests if outcome == wanted and reason))
        if self.verdict == "passed" and reasons:
            left = sum(outcome == "skipped" for _, outcome, _ in self.tests)
            return f"{left} of {len(self.tests)} skipped: {reasons[0]}"
        if self.verdict == "failed" and self.known:
            return f"known: {self.known}"
        return "; ".join(reasons)


class Verdicts:
    """Collects outcomes as pytest reports them, by plugin and case."""

    def __init__(self) -> None:
        self.plugins: dict[str, dict[int, Verdict]] = {}
        self.about: dict[str, dict[str, Any]] = {}

    def note(
        self,
        label: str,
        mark: tuple[int, str, str],
        test: str,
        outcome: str,
        reason: str,
        known: str = "",
        by_chance: bool = False,
    ) -> None:
        """One test of a case; a later outcome of the same test is that of its teardown, and a failure."""
        number, kind, name = mark
        found = self.plugins.setdefault(label, {}).setdefault(number, Verdict(number, kind, name, known, by_chance))
        found.tests = [each for each in found.tests if each[0] != test]
        found.tests.append((test, outcome, reason))

    def table(self, label: str) -> Iterable[str]:
        """The lines of one plugin's table."""
        verdicts = [self.plugins[label][number] for number in sorted(self.plugins[label])]
        width = max(len(verdict.name) for verdict in verdicts)
        for verdict in verdicts:
            yield f"{verdict.number:>3} {verdict.kind} {verdict.name:<{width}} {verdict.verdict:<7} {verdict.reason}"
        counts = {
            word: sum(verdict.verdict == word for verdict in verdicts) for word in ("passed", "failed", "skipped")
        }
        yield f"{label}: " + ", ".join(f"{count} cases {word}" for word, count in counts.items())

    def write(self, file: Path) -> None:
        """The report: one object per plugin, with its cases and their tests."""
        plugins = [
            {
                "plugin": label,
                **self.about.get(label, {}),
                "cases": [
                    {
                        "number": each.number,
                        "kind": each.kind,
                        "name": each.name,
                        "verdict": each.verdict,
                        "reason": each.reason,
                        "tests": [{"id": i, "outcome": o, "reason": r} for i, o, r in each.tests],
                    }
                    for _, each in sorted(cases.items())
                ],
            }
            for label, cases in self.plugins.items()
        ]
        file.write_text(json.dumps({"format": 1, "plugins": plugins}, indent=1) + "\n")


def mark_of(item: pytest.Item) -> tuple[int, str, str] | None:
    """Number, kind and name of the case that a test belongs to."""
    mark = item.get_closest_marker("case")
    return None if mark is None else (mark.args[0], mark.args[1], mark.args[2])
