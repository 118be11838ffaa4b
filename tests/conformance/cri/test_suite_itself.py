"""The suite is right about a runtime that is right, and about one that is wrong in a known way.

`mini_runtime` is run through the suite as a stranger would do it. The inner sessions leave out what this project asks
of all its tests: the comparison of the machine is made around them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.cri import table
from tests.conformance.cri.cases import AREAS
from tests.conformance.cri.lossy_relay import LOSSES, lossy_relay
from tests.conformance.cri.mini_runtime import FAULTS, MiniRuntime
from tests.lab.containerd import installed
from tests.lab.node import Node

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
CASES = {number for number, _ in FAULTS.values()}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short, since a socket's path may have 107 bytes only."""
    return tmp_path_factory.mktemp("mini")


def run_suite(
    folder: Path, cases: set[int], runtime: Path, reference: Path | None = None, options: Sequence[str] = ()
) -> dict[int, dict[str, Any]]:
    """Verdicts of these cases by number, for the endpoint at `runtime`."""
    report = folder / "report.json"
    compared = [f"--reference-endpoint=unix://{reference}"] if reference else []
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--tb=line", f"--basetemp={folder}/inner", f"--confcutdir={HERE}"),
            *(f"--runtime-endpoint=unix://{runtime}", f"--scratch={folder}", f"--conformance-report={report}"),
            *(f"--cases={','.join(map(str, sorted(cases)))}", *compared),
            *options,
            str(HERE),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    assert f"conformance of {runtime}" in done.stdout
    (endpoint,) = json.loads(report.read_text())["endpoints"]
    found = {each["number"]: each for each in endpoint["cases"]}
    assert set(found) == cases
    return found


def verdicts(found: dict[int, dict[str, Any]]) -> dict[int, str]:
    return {number: each["verdict"] for number, each in found.items()}


def test_a_sound_runtime_passes(folder: Path) -> None:
    # 141 asks for methods that the mini runtime has not, and so does 5.
    cases = CASES - {141}
    with MiniRuntime(folder / "a.sock") as runtime:
        found = run_suite(folder, cases | {4, 5}, runtime.path)
    assert verdicts(found) == {**dict.fromkeys(cases, "passed"), 4: "passed", 5: "failed"}


def test_every_fault_fails_its_case(folder: Path) -> None:
    with MiniRuntime(folder / "a.sock", set(FAULTS)) as runtime:
        found = run_suite(folder, CASES, runtime.path)
    assert verdicts(found) == dict.fromkeys(CASES, "failed")
    # By that fault: none of them fails because of a call that another one has broken.
    reasons = {fault: (found[number]["reason"], word) for fault, (number, word) in FAULTS.items()}
    assert {fault: each for fault, each in reasons.items() if each[1] not in each[0]} == {}


def test_an_answer_that_the_reference_gives_otherwise_fails_the_case(folder: Path) -> None:
    with (
        MiniRuntime(folder / "a.sock", {"words it otherwise", "has no RuntimeConfig"}) as runtime,
        MiniRuntime(folder / "b.sock") as reference,
    ):
        found = run_suite(folder, {1, 4, 7, 16, 149}, runtime.path, reference.path)
    assert verdicts(found) == {1: "passed", 4: "failed", 7: "passed", 16: "failed", 149: "passed"}
    assert found[4]["reason"].startswith("skipped (the runtime does not implement RuntimeConfig), but at")
    assert found[16]["reason"].startswith("answers differ from those of")


def test_without_a_reference_what_is_not_implemented_is_skipped(folder: Path) -> None:
    with MiniRuntime(folder / "a.sock", {"has no RuntimeConfig"}) as runtime:
        found = run_suite(folder, {1, 4}, runtime.path)
    assert verdicts(found) == {1: "passed", 4: "skipped"}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node with a real runtime."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a node")
    binary = installed()
    if binary is None:
        pytest.skip("no containerd on PATH")
    with Node(binary) as made:
        yield made


def of_node(node: Node) -> list[str]:
    """The options for an endpoint of this node."""
    load = f"nsenter -t {node.namespace.pid} -a ctr -n k8s.io images import"
    return [f"--node-pid={node.namespace.pid}", f"--cgroup-parent={node.cgroup_parent}", f"--load-command={load}"]


def test_an_endpoint_of_another_node_is_tested_by_its_options(node: Node) -> None:
    cases = {7, 45, 78, 83, 104, 109, 127, 153}
    found = run_suite(node.base, cases, node.cri_socket, node.containerd_socket, of_node(node))
    assert verdicts(found) == {**dict.fromkeys(cases, "passed"), 153: "skipped"}
    assert found[153]["reason"] == "no --restart-command for this endpoint"


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param({22, 37, 56, 63, 69, 76, 78, 94, 131, 150}, id="some"),
        pytest.param(set().union(*LOSSES.values()), id="all", marks=pytest.mark.soak),
    ],
)
def test_each_field_that_a_relay_loses_fails_its_cases(node: Node, cases: set[int]) -> None:
    with lossy_relay(node.base / "lossy.sock", node.containerd_socket) as relay:
        found = run_suite(node.base, cases, relay.path, options=of_node(node))
    assert {number: each for number, each in verdicts(found).items() if each != "failed"} == {}


def test_the_document_has_every_case_and_every_area() -> None:
    documented = table.read(table.DOCUMENT.read_text())
    assert documented == table.cases()
    assert {area for area, _ in documented.values()} == set(AREAS)
    assert sorted(documented) == list(range(1, len(documented) + 1))


def test_the_document_names_every_option() -> None:
    text = table.DOCUMENT.read_text()
    source = (HERE / "conftest.py").read_text()
    options = [word.split('"')[0] for word in source.split('addoption("')[1:]]
    assert len(options) >= 9
    assert [option for option in options if f"`{option}" not in text] == []
