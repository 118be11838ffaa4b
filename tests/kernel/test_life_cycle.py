"""An attachment from ADD to DEL in a real kernel, read back by pyroute2 and nft."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.attachment import lease_id
from cni_plugin.spec import SUPPORTED_VERSIONS
from tests.kernel.conftest import Node, netns_path
from tests.lab.waiting import wait_until


def test_add_wires_both_ends_as_the_record_says(node: Node) -> None:
    pod = node.pod()
    answer = node.add("abc", pod, ("tcp", 8080, 80))
    link = lease_id("abc", "eth0")
    assert answer.json["interfaces"][0]["name"] == link
    assert answer.address == "10.244.0.1"

    host = node.witness(node.space)
    assert host["links"][link] == {
        "index": host["links"][link]["index"],
        "up": True,
        "mac": "02:70:77:00:00:01",
        "mtu": 1500,
        "group": 0x7077,
        "alias": "podwire abc eth0",
        "conf": {"forwarding": 1, "rp_filter": 1, "send_redirects": 0, "route_localnet": 1},
    }
    assert f"10.244.0.1/32 dev {link} proto 112" in host["routes"]
    assert f"10.244.0.1 0a:58:0a:f4:00:01 {link}" in host["neighbours"]

    inside = node.witness(pod)
    assert inside["links"]["lo"]["up"]
    assert inside["links"]["eth0"]["up"]
    assert inside["links"]["eth0"]["mac"] == "0a:58:0a:f4:00:01"
    assert "10.244.0.1/32 eth0" in inside["addresses"]
    assert inside["routes"] == ["default via 169.254.1.1 dev eth0 proto 112 onlink"]
    assert inside["neighbours"] == ["169.254.1.1 02:70:77:00:00:01 eth0"]
    assert f'tcp . 8080 comment "{link}" : 10.244.0.1 . 80' in node.ruleset()
    record = next(node.state_dir.glob("*/attachments/*"))
    assert json.loads(record.read_text())["addresses"] == [["10.244.0.1", "169.254.1.1"]]
    assert record.samefile(next(node.state_dir.glob("*/addresses/10.244.0.1")))


def test_a_pod_without_host_ports_gets_no_route_localnet(node: Node) -> None:
    node.add("abc", node.pod())
    assert node.witness(node.space)["links"][lease_id("abc", "eth0")]["conf"]["route_localnet"] == 0


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_add_check_and_del_hold_in_each_version(node: Node, version: str) -> None:
    pod = node.pod()
    added = node.add("abc", pod, cniVersion=version)
    assert added.exit_code == 0, added.stdout
    assert added.json["cniVersion"] == version
    if version >= "0.4.0":
        checked = node.call("CHECK", "abc", pod, cniVersion=version, prevResult=added.json)
        assert (checked.exit_code, checked.stdout) == (0, "")
    deleted = node.call("DEL", "abc", pod, cniVersion=version)
    assert (deleted.exit_code, deleted.stdout) == (0, "")
    assert node.holdings() == []


@pytest.mark.parametrize("with_ports", [False, True], ids=["plain", "with hostPorts"])
def test_del_answers_when_link_route_and_elements_are_gone(node: Node, with_ports: bool) -> None:
    node.add("abc", node.pod(), *([("tcp", 8080, 80), ("udp", 53, 53)] if with_ports else []))
    assert node.holdings() != []
    assert node.call("DEL", "abc").exit_code == 0
    assert node.holdings() == []


def test_del_closes_the_runtimes_pipes_before_the_kernel_is_done(node: Node) -> None:
    node.add("abc", node.pod(), ("tcp", 8080, 80))
    # communicate() returns when every copy of the pipes is closed: a child that kept one would hold it.
    done = subprocess.run(
        node.argv("DEL", "abc", ""), input=json.dumps(node.config), capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "how",
    ["twice", "never added", "netns gone", "state gone", "configuration changed", "prevResult is nonsense", "no ipam"],
)
def test_del_needs_nothing(node: Node, how: str) -> None:
    pod = node.pod()
    if how != "never added":
        node.add("abc", pod, ("tcp", 8080, 80))
    if how == "twice":
        assert node.call("DEL", "abc", pod).exit_code == 0
    if how == "netns gone":
        pod.close()
    if how == "state gone":
        node.space.run(["rm", "-r", str(node.state_dir)])
    changes: dict[str, dict[str, Any]] = {
        "configuration changed": {"ipam": {"ranges": [[{"subnet": "10.9.0.0/24"}]]}, "ipMasq": False},
        "prevResult is nonsense": {"prevResult": {"cniVersion": 7, "ips": "none"}},
        "no ipam": {"ipam": None, "capabilities": None},
    }
    answer = node.call("DEL", "abc", pod if how != "netns gone" else "/proc/1/nothing", **changes.get(how, {}))
    assert (answer.exit_code, answer.stdout) == (0, "")
    if how == "state gone":
        # Elements without any record stay until their hostPort is claimed anew; link, route and claim are gone.
        assert [each for each in node.holdings() if "comment" not in each and "elements" not in each] == []
        assert node.add("next", node.pod(), ("tcp", 8080, 80)).exit_code == 0
        assert "10.244.0.1 . 80" in node.ruleset()
    else:
        assert node.holdings() == []


def test_a_stale_del_never_touches_the_new_owner_of_an_address(node: Node) -> None:
    range_of_one = {"ranges": [[{"subnet": "10.244.0.9/32"}]]}
    first = node.pod()
    assert node.add("old", first, ipam=range_of_one).address == "10.244.0.9"
    node.call("DEL", "old", first)
    second = node.pod()
    assert node.add("new", second, ipam=range_of_one).address == "10.244.0.9"
    before = node.holdings()
    node.call("DEL", "old", first)
    assert node.holdings() == before


def test_a_second_interface_of_one_pod_is_an_attachment_of_its_own(node: Node) -> None:
    pod = node.pod()
    node.add("abc", pod)
    second = node.call("ADD", "abc", pod, "net1", ipam=node.config["ipam"] | {"routes": [{"dst": "10.99.0.0/16"}]})
    assert second.address == "10.244.0.2"
    node.call("DEL", "abc", pod, "net1")
    assert node.files("addresses") == ["10.244.0.1"]
    assert "eth0" in node.witness(pod)["links"]


def test_a_finished_attachment_refuses_another_add_and_stays(node: Node) -> None:
    pod = node.pod()
    node.add("abc", pod)
    before = node.holdings()
    node.add("abc", pod).fails_with(110, "abc", "10.244.0.1")
    assert node.holdings() == before


@pytest.mark.parametrize("left_in", ["pending", "deleting", "attachments"])
def test_add_clears_what_a_killed_call_left(node: Node, left_in: str) -> None:
    pod = node.pod()
    node.add("abc", pod, ("tcp", 8080, 80))
    record = next(node.state_dir.glob("*/attachments/*"))
    if left_in == "attachments":
        pod.close()  # the pod died and took its link along
        wait_until(lambda: lease_id("abc", "eth0") not in node.witness(node.space)["links"], 10, "the link to go")
        pod = node.pod()
    else:
        record.rename(record.parent.parent / left_in / record.name)
    again = node.add("abc", pod, ("tcp", 8080, 80))
    assert again.exit_code == 0, again.stdout
    assert len(node.files("addresses", "ports", "attachments")) == 3
    assert node.files("pending", "deleting") == []
    assert node.call("DEL", "abc", pod).exit_code == 0
    assert node.holdings() == []


def test_a_foreign_link_with_our_name_is_left_alone(node: Node) -> None:
    name = lease_id("abc", "eth0")
    node.space.run(["ip", "link", "add", name, "type", "veth", "peer", "name", "foreign"])
    answer = node.add("abc", node.pod())
    assert answer.json["interfaces"][0]["name"] == lease_id("abc", "eth0", 1)
    assert node.call("DEL", "abc").exit_code == 0
    assert set(node.witness(node.space)["links"]) == {"lo", "uplink", name, "foreign"}


def test_an_address_that_the_node_routes_elsewhere_is_passed_over(node: Node) -> None:
    node.space.run(["ip", "route", "add", "10.244.0.1/32", "via", "192.0.2.1"])
    node.space.run(["ip", "address", "add", "10.244.0.2/32", "dev", "uplink"])
    assert node.add("abc", node.pod()).address == "10.244.0.3"


def test_claims_are_of_the_node_and_not_of_the_network(node: Node) -> None:
    assert node.add("abc", node.pod()).address == "10.244.0.1"
    assert node.add("xyz", node.pod(), name="other").address == "10.244.0.2"


def test_mtu_is_that_of_the_way_out_unless_configured(node: Node) -> None:
    node.space.run(["ip", "link", "set", "uplink", "mtu", "1432"])
    pod, other = node.pod(), node.pod()
    assert node.add("abc", pod).json["interfaces"][1]["mtu"] == 1432
    assert node.witness(pod)["links"]["eth0"]["mtu"] == 1432
    node.add("xyz", other, mtu=1280)
    assert node.witness(other)["links"]["eth0"]["mtu"] == 1280


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (["ip", "address", "del", "10.244.0.1/32", "dev", "eth0"], "address 10.244.0.1/32"),
        (["ip", "route", "del", "default"], "route 0.0.0.0/0"),
        (["ip", "link", "set", "eth0", "down"], "eth0 is down"),
        (["ip", "link", "set", "eth0", "mtu", "1300"], "MTU 1300"),
        (["ip", "link", "set", "eth0", "address", "02:00:00:00:00:07"], "MAC 02:00:00:00:00:07"),
        (["ip", "neigh", "del", "169.254.1.1", "dev", "eth0"], "neighbour 169.254.1.1"),
    ],
    ids=["address", "route", "down", "mtu", "mac", "neighbour"],
)
def test_check_names_what_differs_in_the_pod(node: Node, damage: list[str], named: str) -> None:
    pod = node.pod()
    result = node.add("abc", pod).json
    pod.run(damage)
    node.call("CHECK", "abc", pod, prevResult=result).fails_with(108, named)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("ip route del 10.244.0.1/32", "route 10.244.0.1/32"),
        ("ip link set LINK down", "is down"),
        ("ip link set LINK group 5", "group 5"),
        ("ip neigh del 10.244.0.1 dev LINK", "neighbour 10.244.0.1"),
        ("nft flush ruleset", "nft table inet podwire1 is missing"),
        ("nft delete element inet podwire1 hostport4 { tcp . 8080 }", "nft element hostport4"),
    ],
    ids=["route", "down", "group", "neighbour", "table", "element"],
)
def test_check_names_what_differs_on_the_node(node: Node, damage: str, named: str) -> None:
    pod = node.pod()
    result = node.add("abc", pod, ("tcp", 8080, 80)).json
    node.space.run(damage.replace("LINK", lease_id("abc", "eth0")).split())
    node.call("CHECK", "abc", pod, prevResult=result).fails_with(108, named)


@pytest.mark.parametrize("claim", ["addresses/10.244.0.1", "ports/tcp-8080-0.0.0.0"])
def test_check_names_a_lost_claim(node: Node, claim: str) -> None:
    pod = node.pod()
    result = node.add("abc", pod, ("tcp", 8080, 80)).json
    next(node.state_dir.glob(f"*/{claim}")).unlink()
    node.call("CHECK", "abc", pod, prevResult=result).fails_with(108, f"claim {claim} is not held")


def test_gc_removes_what_the_list_does_not_name_and_nothing_else(node: Node) -> None:
    pods = {name: node.pod() for name in ("keep", "drop", "other")}
    node.add("keep", pods["keep"], ("tcp", 8081, 80))
    node.add("drop", pods["drop"], ("tcp", 8082, 80))
    node.add("other", pods["other"], name="othernet")
    named: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": "keep", "ifname": "eth0"}]}
    for _ in range(2):
        answer = node.call("GC", **named)
        assert (answer.exit_code, answer.stdout) == (0, "")
        assert node.files("addresses") == ["10.244.0.1", "10.244.0.3"]
        assert node.files("ports") == ["tcp-8081-0.0.0.0"]
        assert "8082" not in node.ruleset()
        assert "8081" in node.ruleset()


def test_gc_without_a_list_removes_nothing(node: Node) -> None:
    node.add("abc", node.pod())
    node.call("GC").fails_with(7, "cni.dev/valid-attachments is missing")
    assert node.files("addresses") == ["10.244.0.1"]


def test_status_is_ok_with_a_full_pool_and_changes_nothing(node: Node) -> None:
    one = {"ranges": [[{"subnet": "10.244.0.9/32"}]]}
    assert node.call("STATUS", ipam=one).exit_code == 0
    assert not node.state_dir.exists()
    node.add("abc", node.pod(), ipam=one)
    assert node.call("STATUS", ipam=one).exit_code == 0


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "1.0.0", "1.1.0"])
def test_it_answers_as_loopback(node: Node, version: str) -> None:
    pod = node.pod()
    pod.run(["ip", "link", "set", "lo", "down"])
    config: dict[str, Any] = {"type": "loopback", "cniVersion": version, "ipam": None, "capabilities": None}
    added = node.call("ADD", "abc", pod, "lo", **config)
    assert added.exit_code == 0, added.stdout
    assert node.witness(pod)["links"]["lo"]["up"]
    if version >= "1.0.0":
        assert {"address": "127.0.0.1/8", "interface": 0} in added.json["ips"]
        assert node.call("CHECK", "abc", pod, "lo", **config).exit_code == 0
    assert node.call("DEL", "abc", pod, "lo", **config).exit_code == 0
    assert not node.witness(pod)["links"]["lo"]["up"]
    assert node.call("DEL", "abc", "/proc/1/nothing", "lo", **config).exit_code == 0


def test_each_call_leaves_one_line_with_its_phases(node: Node) -> None:
    pod = node.pod()
    pair = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"
    node.call("ADD", "abc", pod, env={"CNI_ARGS": pair})
    node.call("DEL", "abc", pod)
    lines = [json.loads(line) for line in Path(node.log).read_text().splitlines()]
    assert [line["command"] for line in lines] == ["ADD", "DEL"]
    for line in lines:
        assert (line["pod"], line["addresses"], line["code"]) == ("shop/web-0", ["10.244.0.1"], 0)
        assert line["phases"]["start"] > 0
        assert {"config", "open", "wiring", "record"} <= set(line["phases"])
    assert lines[0]["containerID"] == "abc"


def test_the_executable_can_be_replaced_while_it_is_used(node: Node) -> None:
    assert netns_path(node.space).startswith("/proc/")
    from cni_plugin import packaging

    for count in range(3):
        packaging.build(node.executable.parent, "/usr/bin/python3")
        assert node.add(f"c{count}", node.pod()).exit_code == 0
