"""The plan, from values alone: who is reached how, and what is passed over."""

import ipaddress
import time
from dataclasses import replace
from typing import Any

import pytest

from cni_plugin.agent import plan
from cni_plugin.agent.peers import Nodes, Peer
from cni_plugin.agent.plan import Identity, Local, Plan, Route, Scene, mac_of

IP, NET = ipaddress.ip_address, ipaddress.ip_network
UPLINK = 2
A, B, FAR = "192.0.2.1", "192.0.2.2", "203.0.113.3"
A6, B6 = "2001:db8::1", "2001:db8::2"


def peer(name: str, addresses: list[str], subnets: list[str]) -> Peer:
    return Peer(name, tuple(map(IP, addresses)), tuple(map(NET, subnets)))


OWN = peer("a", [A, A6], ["10.244.0.0/24", "fd00:0:0:1::/64"])
OTHER = peer("b", [B, B6], ["10.244.1.0/24", "fd00:0:0:2::/64"])
DISTANT = peer("c", [FAR], ["10.244.2.0/24"])
SCENE = Scene(
    {IP(A): Local(UPLINK, 1500), IP(A6): Local(UPLINK, 1500)}, {IP(B): UPLINK, IP(B6): UPLINK, IP("192.0.2.9"): UPLINK}
)


def made(*peers: Peer, scene: Scene = SCENE, **identity: Any) -> Plan:
    return plan.make(Identity("a", **identity), Nodes(peers), scene)


def test_a_node_on_the_link_is_a_gateway_in_each_family() -> None:
    result = made(OWN, OTHER)
    assert result.routes == (
        Route(NET("10.244.1.0/24"), IP(B), UPLINK),
        Route(NET("fd00:0:0:2::/64"), IP(B6), UPLINK),
    )
    assert (result.tunnel, result.faults, result.peers) == (None, (), 1)
    assert result.no_masquerade == OTHER.pod_cidrs
    assert result.families == {4, 6}


def test_a_node_behind_a_router_is_at_the_end_of_the_tunnel() -> None:
    result = made(OWN, OTHER, DISTANT)
    assert Route(NET("10.244.2.0/24"), IP("10.244.2.0")) in result.routes
    assert result.modes == {"host-gw": 2, "vxlan": 1}
    tunnel = result.tunnel
    assert tunnel is not None
    assert (tunnel.local, tunnel.mac, tunnel.mtu) == (IP(A), mac_of(IP(A)), 1450)
    assert tunnel.addresses == (IP("10.244.0.0"), IP("fd00:0:0:1::"))
    assert tunnel.neighbours == {IP("10.244.2.0"): mac_of(IP(FAR))}
    assert tunnel.fdb == {mac_of(IP(FAR)): IP(FAR)}


def test_ipv6_pods_of_ipv4_nodes_take_the_tunnel_though_the_link_is_shared() -> None:
    result = made(OWN, replace(OTHER, addresses=(IP(B),)))
    assert result.routes == (
        Route(NET("10.244.1.0/24"), IP(B), UPLINK),
        Route(NET("fd00:0:0:2::/64"), IP("fd00:0:0:2::")),
    )


def test_mode_vxlan_tunnels_to_all_and_ipv6_may_carry_it() -> None:
    result = made(OWN, OTHER, mode="vxlan", underlay="ipv6")
    assert {route.link for route in result.routes} == {0}
    assert result.tunnel is not None
    assert (result.tunnel.local, result.tunnel.mtu) == (IP(A6), 1430)
    assert result.tunnel.fdb == {mac_of(IP(B6)): IP(B6)}


def test_mode_host_gw_never_tunnels() -> None:
    result = made(OWN, DISTANT, mode="host-gw")
    assert (result.routes, result.tunnel) == ((), None)
    assert result.faults == (
        "node c: pod CIDR 10.244.2.0/24 has no route: none of its IPv4 addresses is on a link of this node "
        '(it has 203.0.113.3); set mode = "auto"',
    )
    # Pods there are pods all the same.
    assert result.no_masquerade == DISTANT.pod_cidrs


