"""Options, fixtures and the closing table of the conformance suite; `docs/conformance-cni.md` says how to use it."""

import contextlib
import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cni_plugin import packaging
from tests.conformance.cni import profile, references
from tests.conformance.cni.cases import Verdicts, mark_of
from tests.conformance.cni.subject import Subject, of_options
from tests.conformance.cni.workbench import Cni

HERE = Path(__file__).parent
OWN = "podwire"
VERDICTS = pytest.StashKey[Verdicts]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance of a CNI plugin")
    group.addoption("--plugin", type=Path, help="the plugin's executable; default: podwire, built from this source")
    group.addoption("--conf", type=Path, help="its network configuration, a conf or a conflist")
    group.addoption("--cni-path", type=Path, action="append", default=[], help="where the plugins are that it uses")
    group.addoption(
        "--profile", help="what it does beyond its configuration: a TOML file, or the name of a shipped one"
    )
    group.addoption("--other-plugin", type=Path, help="another version of the plugin, for the cases with two at once")
    # The suite for CRI endpoints has it too, and both may be collected in one run.
    with contextlib.suppress(ValueError):
        group.addoption("--conformance-report", type=Path, help="write the verdicts to this file, as JSON")
    group.addoption("--conformance-seed", type=int, default=1, help="for the moments at which a plugin is killed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(number, kind, name): the test belongs to a case of the conformance suite")
    config.stash[VERDICTS] = Verdicts()
    if config.getoption("--plugin", None) and not config.getoption("--conf"):
        raise pytest.UsageError("--plugin needs --conf FILE: the configuration that the plugin is to be called with")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" in metafunc.fixturenames:
        metafunc.parametrize("subject", labels(metafunc.config), indirect=True, scope="session")


def labels(config: pytest.Config) -> list[str]:
    """The plugins of this run: the one of the command line; else podwire, and with --soak the reference plugins."""
    given: Path | None = config.getoption("--plugin", None)
    if given:
        return [given.name]
    return [OWN, *(references.LABELS if config.getoption("--soak", False) else ())]


@pytest.fixture(scope="session")
def own_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """podwire, built for the interpreter of the system."""
    return packaging.build(tmp_path_factory.mktemp("podwire"), "/usr/bin/python3")


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> Subject:
    """The plugin under test."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network and mount namespaces")
    option = request.config.getoption
    if option("--plugin", None):
        file = profile.named(option("--profile")) if option("--profile") else None
        return of_options(option("--plugin"), option("--conf"), option("--cni-path"), file, option("--other-plugin"))
    if request.param == OWN:
        executable: Path = request.getfixturevalue("own_plugin")
        return of_options(executable, HERE / "configurations/podwire.conflist", [], profile.named("podwire"))
    found = references.subject(request.param)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture
def cni(subject: Subject, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cni]:
    """The plugin on a fresh node."""
    with ExitStack() as stack:
        yield Cni(subject, stack, tmp_path, request.config.getoption("--conformance-seed", 1))


@pytest.fixture(scope="module")
def still(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cni]:
    """The plugin on a node that the tests of a module share, since none of them makes anything there."""
    with ExitStack() as stack:
        yield Cni(subject, stack, tmp_path_factory.mktemp("still"), 1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    mark, label = mark_of(item), _label(item)
    if mark is None or label is None or (report.when != "call" and report.passed):
        return report
    subject = item.funcargs.get("subject") if hasattr(item, "funcargs") else None
    known = subject.failures.get(mark[0], "") if isinstance(subject, Subject) else ""
    by_chance = isinstance(subject, Subject) and mark[0] in subject.chances
    reason = _reason(report, call)
    item.config.stash[VERDICTS].note(label, mark, item.name, report.outcome, reason, known, by_chance)
    if report.failed and known:
        # A build whose failures are traced does not fail the run; one that no longer fails does, see below.
        report.outcome, report.wasxfail = "skipped", known
    return report


def _label(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("subject") if callspec else None


def _reason(report: pytest.TestReport, call: pytest.CallInfo[None]) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    if report.failed and call.excinfo is not None:
        lines = str(call.excinfo.value).strip().splitlines()
        return lines[0] if lines else call.excinfo.typename
    return ""


def pytest_sessionfinish(session: pytest.Session) -> None:
    verdicts = session.config.stash[VERDICTS]
    for label, cases in verdicts.plugins.items():
        if any(each.outdated for each in cases.values()) and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        verdicts.about.setdefault(label, {"seed": session.config.getoption("--conformance-seed", 1)})
    report: Path | None = session.config.getoption("--conformance-report", None)
    if report is not None:
        verdicts.write(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    verdicts = config.stash[VERDICTS]
    width = terminalreporter._tw.fullwidth if os.isatty(1) else 200
    for label, cases in verdicts.plugins.items():
        terminalreporter.section(f"conformance of {label}")
        for line in verdicts.table(label):
            terminalreporter.write_line(line if len(line) <= width else line[: width - 3] + "...")
        for each in cases.values():
            if each.outdated:
                terminalreporter.write_line(f"case {each.number} passes, but known_failures.toml says: {each.known}")
