"""Options, fixtures and the closing table of the conformance suite; `docs/conformance-cri.md` says how to use it."""

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.cri.bench import Cri
from tests.conformance.cri.cases import AREAS, Verdicts, mark_of
from tests.conformance.cri.endpoint import Pair, of_lab, of_options
from tests.conformance.cri.normal import differences
from tests.lab import kept
from tests.lab.containerd import ContainerdBinary
from tests.lab.debian import Absent, containerds

VERDICTS = pytest.StashKey[Verdicts]()
# In the lab, where the budget is short: in the other areas it is the kernel that is looked at, not the answer.
OF_THE_RELAY = (
    *("runtime", "pods", "containers", "exec", "streaming"),
    *("stats", "events", "images", "errors", "lists"),
)
RUN = "conformance of a CRI endpoint"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup(RUN)
    group.addoption("--runtime-endpoint", help="unix://PATH; default: podwire-shim and containerd on a node of the lab")
    group.addoption("--image-endpoint", help="unix://PATH of the image service; default: the runtime endpoint")
    group.addoption("--reference-endpoint", help="unix://PATH: run every case here too, and compare the answers")
    group.addoption("--load-command", help="shell command that loads the docker-archive whose name is added to it")
    group.addoption("--restart-command", help="shell command that restarts the runtime; default: it is not restarted")
    group.addoption("--node-pid", type=int, help="a process in the runtime's namespaces; default: the machine's own")
    group.addoption("--cgroup-parent", default="", help="cgroup parent of all pods, as kubelet would name it")
    group.addoption("--cases", help="numbers of the cases to run, separated by commas; default: all")
    group.addoption("--scratch", type=Path, help="folder with the same path here and for the runtime; /var/tmp")
    # The suite for CNI plugins has it too, and both may be collected in one run.
    with contextlib.suppress(ValueError):
        group.addoption("--conformance-report", type=Path, help="write the verdicts to this file, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(number, area, title): the test belongs to a case of the conformance suite")
    config.addinivalue_line("markers", "alone: not compared with the reference endpoint")
    config.addinivalue_line("markers", "in_turn: changes what both endpoints may have in common")
    config.stash[VERDICTS] = Verdicts()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--runtime-endpoint", None):
        items[:] = [item for item in items if item.path.name != "test_suite_itself.py"]
    if chosen := config.getoption("--cases", None):
        numbers = {int(number) for number in chosen.split(",")}
        items[:] = [item for item in items if (mark := mark_of(item)) and mark[0] in numbers]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pair" not in metafunc.fixturenames:
        return
    given = metafunc.config.getoption("--runtime-endpoint", None)
    parameters: list[Any] = [pytest.param(None, id="endpoint")]
    if not given:
        found = containerds(metafunc.config.getoption("--soak", False))
        parameters = [
            pytest.param(each, id=each.name if isinstance(each, ContainerdBinary) else f"containerd-of-{source}")
            for source, each in found
        ]
    metafunc.parametrize("pair", parameters, indirect=True, scope="session")


