"""IPv6 alone and beside IPv4: all addresses or none, usable at once, wherever IPv6 is off."""

import json
from typing import Any

import pytest

from cni_plugin.attachment import lease_id
from cni_plugin.spec import SUPPORTED_VERSIONS
from tests.kernel.conftest import Node
from tests.lab.netns import Namespace

DUAL: dict[str, Any] = {"ranges": [[{"subnet": "10.244.0.0/24"}], [{"subnet": "fd00:10::/64"}]]}
ONLY: dict[str, Any] = {"ranges": [[{"subnet": "fd00:10::/64"}]]}


def seen(space: Namespace, *words: str) -> list[dict[str, Any]]:
    """What `ip -j` tells."""
    found: list[dict[str, Any]] = json.loads(space.run(["ip", "-j", "-d", *words]).stdout or "[]")
    return found


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
@pytest.mark.parametrize("section", [DUAL, ONLY], ids=["dual stack", "IPv6 alone"])
def test_add_check_and_del_hold_in_each_version(node: Node, section: dict[str, Any], version: str) -> None:
    pod = node.pod()
    added = node.add("abc", pod, ("tcp", 8080, 80), ipam=section, cniVersion=version)
    assert added.exit_code == 0, added.stdout
    if version < "0.3.0":
        assert added.json["ip6"]["ip"] == "fd00:10::1/128"
        assert ("ip4" in added.json) == (section is DUAL)
    else:
        assert [ip["address"] for ip in added.json["ips"]][-1] == "fd00:10::1/128"
    if version >= "0.4.0":
        checked = node.call("CHECK", "abc", pod, ipam=section, cniVersion=version, prevResult=added.json)
        assert (checked.exit_code, checked.stdout) == (0, "")
    assert node.call("DEL", "abc", pod, ipam=section, cniVersion=version).exit_code == 0
    assert node.holdings() == []
    assert not [route for route in seen(node.space, "-6", "route") if route["dst"].startswith("fd00:10:")]


def test_add_wires_both_families_as_the_result_says(node: Node) -> None:
    pod = node.pod()
    added = node.add("abc", pod, ipam=DUAL).json
    assert [(ip["address"], ip["gateway"]) for ip in added["ips"]] == [
        ("10.244.0.1/32", "169.254.1.1"),
        ("fd00:10::1/128", "fe80::1"),
    ]
    assert added["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}]
    (link,) = seen(pod, "address", "show", "dev", "eth0")
    assert link["address"] == "0a:58:0a:f4:00:01"
    held = {each["local"]: each for each in link["addr_info"]}
    # No link-local address, which would be tentative for a second, and none that is being probed for.
    assert set(held) == {"10.244.0.1", "fd00:10::1"}
    assert "tentative" not in held["fd00:10::1"]
    assert held["fd00:10::1"]["nodad"] is True
    (default,) = seen(pod, "-6", "route", "show", "default")
    assert (default["gateway"], default["dev"]) == ("fe80::1", "eth0")
    host = lease_id("abc", "eth0")
    (route,) = seen(node.space, "-6", "route", "show", "fd00:10::1")
    assert (route["dev"], route["protocol"]) == (host, "112")
    assert [each["lladdr"] for each in seen(node.space, "-6", "neigh", "show", "dev", host)] == ["0a:58:0a:f4:00:01"]
    (node_end,) = seen(node.space, "address", "show", "dev", host)
    assert node_end["addr_info"] == []


def test_a_pod_with_ipv6_alone_has_a_mac_that_follows_from_its_address(node: Node) -> None:
    first = node.add("abc", node.pod(), ipam=ONLY).json["interfaces"][1]["mac"]
    assert first.startswith("0a:58:")
    node.call("DEL", "abc", ipam=ONLY)
    again = node.add("xyz", node.pod(), ipam=ONLY, runtimeConfig={"ips": ["fd00:10::1"]}).json
    assert again["interfaces"][1]["mac"] == first


@pytest.mark.parametrize("port", [("tcp", 8080), ("udp", 5353)], ids=["tcp", "udp"])
def test_a_host_port_is_claimed_for_each_family(node: Node, port: tuple[str, int]) -> None:
    node.add("abc", node.pod(), (*port, 80), ipam=DUAL)
    assert node.files("ports") == [f"{port[0]}-{port[1]}-0.0.0.0", f"{port[0]}-{port[1]}-::"]
    other = {"ranges": [[{"subnet": "fd00:20::/64"}]]}
    node.add("xyz", node.pod(), (*port, 81), ipam=other).fails_with(109, f"[::]:{port[1]}")
    assert node.call("DEL", "abc").exit_code == 0
    assert node.add("xyz", node.pod(), (*port, 81), ipam=other).exit_code == 0


def test_a_pod_never_starts_with_half_of_its_addresses(node: Node) -> None:
    tight = {"ranges": [[{"subnet": "10.244.0.0/24"}], [{"subnet": "fd00:10::1/128"}]]}
    assert node.add("abc", node.pod(), ipam=tight).exit_code == 0
    before = node.holdings()
    pod = node.pod()
    node.add("xyz", pod, ("tcp", 8080, 80), ipam=tight).fails_with(100, "fd00:10::1", "1 usable, 1 held")
    assert node.holdings() == before
    assert "eth0" not in node.witness(pod)["links"]


@pytest.mark.parametrize("where", ["pod", "node", "both"])
def test_ipv6_that_is_off_by_default_is_switched_on_for_the_pods_link_alone(node: Node, where: str) -> None:
    pod = node.pod()
    spaces = {"pod": [pod], "node": [node.space], "both": [pod, node.space]}[where]
    for space in spaces:
        space.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"])
    assert node.add("abc", pod, ipam=DUAL).exit_code == 0
    assert [each["dst"] for each in seen(pod, "-6", "route", "show", "default")] == ["default"]
    assert seen(node.space, "-6", "route", "show", "fd00:10::1")
    for space in spaces:
        assert space.run(["sysctl", "-n", "net.ipv6.conf.lo.disable_ipv6"]).stdout.strip() == "1"


def test_settings_that_cannot_be_written_are_code_106_with_the_command_and_nothing_is_left(node: Node) -> None:
    pod = node.pod()
    pod.run(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])

    def read_only(argv: list[str]) -> list[str]:
        script = 'mount -o bind,ro /proc/sys /proc/sys && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", *argv]

    node.space.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
    answer = node.call("ADD", "abc", pod, ipam=DUAL, wrap=read_only)
    answer.fails_with(106, "net.ipv6.conf.eth0.disable_ipv6", "Read-only file system")
    assert "sysctl -w" in answer.json["details"]
    assert node.holdings() == []


