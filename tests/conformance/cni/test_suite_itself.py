"""The suite is right about plugins that are right, and about those that are broken in a known way.

`mini_plugin.py` is run through the suite as a stranger would do it, as it is and with one fault at a time. The inner
sessions leave out what this project asks of all its tests: the comparison of the machine is made around them.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.cni import matrix, profile, references
from tests.conformance.cni.cases import KINDS, Verdicts
from tests.conformance.cni.network import Network
from tests.conformance.cni.subject import known_failures

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]

# Fault -> the cases that must fail, and where they are.
FAULTS: dict[str, tuple[set[int], list[str]]] = {
    "garbage": ({13, 25}, ["test_add.py::test_the_result_has", "test_add.py::test_add_makes_what"]),
    "traceback": ({8, 16}, ["test_protocol.py::test_stdin_that", "test_protocol.py::test_every_error_is"]),
    "leaks-address": ({46, 68}, ["test_delete.py::test_del_succeeds", "test_ipam.py::test_a_full_pool"]),
    "del-once": ({68}, ["test_delete.py::test_del_succeeds"]),
    "overwrites": ({26}, ["test_add.py::test_add_refuses_an_interface"]),
    "host-netns": ({32}, ["test_add_failures.py::test_the_nodes_own_namespace"]),
    "same-address": ({28}, ["test_add.py::test_a_second_interface"]),
    "blind-check": ({77}, ["test_check.py::test_check_finds_what_is_broken_in_the_pod"]),
    "gc-all": ({80}, ["test_gc_status.py::test_gc_without_a_list"]),
}
SOUND = [
    "test_protocol.py",
    *dict.fromkeys(place for fault, (_, places) in FAULTS.items() if fault != "same-address" for place in places),
]


def run_suite(folder: Path, fault: str, places: list[str]) -> dict[int, dict[str, Any]]:
    """Verdicts of the suite by case number, for the mini plugin with this fault. Places are prefixes of tests."""
    name = f"mini-{fault}" if fault else "mini"
    plugin, conf, report = folder / name, folder / "mini.conf", folder / "report.json"
    shutil.copy(HERE / "mini_plugin.py", plugin)
    plugin.chmod(0o755)
    shutil.copy(HERE / "configurations/mini.conf", conf)
    words = " or ".join(place.partition("::")[2] or place.removesuffix(".py") for place in places)
    files = sorted({str(HERE / place.partition("::")[0]) for place in places})
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--tb=line", f"--basetemp={folder}/inner", f"--confcutdir={HERE}"),
            *(f"--plugin={plugin}", f"--conf={conf}", "--profile=mini", f"--conformance-report={report}"),
            *("-k", words, *files),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    document = json.loads(report.read_text())
    assert f"conformance of {name}" in done.stdout
    return {each["number"]: each for each in document["plugins"][0]["cases"]}


@pytest.fixture(autouse=True)
def needs_root() -> None:
    """The inner sessions make namespaces."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network and mount namespaces")


def test_a_plugin_without_faults_fails_no_case(tmp_path: Path) -> None:
    verdicts = run_suite(tmp_path, "", SOUND)
    assert {number: each["reason"] for number, each in verdicts.items() if each["verdict"] == "failed"} == {}
    assert {1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 16} <= set(verdicts)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_the_cases_about_it_and_no_others(tmp_path: Path, fault: str) -> None:
    failing, places = FAULTS[fault]
    verdicts = run_suite(tmp_path, fault, places)
    assert {number for number, each in verdicts.items() if each["verdict"] == "failed"} == failing


def marks(config: pytest.Config) -> dict[int, set[tuple[str, str]]]:
    """Kind and name of every case that some test of the suite bears the mark of."""
    import ast

    found: dict[int, set[tuple[str, str]]] = {}
    for file in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "case":
                number, kind, name = (ast.literal_eval(each) for each in node.args)
                found.setdefault(number, set()).add((kind, name))
    return found


