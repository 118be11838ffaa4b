"""The mark of a case, and what became of the cases: the terminal's table and the report for machines.

    @case(4, "pods", "a pod is ready once it was run")
    def test_a_pod_is_ready_once_it_was_run(cri): ...

Several tests may belong to one case. A case has failed when one of its tests has, is skipped when all of them are, and
has passed otherwise.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

AREAS = (
    "runtime",
    "pods",
    "containers",
    "namespaces",
    "security",
    "seccomp",
    "mounts",
    "logs",
    "exec",
    "streaming",
    "stats",
    "events",
    "images",
    "resources",
    "errors",
    "lists",
    "restart",
)
KNOWN = Path(__file__).with_name("known_failures.toml")
F = TypeVar("F", bound=Callable[..., object])


def case(number: int, area: str, title: str) -> Callable[[F], F]:
    """The mark of a test that belongs to a case."""
    assert number > 0, number
    assert area in AREAS, area
    mark = pytest.mark.case(number, area, title)

    def marked(test: F) -> F:
        marked_test: F = mark(test)
        return marked_test

    return marked


def mark_of(item: pytest.Item) -> tuple[int, str, str] | None:
    """Number, area and title of the case that a test belongs to."""
    mark = item.get_closest_marker("case")
    return None if mark is None else (mark.args[0], mark.args[1], mark.args[2])


def known_failures(runtime: str, version: str) -> dict[int, str]:
    """Why cases fail at this runtime, by number, from known_failures.toml."""
    # A version is 1.6.20~ds1, v2.1.4 or 2.1.9+ds1: two numbers count.
    series = ".".join(re.findall(r"\d+", version)[:2])
    entries = tomllib.loads(KNOWN.read_text())["failure"]
    chosen = [each for each in entries if each["runtime"] == runtime and series in each["versions"]]
    return {number: each["cause"] for each in chosen for number in each["cases"]}


@dataclass
class Verdict:
    """One case at one endpoint. `tests` are (id, outcome, reason) as they ran."""

    number: int
    area: str
    title: str
    known: str = ""
    tests: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """passed, failed or skipped."""
        outcomes = {outcome for _, outcome, _ in self.tests}
        return "failed" if "failed" in outcomes else "passed" if "passed" in outcomes else "skipped"

    @property
    def outdated(self) -> bool:
        """Whether it was known to fail, and does no more."""
        return bool(self.known) and self.verdict == "passed"

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
    """Collects outcomes as pytest reports them, by endpoint and case."""

    def __init__(self) -> None:
        self.endpoints: dict[str, dict[int, Verdict]] = {}
        self.about: dict[str, dict[str, Any]] = {}

    def note(
        self, label: str, mark: tuple[int, str, str], test: str, outcome: str, reason: str, known: str = ""
    ) -> None:
        """One test of a case. What its teardown says of it counts where the test itself has not failed."""
        found = self.endpoints.setdefault(label, {}).setdefault(mark[0], Verdict(*mark, known))
        earlier = {each: before for each, before, _ in found.tests}
        if earlier.get(test) != "failed":
            found.tests = [each for each in found.tests if each[0] != test]
            found.tests.append((test, outcome, reason))

    def table(self, label: str) -> Iterable[str]:
        """The lines of one endpoint's table."""
        verdicts = [self.endpoints[label][number] for number in sorted(self.endpoints[label])]
        area, title = (max(len(getattr(each, name)) for each in verdicts) for name in ("area", "title"))
        for each in verdicts:
            yield f"{each.number:>3} {each.area:<{area}} {each.title:<{title}} {each.verdict:<7} {each.reason}".rstrip()
        counts = {word: sum(each.verdict == word for each in verdicts) for word in ("passed", "failed", "skipped")}
        yield f"{label}: " + ", ".join(f"{count} cases {word}" for word, count in counts.items())

    def write(self, file: Path) -> None:
        """The report: one object per endpoint, with its cases and their tests."""
        endpoints = [
            {
                "endpoint": label,
                **self.about.get(label, {}),
                "cases": [
                    {
                        "number": each.number,
                        "area": each.area,
                        "title": each.title,
                        "verdict": each.verdict,
                        "reason": each.reason,
                        "tests": [{"id": i, "outcome": o, "reason": r} for i, o, r in each.tests],
                    }
                    for _, each in sorted(cases.items())
                ],
            }
            for label, cases in self.endpoints.items()
        ]
        file.write_text(json.dumps({"format": 1, "endpoints": endpoints}, indent=1) + "\n")