def test_every_node_derives_the_same_mac_and_it_is_a_local_unicast_one() -> None:
    seen = plan.make(Identity("b", mode="vxlan"), Nodes((OWN, OTHER)), Scene({IP(B): Local(3, 9000)})).tunnel
    mine = made(OWN, OTHER, mode="vxlan").tunnel
    assert seen is not None
    assert mine is not None
    assert (seen.mac, list(mine.fdb), seen.mtu) == (mac_of(IP(B)), [mac_of(IP(B))], 8950)
    assert mac_of(IP("172.18.0.2")) == "1e:fe:fa:c7:39:70"
    assert all(int(mac_of(IP(f"10.0.0.{n}"))[:2], 16) & 3 == 2 for n in range(1, 255))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (peer("x", ["192.0.2.9"], ["10.244.0.0/16"]), "it overlaps 10.244.0.0/24 of this node"),
        (peer("x", ["192.0.2.9"], ["10.244.1.0/25"]), "it overlaps 10.244.1.0/24 of node b"),
        (peer("x", ["192.0.2.9"], ["fd00:0:0:2::/80"]), "it overlaps fd00:0:0:2::/64 of node b"),
        (peer("x", ["192.0.2.9"], ["192.0.2.0/30"]), "an address of this node lies in it"),
        (peer("x", ["192.0.2.9"], ["192.0.2.2/31"]), "the address of a node lies in it"),
        (peer("x", ["192.0.2.9"], ["0.0.0.0/0"]), "pods cannot have such addresses"),
        (peer("x", ["192.0.2.9"], ["::/0"]), "pods cannot have such addresses"),
        (peer("x", ["192.0.2.9"], ["127.0.0.0/24"]), "pods cannot have such addresses"),
        (peer("x", ["192.0.2.9"], ["fe80::/64"]), "pods cannot have such addresses"),
        (peer("x", [A], ["10.244.9.0/24"]), "has this node's own address 192.0.2.1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_subnet_is_one_fault_and_the_rest_goes_on(wrong: Peer, told: str) -> None:
    result = made(OWN, OTHER, wrong)
    assert [told in each for each in result.faults] == [True], result.faults
    assert {route.destination for route in result.routes} == set(OTHER.pod_cidrs)
    assert set(result.no_masquerade) == set(OTHER.pod_cidrs)


def test_the_first_by_name_keeps_a_subnet_that_two_claim() -> None:
    first, second = peer("d", [B], ["10.1.0.0/16"]), peer("e", ["192.0.2.9"], ["10.1.2.0/24", "10.2.0.0/24"])
    result = made(OWN, first, second)
    assert [str(route.destination) for route in result.routes] == ["10.1.0.0/16", "10.2.0.0/24"]
    assert result.faults == ("node e: pod CIDR 10.1.2.0/24 was passed over: it overlaps 10.1.0.0/16 of node d",)


@pytest.mark.parametrize(
    ("peers", "identity", "scene", "told"),
    [
        ((DISTANT,), {}, SCENE, "this node, a, is not in the list of nodes"),
        ((replace(OWN, addresses=()), DISTANT), {}, SCENE, "this node has no address"),
        ((replace(OWN, addresses=(IP(A6),)), DISTANT), {"underlay": "ipv4"}, SCENE, "this node has no ipv4 address"),
        ((OWN, DISTANT), {}, Scene(), "this node's address 192.0.2.1 is on none of its links"),
        ((replace(OWN, pod_cidrs=()), DISTANT), {}, SCENE, "this node has no pod CIDR yet"),
        ((OWN, DISTANT), {"underlay": "ipv6"}, SCENE, "node c: pod CIDR 10.244.2.0/24 has no route: IPv6 carries"),
    ],
    ids=["not listed", "no address", "no such address", "not on a link", "no pod CIDR", "other family"],
)
def test_why_there_is_no_tunnel_is_said_once(
    peers: tuple[Peer, ...], identity: dict[str, Any], scene: Scene, told: str
) -> None:
    result = made(*peers, scene=scene, **identity)
    assert [told in each for each in result.faults] == [True], result.faults
    assert [route for route in result.routes if not route.link] == []


def test_a_node_that_is_not_listed_is_reached_over_links_all_the_same() -> None:
    result = made(OTHER)
    assert len(result.routes) == 2
    assert result.faults == ()


def test_the_configuration_wins_over_the_list() -> None:
    result = made(
        OWN, DISTANT, pod_cidrs=(NET("10.9.0.0/24"),), addresses=(IP("192.0.2.77"),), mtu=1400,
        cluster_cidrs=(NET("10.0.0.0/8"),), scene=Scene({IP("192.0.2.77"): Local(UPLINK, 1500)}),
    )  # fmt: skip
    assert result.tunnel is not None
    assert (str(result.tunnel.local), result.tunnel.mtu) == ("192.0.2.77", 1400)
    assert result.tunnel.addresses == (IP("10.9.0.0"),)
    assert result.no_masquerade == (NET("10.0.0.0/8"), NET("10.244.2.0/24"))


def test_a_tunnel_too_small_for_ipv6_says_so() -> None:
    small = Scene({IP(A): Local(UPLINK, 1300)})
    result = made(OWN, DISTANT, scene=small)
    assert result.tunnel is not None
    assert result.tunnel.mtu == 1280
    assert result.faults == ("the tunnel's MTU 1250 is less than the 1280 that IPv6 needs; raise the link's",)


def test_nothing_known_is_nothing_planned() -> None:
    assert made() == Plan(modes={"host-gw": 0, "vxlan": 0})


def test_the_plan_is_the_same_in_any_order_and_ten_thousand_nodes_take_little() -> None:
    many = [
        peer(f"n{n:05}", [f"10.{128 + n // 65536}.{n // 256 % 256}.{n % 256}"], [f"10.{n // 256}.{n % 256}.0/24"])
        for n in range(10_000)
    ]
    began = time.process_time()
    result = made(OWN, *many)
    assert time.process_time() - began < 5
    assert (len(result.routes), result.faults) == (10_000, ())
    assert result.tunnel is not None
    assert len(result.tunnel.fdb) == 10_000
    assert made(OWN, OTHER, DISTANT) == made(OWN, OTHER, DISTANT)
