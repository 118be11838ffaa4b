"""The command line: leases, JSON documents, colours, pipes, exit codes; and what doctor does with a failing check."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from cni_plugin.attachment import lease_id
from cni_plugin.net import doctor
from cni_plugin.net.__main__ import main
from cni_plugin.net.findings import ERROR
from cni_plugin.net.leases import duration
from cni_plugin.net.node import Node
from cni_plugin.net.registry import CHECKS, Check, Complaint
from tests.net.conftest import POD_CIDR, POD_CIDR6, REPOSITORY, NetNode

POD = "a-pod-with-a-name-that-is-rather-long-and-would-not-fit"


@pytest.mark.root
def test_leases_tell_who_holds_what_since_when(node: NetNode) -> None:
    node.configure(POD_CIDR, POD_CIDR6)
    node.add("web", (8080, 80))
    node.add("db")
    answer = node.json("leases", code=0)
    web, db = answer["leases"]
    assert web["addresses"] == ["10.244.0.1", "fd00:10:244::1"]
    assert web["hostPorts"] == ["tcp/0.0.0.0:8080->80", "tcp/[::]:8080->80"]
    assert (web["pod"], web["containerID"], web["ifname"], web["network"]) == ("shop/web", "web", "eth0", "podwire")
    assert (web["state"], web["hostLink"], web["hostLinkPresent"]) == ("attached", lease_id("web", "eth0"), True)
    assert web["netns"] == "/run/netns/cni-1"
    assert 0 <= db["ageSeconds"] <= web["ageSeconds"] < 60
    assert db["hostPorts"] == []
    v4, v6 = answer["pools"]
    assert v4 == {
        "network": "podwire",
        "ranges": "10.244.0.1-10.244.0.254",
        "size": 254,
        "used": 2,
        "cooling": 0,
        "foreign": 0,
        "free": 252,
    }
    assert (v6["used"], v6["size"]) == (2, 2**64 - 1)


@pytest.mark.root
def test_leases_tell_states_cooling_and_lost_links(node: NetNode) -> None:
    gone, cut = node.add("gone"), node.add("cut")
    node.add("lost")
    assert node.call("DEL", "gone", gone).exit_code == 0
    lease = lease_id("cut", "eth0")
    (node.node_folder() / "attachments" / lease).rename(node.node_folder() / "pending" / lease)
    node.sh(f"ip link delete {lease_id('lost', 'eth0')}")
    answer = node.json("leases")
    states = {each["containerID"]: (each["state"], each["hostLinkPresent"]) for each in answer["leases"]}
    assert states == {"cut": ("pending", True), "lost": ("attached", False)}
    [cooling] = answer["cooling"]
    assert cooling["address"] == "10.244.0.1"
    assert 0 < cooling["remainingSeconds"] <= 30
    assert answer["pools"][0]["cooling"] == 1
    text = node.net("leases").stdout
    assert "missing" in text
    assert "COOLING" in text
    assert cut


@pytest.mark.root
def test_leases_tell_what_is_kept_for_a_pod_and_what_another_plugin_holds(node: NetNode) -> None:
    node.add("web")
    folder = node.node_folder()
    now = int(float(node.sh("cut -d' ' -f1 /proc/uptime")) * 1000)
    (folder / "cooling" / "10.244.0.7").symlink_to(f"{now} 600 {lease_id('key', '')}")
    node.sh("mkdir -p /run/other; echo abc >/run/other/10.244.0.8")
    (folder / "foreign" / "10.244.0.8").symlink_to("/run/other/10.244.0.8")
    (folder / "foreign" / "10.244.0.9").symlink_to("/run/other/gone")
    answer = node.json("leases")
    [kept] = answer["sticky"]
    assert kept["address"] == "10.244.0.7"
    assert 500 < kept["remainingSeconds"] <= 600
    assert answer["foreign"] == [{"address": "10.244.0.8", "source": "/run/other/10.244.0.8"}]
    assert answer["pools"][0]["free"] == 254 - 1 - 1


@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["web", "db"]),
        (["--pod", "web"], ["web"]),
        (["--pod", "shop/web"], ["web"]),
        (["--pod", "other/web"], []),
        (["--address", "10.244.0.2"], ["db"]),
        (["--network", "podwire"], ["web", "db"]),
        (["--network", "other"], []),
    ],
    ids=" ".join,
)
def test_leases_can_be_narrowed(node: NetNode, arguments: list[str], expected: list[str]) -> None:
    node.add("web")
    node.add("db")
    assert [each["containerID"] for each in node.json("leases", *arguments, code=0)["leases"]] == expected


@pytest.mark.root
def test_what_goes_into_a_pipe_is_one_line_per_lease_without_colours(node: NetNode) -> None:
    node.configure(POD_CIDR, POD_CIDR6)
    node.add(POD, (8080, 80), (8443, 443))
    lines = node.net("leases").stdout.splitlines()
    assert lines[0].startswith("ADDRESS")
    assert "10.244.0.1,fd00:10:244::1" in lines[1]
    assert lines[1].endswith(POD)
    assert lines[2] == ""
    assert not any("\x1b" in line for line in lines)


def on_terminal(node: NetNode, columns: int, *arguments: str, **env: str) -> str:
    """What podwire-net prints on a terminal of this width."""
    words = [sys.executable, "-m", "cni_plugin.net", *arguments, "--netd", str(node.netd)]
    code = f"import os, pty, sys; os.environ['COLUMNS'] = '{columns}'; sys.exit(pty.spawn({words!r}) >> 8)"
    base = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", "TERM": "xterm", **env}
    pairs = [f"{name}={value}" for name, value in base.items()]
    return node.space.run(["env", "-u", "NO_COLOR", *pairs, sys.executable, "-c", code], check=False).stdout


@pytest.mark.root
def test_a_terminal_gets_colours_unless_no_color_is_set_and_no_line_is_wider_than_it(node: NetNode) -> None:
    node.configure(POD_CIDR, POD_CIDR6)
    node.add(POD, (8080, 80), (8443, 443))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(node, 80, "leases"))
    assert max(map(len, plain.splitlines())) <= 80
    for whole in ("10.244.0.1 ", "fd00:10:244::1 ", "eth0 ", "attached ", "tcp/8080->80", lease_id(POD, "eth0")):
        assert whole in plain, plain
    node.sysctl("net.ipv4.ip_forward", 0)
    assert "\x1b[1;31merror" in on_terminal(node, 80, "doctor", "--check", "forwarding")
    # Bold is no colour.
    plain = on_terminal(node, 80, "doctor", "--check", "forwarding", NO_COLOR="1")
    assert re.findall(r"\x1b\[[0-9;]*m", plain) != []
    assert re.findall(r"\x1b\[[0-9;]*[34]\dm", plain) == []


@pytest.mark.root
def test_what_takes_longer_than_a_second_is_told_on_stderr_alone(node: NetNode) -> None:
    node.add("web", (8080, 80))
    quick = node.net("audit")
    assert (quick.stderr, quick.returncode) == ("", 0)
    script = node.folder / "slow"
    script.write_text("#!/bin/sh\nsleep 2\necho '{\"nftables\": []}'\n")
    script.chmod(0o755)
    node.sh(f"mount --no-mtab --bind {script} $(command -v nft)")
    slow = node.net("doctor", "--check", "nft", "--json")
    assert json.loads(slow.stdout)["checks"] == ["nft"]
    assert slow.stderr == "... doctor: nft\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["leases", "--unknown"],
        ["leases", "--address", "x"],
        ["doctor", "--check", "nothing"],
        ["gc", "--yes", "--dry-run"],
        ["conf"],
        ["conf", "render"],
        ["conf", "render", "--pod-cidr", "10.0.0.0/24", "--cni-version", "7"],
    ],
    ids=" ".join,
)
def test_wrong_use_is_exit_code_2_with_the_reason_on_stderr(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "usage: podwire-net" in told.err


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    command = [sys.executable, "-m", "cni_plugin.net", "conf", "render", "--pod-cidr", "10.0.0.0/24"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=environment, text=True, timeout=30)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.root
@pytest.mark.parametrize("command", ["leases", "audit", "gc"])
def test_a_state_folder_that_cannot_be_read_is_one_error(node: NetNode, command: str) -> None:
    node.add("web")
    attachments = node.node_folder() / "attachments"
    attachments.rename(attachments.with_name("aside"))
    attachments.write_text("")
    done = node.net(command, "--json")
    assert done.returncode == 1
    assert "Not a directory" in json.loads(done.stdout)["error"]
    assert done.stderr.startswith("podwire-net: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (200, "3m20s"), (3600, "1h"), (18720, "5h12m"), (790000, "9d3h")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Two checks that go wrong: `raises` after a first complaint, `hangs` until the event is set."""
    release = threading.Event()

    def raises(node: Node) -> Iterator[Complaint]:
        yield ERROR, "something", "do it"
        raise RuntimeError("out of luck")

    def hangs(node: Node) -> Iterator[Complaint]:
        release.wait()
        yield ERROR, "too late", "never"

    monkeypatch.setitem(CHECKS, "raises", Check("raises", "luck", raises))
    monkeypatch.setitem(CHECKS, "hangs", Check("hangs", "a mount that hangs", hangs))
    yield release
    release.set()


def test_a_check_that_fails_is_a_finding_and_keeps_what_it_found(check: threading.Event) -> None:
    found = doctor.examine(Node(), ["raises"])
    assert [(each.severity, each.what) for each in found] == [
        ("error", "something"),
        ("warning", "the check failed: RuntimeError: out of luck"),
    ]


def test_a_check_that_does_not_end_is_a_finding_and_the_others_go_on(check: threading.Event) -> None:
    found = doctor.examine(Node(), ["hangs", "raises"], seconds=0.1)
    assert [each.check for each in found] == ["raises", "hangs", "raises"]
    assert found[1].what == "the check did not end within 0.1 s: a mount that hangs"