def test_forwarding_ipv6_keeps_the_uplinks_router_advertisements(node: Node) -> None:
    before = node.space.run(["sysctl", "-n", "net.ipv6.conf.uplink.accept_ra"]).stdout.strip()
    assert before == "1"
    node.add("abc", node.pod(), ipam=ONLY)
    name = lease_id("abc", "eth0")
    settings = [f"net.ipv6.conf.{each}" for each in ("all.forwarding", "uplink.accept_ra", f"{name}.accept_ra")]
    assert node.space.run(["sysctl", "-n", *settings]).stdout.split() == ["1", "2", "0"]


@pytest.mark.parametrize("section", [{"ranges": [[{"subnet": "10.244.0.0/24"}]]}, DUAL], ids=["IPv4 alone", "dual"])
def test_no_pod_can_make_itself_the_router_of_the_node(node: Node, section: dict[str, Any]) -> None:
    # CVE-2020-10749; the administrator's default would even let a router take advertisements.
    node.space.run(["sysctl", "-qw", "net.ipv6.conf.default.accept_ra=2"])
    assert node.add("abc", node.pod(), ipam=section).exit_code == 0
    name = lease_id("abc", "eth0")
    assert node.space.run(["sysctl", "-n", f"net.ipv6.conf.{name}.accept_ra"]).stdout.strip() == "0"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("POD ip -6 address del fd00:10::1/128 dev eth0", "address fd00:10::1/128 is missing"),
        ("POD ip -6 route del default", "route ::/0 through fe80::1"),
        ("POD ip -6 neigh del fe80::1 dev eth0", "neighbour fe80::1"),
        ("NODE ip -6 route del fd00:10::1", "route fd00:10::1/128"),
        ("NODE ip -6 neigh del fd00:10::1 dev LINK", "neighbour fd00:10::1"),
        ("NODE nft delete element inet podwire1 hostport6 { tcp . 8080 }", "nft element hostport6"),
        ("NODE sysctl -qw net.ipv6.conf.all.forwarding=0", "net.ipv6.conf.all.forwarding is 0"),
        ("NODE sysctl -qw net.ipv4.ip_forward=0", "net.ipv4.ip_forward is 0"),
    ],
    ids=["address", "route in the pod", "gateway", "route", "neighbour", "element", "forwarding", "IPv4 forwarding"],
)
def test_check_names_what_differs(node: Node, damage: str, named: str) -> None:
    pod = node.pod()
    result = node.add("abc", pod, ("tcp", 8080, 80), ipam=DUAL).json
    place, *words = damage.replace("LINK", lease_id("abc", "eth0")).split()
    (pod if place == "POD" else node.space).run(words)
    node.call("CHECK", "abc", pod, ipam=DUAL, prevResult=result).fails_with(108, named)


def test_check_names_a_chain_that_drops_what_the_node_should_forward(node: Node) -> None:
    pod = node.pod()
    result = node.add("abc", pod, ipam=DUAL).json
    chain = "table ip6 theirs { chain theirs { type filter hook forward priority 0; policy drop; }; }"
    node.space.run(["nft", "-f", "-"], input=chain)
    node.call("CHECK", "abc", pod, ipam=DUAL, prevResult=result).fails_with(108, "ip6 theirs")
