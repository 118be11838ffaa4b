"""For all tests: `--soak`, the mark `root`, and the proof that the machine is left as it was found."""

import os
from collections.abc import Iterator

import pytest

from tests.lab import witness
from tests.lab.sessions import Session


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="also run the tests that take longer than their part's budget")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "root: needs root, namespaces and the tools of a node")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--soak"):
        soak = [item for item in items if item.get_closest_marker("soak")]
        if soak:
            config.hook.pytest_deselected(items=soak)
            items[:] = [item for item in items if item not in soak]
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason=f"needs root, runs as uid {os.geteuid()}"))


@pytest.fixture(scope="session", autouse=True)
def machine_left_as_found(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the session when a link, route, nft object, sysctl, mount, file, cgroup or process is new or gone.

    Without root the tests cannot change most of these, nor read them all: then only processes are compared.
    """
    witness.begin_session()
    with Session(witness.run_mark()) as session:
        before = witness.of_machine()
        yield
        difference = witness.settled(before, witness.of_machine)
        others = session.overlapped()
    if os.geteuid() != 0 or others:
        foreign = [line for line in difference if not line.startswith("+ process:")]
        difference = [line for line in difference if line.startswith("+ process:")]
        reporter = request.config.pluginmanager.get_plugin("terminalreporter")
        if foreign and others and reporter is not None:
            reporter.write_line(
                f"\nnot the machine as found, but other test sessions ran meanwhile (pid {', '.join(others)}):"
            )
            for line in foreign:
                reporter.write_line(line)
    if difference:
        pytest.fail("the tests did not leave the machine as they found it:\n" + "\n".join(difference), pytrace=False)
