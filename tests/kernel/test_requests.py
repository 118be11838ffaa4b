"""What a call asks for: addresses, a MAC, ranges, DNS, stickiness; and who wins when two ask."""

from typing import Any

import pytest

from tests.kernel.conftest import Answer, Node

ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
SETS: dict[str, Any] = {
    "ranges": [
        [{"subnet": "10.244.0.0/24", "rangeStart": "10.244.0.10", "rangeEnd": "10.244.0.20", "gateway": "10.244.0.1"}],
        [{"subnet": "10.250.0.0/29"}, {"subnet": "10.251.0.0/29"}],
    ],
    "exclude": ["10.244.0.10", "10.250.0.0/29"],
}


def addresses(answer: Answer) -> list[str]:
    assert answer.exit_code == 0, answer.stdout
    return [str(ip["address"]).partition("/")[0] for ip in answer.json["ips"]]


def test_there_is_one_address_out_of_each_range_set(node: Node) -> None:
    pod = node.pod()
    answer = node.add("abc", pod, ipam=SETS)
    assert addresses(answer) == ["10.244.0.11", "10.251.0.1"]
    assert [ip["gateway"] for ip in answer.json["ips"]] == ["10.244.0.1", "169.254.1.1"]
    assert node.call("CHECK", "abc", pod, ipam=SETS, prevResult=answer.json).exit_code == 0
    assert node.files("addresses") == ["10.244.0.11", "10.251.0.1"]
    assert node.call("DEL", "abc").exit_code == 0
    assert node.holdings() == []


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        pytest.param({"runtimeConfig": {"ips": ["10.244.0.50/24"]}}, "10.244.0.50", id="capability"),
        pytest.param(
            {"runtimeConfig": {ANNOTATIONS: {"podwire.dev/ips": "10.244.0.51"}}}, "10.244.0.51", id="annotation"
        ),
        pytest.param({"args": {"cni": {"ips": ["10.244.0.52"]}}}, "10.244.0.52", id="args.cni"),
        pytest.param({"env": {"CNI_ARGS": "IP=10.244.0.53"}}, "10.244.0.53", id="CNI_ARGS"),
        pytest.param(
            {
                "runtimeConfig": {"ips": ["10.244.0.50"], ANNOTATIONS: {"podwire.dev/ips": "10.244.0.51"}},
                "args": {"cni": {"ips": ["10.244.0.52"]}},
                "env": {"CNI_ARGS": "IP=10.244.0.53"},
            },
            "10.244.0.50",
            id="all of them",
        ),
        pytest.param(
            {"args": {"cni": {"ips": ["10.244.0.52"]}}, "env": {"CNI_ARGS": "IP=10.244.0.53;IgnoreUnknown=1"}},
            "10.244.0.52",
            id="args.cni and CNI_ARGS",
        ),
    ],
)
def test_a_requested_address_is_given_by_precedence(node: Node, asked: dict[str, Any], first: str) -> None:
    answer = node.call("ADD", "abc", node.pod(), **asked)
    assert addresses(answer) == [first]


def test_a_requested_address_that_is_held_is_code_101_with_its_holder(node: Node) -> None:
    first = node.pod()
    held = node.call("ADD", "abc", first, env={"CNI_ARGS": "IP=10.244.0.9;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"})
    before = node.holdings()
    node.call("ADD", "xyz", node.pod(), env={"CNI_ARGS": "IP=10.244.0.9"}).fails_with(
        101, "10.244.0.9 is held by shop/web"
    )
    assert node.holdings() == before
    assert node.call("CHECK", "abc", first, prevResult=held.json).exit_code == 0


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.9.0.1", "outside the ranges"),
        ("10.244.0.0", "outside the ranges"),
        ("10.244.0.255", "outside the ranges"),
        ("10.244.0.254", "a gateway, or excluded"),
        ("10.244.0.77", "a gateway, or excluded"),
        ("fd00::1", "outside the ranges"),
    ],
    ids=["other subnet", "network address", "broadcast", "gateway", "excluded", "other family"],
)
def test_a_requested_address_that_is_not_to_be_had_is_code_102(node: Node, address: str, why: str) -> None:
    section = {"ranges": [[{"subnet": "10.244.0.0/24", "gateway": "10.244.0.254"}]], "exclude": ["10.244.0.77"]}
    answer = node.call("ADD", "abc", node.pod(), ipam=section, runtimeConfig={"ips": [address]})
    answer.fails_with(102, f"requested address {address}", why)
    assert node.holdings() == []


def test_an_address_that_the_node_routes_elsewhere_is_not_given_on_request_either(node: Node) -> None:
    node.space.run(["ip", "route", "add", "10.244.0.9/32", "via", "192.0.2.1"])
    node.call("ADD", "abc", node.pod(), runtimeConfig={"ips": ["10.244.0.9"]}).fails_with(101, "somebody else's")


def test_a_blackhole_for_the_nodes_own_subnet_takes_no_address_away(node: Node) -> None:
    node.space.run(["ip", "route", "add", "blackhole", "10.244.0.0/24"])
    assert node.add("abc", node.pod()).address == "10.244.0.1"


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"runtimeConfig": {"mac": "02:11:22:33:44:55"}}, id="capability"),
        pytest.param({"runtimeConfig": {ANNOTATIONS: {"podwire.dev/mac": "02:11:22:33:44:55"}}}, id="annotation"),
        pytest.param({"env": {"CNI_ARGS": "MAC=02:11:22:33:44:55"}}, id="CNI_ARGS"),
    ],
)
def test_a_requested_mac_is_there_from_the_links_birth_on(node: Node, asked: dict[str, Any]) -> None:
    pod = node.pod()
    answer = node.call("ADD", "abc", pod, **asked)
    assert answer.json["interfaces"][1]["mac"] == "02:11:22:33:44:55"
    assert node.witness(pod)["links"]["eth0"]["mac"] == "02:11:22:33:44:55"
    assert node.call("CHECK", "abc", pod, prevResult=answer.json).exit_code == 0


