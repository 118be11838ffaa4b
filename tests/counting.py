"""A pytest plugin for tests/run.py: writes what became of every test to the file that --outcomes names.

JUnit's report will not do: there, a test that was interrupted looks like one that passed.
"""

import json
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, required=True, help="file to write the outcome of every test to")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Outcomes(config.getoption("--outcomes")))


class _Outcomes:
    """`passed` and `failed` are lists of test ids, `skipped` maps ids to reasons; an id stands in one of them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._passed: set[str] = set()
        self._failed: set[str] = set()
        self._skipped: dict[str, str] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)
        elif report.skipped:
            # A skip is (file, line, reason); an expected failure has its reason elsewhere.
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
            self._skipped[report.nodeid] = reason.removeprefix("Skipped: ")
        elif report.when == "call":
            self._passed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        outcomes = {
            "passed": sorted(self._passed - self._failed),
            "failed": sorted(self._failed),
            "skipped": {test: reason for test, reason in self._skipped.items() if test not in self._failed},
        }
        self._file.write_text(json.dumps(outcomes))
