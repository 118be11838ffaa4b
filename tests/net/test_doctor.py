"""doctor: each fault is really made on a private node, is found, and the command that doctor names mends it."""

import json
import shutil
import sys

import pytest

from cni_plugin.net.doctor import CHECKS
from tests.net.conftest import REPOSITORY, NetNode
from tests.net.faults import DROP, FAULTS, Fault, dual_stack, networkd_told_for_routes_only

pytestmark = pytest.mark.root


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.title)
def test_a_fault_is_found_and_its_fix_mends_it(node: NetNode, fault: Fault) -> None:
    node.add("web", (8080, 80))
    fault.make(node)
    found = node.json("doctor", "--check", fault.check)["findings"]
    hits = [each for each in found if each["severity"] == fault.severity and fault.words in each["what"]]
    assert len(hits) == 1, found
    if not fault.mends:
        return
    node.sh(hits[0]["fix"])
    assert node.findings("doctor", "--check", fault.check) == []


def test_every_check_has_a_fault_that_it_finds() -> None:
    elsewhere = {"kernel"}
    assert {fault.check for fault in FAULTS} | elsewhere == set(CHECKS)


def test_a_healthy_node_has_no_findings(node: NetNode) -> None:
    node.add("web", (8080, 80))
    dual_stack("")(node)
    done = node.net("doctor")
    assert (done.returncode, done.stdout) == (0, f"{len(CHECKS)} checks: nothing found\n"), done.stdout + done.stderr


def test_a_node_that_has_no_pod_yet_has_nothing_to_mend(node: NetNode) -> None:
    assert node.findings("doctor") == ["note forwarding: net.ipv4.ip_forward is 0 (the first ADD sets it to 1)"]


@pytest.mark.parametrize(
    "rules",
    [
        "add table bridge own; add chain bridge own fw { type filter hook forward priority 0; policy drop; }",
        f'add table inet own; add chain inet own fw {{ {DROP} }}; add rule inet own fw iifname "pw*" accept;'
        ' add rule inet own fw oifname "pw*" accept',
        f"add table inet own; add chain inet own fw {{ {DROP} }}; add rule inet own fw iifgroup 28791 accept;"
        " add rule inet own fw oifgroup { 28791, 28792 } accept",
        f"add table ip own; add chain ip own fw {{ {DROP} }}; add rule ip own fw ip saddr 10.244.0.0/16 accept;"
        " add rule ip own fw ip daddr 10.244.0.0/16 accept",
        "add table ip own; add chain ip own fw { type filter hook forward priority 0; };"
        " add rule ip own fw ct state invalid drop; add rule ip own fw ip saddr 192.168.0.0/16 drop",
        "add table inet own; add chain inet own in { type filter hook input priority 0; policy drop; }",
    ],
    ids=["a bridge's", "accepts by name", "accepts by group", "accepts by address", "drops others", "input"],
)
def test_a_firewall_that_lets_pods_through_is_no_finding(node: NetNode, rules: str) -> None:
    node.add("web")
    node.space.run(["nft", "-f", "-"], input=rules.replace("; add ", "\nadd ").replace(";add ", "\nadd "))
    assert node.findings("doctor", "--check", "firewall") == []


def test_networkd_that_is_told_to_leave_foreign_routes_is_no_finding(node: NetNode) -> None:
    networkd_told_for_routes_only(node)
    [before] = node.findings("doctor", "--check", "networkd")
    assert "ManageForeignRoutingPolicyRules" in before
    node.sh("printf '[Network]\\nManageForeignRoutingPolicyRules=no\\n' >/etc/systemd/networkd.conf.d/b.conf")
    assert node.findings("doctor", "--check", "networkd") == []


# getsockopt(SOL_SOCKET, SO_NETNS_COOKIE) answers ENOPROTOOPT, as a kernel before 5.14 does: a seccomp filter.
OLD_KERNEL = """
import ctypes, struct, sys
from cni_plugin.net.__main__ import main
load, equal, answer = 0x20, 0x15, 0x06
number = {"x86_64": 55, "aarch64": 209}[__import__("platform").machine()]
program = b"".join(struct.pack("=HBBI", *each) for each in (
    (load, 0, 0, 0), (equal, 0, 5, number), (load, 0, 0, 24), (equal, 0, 3, 1),
    (load, 0, 0, 32), (equal, 0, 1, 71), (answer, 0, 0, 0x00050000 | 92), (answer, 0, 0, 0x7FFF0000),
))
held = ctypes.create_string_buffer(program)
fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, fprog, 0, 0) == 0, ctypes.get_errno()
sys.exit(main(sys.argv[1:]))
"""


def test_a_kernel_without_namespace_cookies_is_found_by_trying(node: NetNode) -> None:
    done = node.space.run(
        ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-c", OLD_KERNEL, "doctor", "--check", "kernel", "--json"],
        check=False,
    )
    [finding] = json.loads(done.stdout)["findings"]
    assert finding["severity"] == "error"
    assert "SO_NETNS_COOKIE: [Errno 92]" in finding["what"]
    assert done.returncode == 1


def test_a_tool_that_fails_is_a_finding_and_no_traceback(node: NetNode) -> None:
    node.add("web", (8080, 80))
    script = node.folder / "broken"
    script.write_text("#!/bin/sh\necho 'nft: out of luck' >&2\nexit 1\n")
    script.chmod(0o755)
    node.sh(f"mount --no-mtab --bind {script} {shutil.which('nft')}")
    done = node.net("doctor")
    assert done.returncode == 1
    assert "firewall: the check failed: ToolError: `" in done.stdout
    assert "out of luck" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