def test_all_99_cases_are_there_with_one_kind_and_one_name(pytestconfig: pytest.Config) -> None:
    found = marks(pytestconfig)
    assert sorted(found) == list(range(1, 100))
    assert [number for number, names in found.items() if len(names) > 1] == []
    assert {kind for names in found.values() for kind, _ in names} == set(KINDS)


def test_every_test_of_the_suite_belongs_to_a_case() -> None:
    import ast

    homeless = [
        f"{file.name}: {node.name}"
        for file in HERE.glob("test_*.py")
        if file.name != Path(__file__).name
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if not any(isinstance(each, ast.Call) and ast.unparse(each.func) == "case" for each in node.decorator_list)
    ]
    assert homeless == []


def test_no_part_of_the_suite_knows_the_plugin_of_this_project() -> None:
    """Black box: but for building it in conftest, nothing imports it."""
    knowing = [file.name for file in HERE.glob("*.py") if "import cni_plugin" in (text := file.read_text())
               or "from cni_plugin" in text]  # fmt: skip
    assert sorted(set(knowing) - {Path(__file__).name}) == ["conftest.py"]


@pytest.mark.parametrize("file", sorted(profile.PROFILES.glob("*.toml")), ids=lambda file: file.stem)
def test_a_shipped_profile_can_be_read(file: Path) -> None:
    assert profile.Profile.read(file).name == file.stem


def test_a_misspelt_key_of_a_profile_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[features]\nipv5 = true\n")
    with pytest.raises(ValueError, match="ipv5"):
        profile.Profile.read(file)


@pytest.mark.parametrize("plugin", ["podwire", *references.PLUGINS])
def test_a_shipped_configuration_is_of_its_plugin(plugin: str) -> None:
    network = Network.read(HERE / f"configurations/{plugin}.conflist", plugin)
    assert network.entry["type"] == plugin


def test_a_conflist_without_the_plugin_is_refused() -> None:
    with pytest.raises(ValueError, match="no plugin of its list is of type other"):
        Network.read(HERE / "configurations/ptp.conflist", "other")


def test_known_failures_are_of_known_builds_and_cases(pytestconfig: pytest.Config) -> None:
    import tomllib

    listed = tomllib.loads((HERE / "known_failures.toml").read_text())["failure"]
    assert {build for entry in listed for build in entry["builds"]} == set(references.LABELS)
    assert {number for entry in listed for number in entry["cases"]} <= set(marks(pytestconfig))
    pairs = [(number, build) for entry in listed for number in entry["cases"] for build in entry["builds"]]
    assert len(pairs) == len(set(pairs)), "a failure has two causes"


def test_a_published_cause_says_what_was_seen() -> None:
    import tomllib

    listed = tomllib.loads((HERE / "known_failures.toml").read_text())["failure"]
    assert [entry["cases"] for entry in listed if not entry.get("seen")] == []
    assert {key for entry in listed for key in entry} <= {"cases", "builds", "cause", "seen", "read", "by_chance"}


def test_the_documents_matrix_is_the_one_of_the_known_failures() -> None:
    document = (REPOSITORY / "docs/conformance-cni.md").read_text()
    verdicts = matrix.read(document)
    assert sorted(verdicts) == list(range(1, 100))
    for label in references.LABELS:
        failed = {number for number, row in verdicts.items() if row[label] == "failed"}
        causes, chances = known_failures(HERE / "known_failures.toml", label)
        assert set(causes) - chances <= failed <= set(causes), label
    assert matrix.causes(HERE / "known_failures.toml") in document


def test_a_verdict_is_the_worst_of_its_tests() -> None:
    verdicts = Verdicts()
    for test, outcome, reason in (("a", "passed", ""), ("b", "skipped", "no IPv6"), ("c", "failed", "broken")):
        verdicts.note("x", (7, "S", "name"), test, outcome, reason)
    assert verdicts.plugins["x"][7].verdict == "failed"
    assert next(iter(verdicts.table("x"))).split() == ["7", "S", "name", "failed", "broken"]
    verdicts.note("x", (7, "S", "name"), "c", "passed", "")
    assert verdicts.plugins["x"][7].verdict == "passed"
    assert verdicts.plugins["x"][7].reason == "1 of 3 skipped: no IPv6"