def test_ranges_of_the_runtime_come_first_and_need_none_in_the_configuration(node: Node) -> None:
    asked: dict[str, Any] = {"runtimeConfig": {"ipRanges": [[{"subnet": "10.77.0.0/29", "rangeStart": "10.77.0.4"}]]}}
    assert addresses(node.call("ADD", "abc", node.pod(), **asked)) == ["10.77.0.4", "10.244.0.1"]
    bare: dict[str, Any] = {"ipam": {}, "capabilities": {"ipRanges": True}}
    assert addresses(node.call("ADD", "xyz", node.pod(), **bare, **asked)) == ["10.77.0.5"]
    assert node.call("STATUS", **bare).exit_code == 0
    node.call("ADD", "late", node.pod(), **bare).fails_with(7, "ipam.ranges")


def test_dns_of_the_runtime_goes_over_that_of_the_configuration(node: Node) -> None:
    answer = node.call(
        "ADD",
        "abc",
        node.pod(),
        dns={"nameservers": ["192.0.2.53"], "domain": "example.com"},
        runtimeConfig={"dns": {"servers": ["10.96.0.10"], "searches": ["svc.cluster.local"], "options": ["ndots:5"]}},
    )
    assert answer.json["dns"] == {
        "nameservers": ["10.96.0.10"],
        "search": ["svc.cluster.local"],
        "options": ["ndots:5"],
        "domain": "example.com",
    }


def sticky(kind: str, **extra: str) -> dict[str, Any]:
    return {"runtimeConfig": {ANNOTATIONS: {"podwire.dev/sticky": kind, **extra}}}


def pod_args(name: str, uid: str = "u1") -> dict[str, str]:
    return {"CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=db;K8S_POD_NAME={name};K8S_POD_UID={uid}"}


DUAL: dict[str, Any] = {"ranges": [[{"subnet": "10.244.0.0/24"}], [{"subnet": "fd00::/64"}]], "cooldownSeconds": 0}


@pytest.mark.parametrize("kind", ["name", "uid"])
def test_a_sticky_pod_finds_its_addresses_again_and_others_do_not_get_them(node: Node, kind: str) -> None:
    first = node.call("ADD", "a1", node.pod(), ipam=DUAL, env=pod_args("db-0"), **sticky(kind))
    node.call("DEL", "a1")
    wide = {"ranges": [[{"subnet": "10.244.0.0/30"}], [{"subnet": "fd00::/64"}]], "cooldownSeconds": 0}
    stranger = node.call("ADD", "b1", node.pod(), ipam=wide, env=pod_args("web", "u2"))
    assert addresses(stranger) == ["10.244.0.2", "fd00::2"]
    again = node.call("ADD", "a2", node.pod(), ipam=DUAL, env=pod_args("db-0"), **sticky(kind))
    assert addresses(again) == addresses(first) == ["10.244.0.1", "fd00::1"]


def test_a_sticky_reservation_yields_when_the_pool_is_exhausted(node: Node) -> None:
    tight = {"ranges": [[{"subnet": "10.244.0.8/32"}]], "cooldownSeconds": 0}
    node.call("ADD", "a1", node.pod(), ipam=tight, env=pod_args("db-0"), **sticky("name"))
    node.call("DEL", "a1")
    assert node.call("ADD", "b1", node.pod(), ipam=tight).address == "10.244.0.8"
    node.call("DEL", "b1")
    # Lent on in between, it is nobody's own any more, but free.
    again = node.call("ADD", "a2", node.pod(), ipam=tight, env=pod_args("db-0"), **sticky("name"))
    assert again.address == "10.244.0.8"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        pytest.param(sticky("pod"), "neither 'name' nor 'uid'", id="unknown kind"),
        pytest.param(sticky("name", **{"podwire.dev/sticky-seconds": "soon"}), "'soon'", id="no number"),
        pytest.param({"runtimeConfig": {"ips": ["10.244.0.x"]}}, "10.244.0.x", id="no address"),
        pytest.param({"runtimeConfig": {"ips": ["10.244.0.9", "10.244.0.9"]}}, "twice", id="twice"),
        pytest.param({"runtimeConfig": {"mac": "01:00:5e:00:00:01"}}, "multicast", id="multicast MAC"),
        pytest.param({"runtimeConfig": {"mac": "red"}}, "'red'", id="no MAC"),
        pytest.param({"runtimeConfig": {"dns": {"servers": [1]}}}, "dns.servers", id="DNS server a number"),
        pytest.param({"runtimeConfig": {"ipRanges": [[{"subnet": "10.1.0.1/24"}]]}}, "host bits", id="range"),
        pytest.param({"args": []}, "args [] must be", id="args a list"),
    ],
)
def test_a_request_that_makes_no_sense_is_code_7(node: Node, asked: dict[str, Any], words: str) -> None:
    node.call("ADD", "abc", node.pod(), env=pod_args("db-0"), **asked).fails_with(7, words)
    assert not node.state_dir.exists()
