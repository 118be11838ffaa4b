"""Two versions of the executable, one that is replaced while it is used, and clocks that jump."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cni_plugin import packaging
from tests.crash.matrix import CONFIGURATIONS, host_ports
from tests.lab import audit
from tests.lab.failpoints import INTERPRETER
from tests.lab.threadnode import Reply, ThreadNode, finished

CONFIGURATION = "dual stack"
TEN_YEARS = 315_360_000


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another version: the same but for the number of its records' schema."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copytree(
        Path(packaging.__file__).parent, folder / "cni_plugin", ignore=shutil.ignore_patterns("__pycache__")
    )
    module = folder / "cni_plugin" / "attachment.py"
    text, found = re.subn(r"^SCHEMA = (\d+)$", "SCHEMA = 9\\1", module.read_text(), flags=re.MULTILINE)
    assert found == 1
    module.write_text(text)
    command = [sys.executable, "-m", "cni_plugin.packaging", str(folder / "built")]
    subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, check=True, capture_output=True)
    return folder / "built" / "podwire"


@pytest.fixture
def plain(node: ThreadNode, launcher: Path) -> ThreadNode:
    """A node on which the executable is the real one."""
    node.executable = launcher.with_name("podwire")
    node.config |= CONFIGURATIONS[CONFIGURATION]
    assert node.call("ADD", "warm", node.pod("warm")).exit_code == 0
    assert node.call("DEL", "warm", node.pods["warm"]).exit_code == 0
    return node


def test_two_versions_at_once_never_share_an_address(plain: ThreadNode, other: Path) -> None:
    baseline = plain.holdings()
    pods = [plain.pod() for _ in range(30)]
    versions = [plain.executable, other]
    adds = [plain.start("ADD", f"c{count}", pod, executable=versions[count % 2]) for count, pod in enumerate(pods)]
    replies = finished(adds)
    assert [reply for reply in replies if reply.exit_code] == []
    assert len({reply.json["ips"][0]["address"] for reply in replies}) == 30
    dels = [plain.start("DEL", f"c{count}", pod, executable=versions[count % 2]) for count, pod in enumerate(pods)]
    assert [reply.exit_code for reply in finished(dels)] == [0] * 30
    plain.quiet()
    assert audit.difference(baseline, plain.holdings()) == []


def test_a_version_refuses_what_another_has_recorded_and_harms_nothing(plain: ThreadNode, other: Path) -> None:
    baseline = plain.holdings()
    pod = plain.pod("abc")
    added = plain.call("ADD", "abc", pod, executable=other, **host_ports(CONFIGURATION, 80))
    assert added.exit_code == 0, added
    before = plain.holdings()
    again = plain.call("ADD", "abc", pod, **host_ports(CONFIGURATION, 80))
    assert again.code == 104
    assert "schema" in again.json["msg"]
    taken = plain.call("ADD", "next", plain.pod("next"), **host_ports(CONFIGURATION, 80))
    assert taken.code == 109
    assert plain.gc().exit_code == 0
    plain.quiet()
    assert plain.holdings() == before
    checked = plain.call("CHECK", "abc", pod, prevResult=added.json, executable=other)
    assert checked.exit_code == 0, checked
    # DEL must end the pod whatever it can read; the other version finds nothing left to do.
    assert plain.call("DEL", "abc", pod).exit_code == 0
    assert plain.call("DEL", "abc", pod, executable=other).exit_code == 0
    plain.quiet()
    assert audit.difference(baseline, plain.holdings()) == []


def test_the_executable_is_replaced_a_dozen_times_during_a_hundred_adds(plain: ThreadNode, tmp_path: Path) -> None:
    executable = packaging.build(tmp_path / "bin", INTERPRETER)
    pods = [plain.pod() for _ in range(100)]
    replies: list[Reply] = []
    for begin in range(0, 100, 10):
        calls = [plain.start("ADD", f"c{begin + n}", pods[begin + n], executable=executable) for n in range(5)]
        packaging.build(tmp_path / "bin", INTERPRETER)
        calls += [plain.start("ADD", f"c{begin + n}", pods[begin + n], executable=executable) for n in range(5, 10)]
        replies += finished(calls)
    assert [reply for reply in replies if reply.exit_code or reply.stderr] == []
    assert len({reply.json["ips"][0]["address"] for reply in replies}) == 100


POOL = {"ranges": [[{"subnet": "10.244.0.0/24", "rangeStart": "10.244.0.1", "rangeEnd": "10.244.0.3"}]]}


def test_a_jump_of_the_wall_clock_changes_nothing(node: ThreadNode) -> None:
    node.config |= {"ipam": {**POOL, "cooldownSeconds": 3600}}
    jumps = {"a": TEN_YEARS, "b": 0, "c": -TEN_YEARS}
    added = {}
    for container, seconds in jumps.items():
        clock = {"PODWIRE_CLOCK": str(seconds)}
        added[container] = node.call("ADD", container, node.pod(container), env=clock)
        assert added[container].exit_code == 0, added[container]
    lines = node.log.read_text().splitlines()
    assert len({line.partition('"time":"')[2][:4] for line in lines}) == 3, "the clock did not jump"
    checked = node.call(
        "CHECK", "a", node.pods["a"], prevResult=added["a"].json, env={"PODWIRE_CLOCK": str(-TEN_YEARS)}
    )
    assert checked.exit_code == 0, checked
    # Of three cooling addresses the one released first comes first, though its release is dated last.
    for container in ("c", "b", "a"):
        clock = {"PODWIRE_CLOCK": str(-jumps[container])}
        assert node.call("DEL", container, node.pods[container], env=clock).exit_code == 0
    reply = node.call("ADD", "d", node.pod("d"), env={"PODWIRE_CLOCK": str(TEN_YEARS)})
    assert reply.json["ips"][0]["address"] == "10.244.0.3/32"
    assert node.gc(env={"PODWIRE_CLOCK": str(-TEN_YEARS)}).exit_code == 0
    assert list(node.state_dir.glob("*/addresses/*")) == []


def test_a_cooldown_is_over_when_boot_time_says_so(node: ThreadNode) -> None:
    node.config |= {"ipam": {**POOL, "cooldownSeconds": 3600}}
    for container in ("a", "b", "c"):
        assert node.call("ADD", container, node.pod(container)).exit_code == 0
    for container in ("c", "b", "a"):
        assert node.call("DEL", container, node.pods[container]).exit_code == 0
    later = ["unshare", "--time", "--fork", "--boottime", "7200"]
    fresh = node.call("ADD", "later", node.pod("later"), wrap=later)
    # The pool goes round again: 1 is next, and no longer cooling. Before, 3 was the one released first.
    assert fresh.json["ips"][0]["address"] == "10.244.0.1/32"
    assert node.call("ADD", "now", node.pod("now")).json["ips"][0]["address"] == "10.244.0.3/32"
    for container in ("later", "now"):
        assert node.call("DEL", container, node.pods[container]).exit_code == 0