@pytest.fixture(scope="session")
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The endpoint under test and its reference, shared by all cases."""
    if request.config.getoption("--runtime-endpoint", None):
        with of_options(request.config) as made:
            yield made
        return
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a node")
    binary: ContainerdBinary | Absent | None = request.param
    if not isinstance(binary, ContainerdBinary):
        reason = binary.reason if binary is not None else "no containerd on PATH"
        if os.environ.get("CI") == "true" and (binary is None or binary.mirror_has_it):
            pytest.fail(f"containerd is needed in CI: {reason}", pytrace=False)
        pytest.skip(reason)
    kept.sweep("test")
    with of_lab(binary, AREAS if request.config.getoption("--soak", False) else OF_THE_RELAY) as made:
        yield made


@pytest.fixture
def cri(pair: Pair) -> Iterator[Cri]:
    """The endpoint under test, for one run of one case."""
    with Cri(pair.subject) as made:
        yield made


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """With a reference, the same test runs there too, at the same time, and what both were answered is compared."""
    cri = pyfuncitem.funcargs.get("cri")
    pair = pyfuncitem.funcargs.get("pair")
    mark = mark_of(pyfuncitem)
    if not isinstance(cri, Cri) or not isinstance(pair, Pair) or mark is None:
        return None
    if pair.reference is None or mark[1] not in pair.areas or pyfuncitem.get_closest_marker("alone"):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    def at(bench: Cri) -> BaseException | None:
        return _outcome(lambda: pyfuncitem.obj(**{**arguments, "cri": bench}))

    with Cri(pair.reference) as reference, ThreadPoolExecutor(1) as pool:
        beside = pool.submit(at, reference)
        if pyfuncitem.get_closest_marker("in_turn"):
            wait([beside])
        _judge(cri, at(cri), reference, beside.result())
    return True


def _judge(cri: Cri, here: BaseException | None, reference: Cri, there: BaseException | None) -> None:
    """Raises what the case has to tell of its two runs; an endpoint may do more than its reference."""
    label = reference.endpoint.label
    if here is not None:
        if not isinstance(here, pytest.skip.Exception):
            here.add_note(f"At {label} it {_told(there)}.")
            raise here
        if isinstance(there, pytest.skip.Exception):
            raise here
        pytest.fail(f"skipped ({here}), but at {label} it {_told(there)}", pytrace=False)
    if there is None:
        found = differences(cri.client.record, reference.client.record)
        assert not found, f"answers differ from those of {label}:\n" + "\n".join(found)
    elif not isinstance(there, pytest.skip.Exception):
        raise there


def _outcome(run: Callable[[], object]) -> BaseException | None:
    try:
        run()
    except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:  # noqa: BLE001 (judged by the caller)
        return error
    return None


def _told(error: BaseException | None) -> str:
    if error is None:
        return "passes"
    return f"{'is skipped' if isinstance(error, pytest.skip.Exception) else 'fails as well'}: {error}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    mark = mark_of(item)
    if mark is not None and (report.when == "call" or not report.passed):
        pair = getattr(item, "funcargs", {}).get("pair")
        # Without an endpoint its fixture has skipped, or failed: told under what was to be tested.
        label, known = item.callspec.id if isinstance(item, pytest.Function) else item.name, ""
        verdicts = item.config.stash[VERDICTS]
        if isinstance(pair, Pair):
            label, known = pair.label, pair.subject.failures.get(mark[0], "")
            compared = pair.reference.label if pair.reference else None
            verdicts.about.setdefault(label, {**pair.subject.about, "reference": compared})
        verdicts.note(label, mark, item.name, report.outcome, _reason(report, call), known)
        if report.failed and known:
            report.outcome, report.wasxfail = "skipped", known
    return report


def _reason(report: pytest.TestReport, call: pytest.CallInfo[None]) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ").partition("\n")[0]
    if report.failed and call.excinfo is not None:
        lines = str(call.excinfo.value).strip().splitlines()
        return lines[0] if lines else call.excinfo.typename
    return ""


def pytest_sessionfinish(session: pytest.Session) -> None:
    verdicts = session.config.stash[VERDICTS]
    outdated = any(each.outdated for cases in verdicts.endpoints.values() for each in cases.values())
    if outdated and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    report: Path | None = session.config.getoption("--conformance-report", None)
    if report is not None and verdicts.endpoints:
        verdicts.write(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    verdicts = config.stash[VERDICTS]
    width = terminalreporter._tw.fullwidth if os.isatty(1) else 200
    for label in verdicts.endpoints:
        terminalreporter.section(f"conformance of {label}")
        for line in verdicts.table(label):
            terminalreporter.write_line(line if len(line) <= width else line[: width - 3] + "...")
        for each in verdicts.endpoints[label].values():
            if each.outdated:
                terminalreporter.write_line(f"case {each.number} passes, but known_failures.toml says: {each.known}")
