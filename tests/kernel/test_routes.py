"""Routes of the pod: given twice, with host bits, with a gateway anywhere, with the attributes of CNI 1.1.0."""

import json
from typing import Any

import pytest

from tests.kernel.conftest import NODE_ADDRESS, Node

RANGES: list[list[dict[str, Any]]] = [[{"subnet": "10.244.0.0/24"}], [{"subnet": "fd00::/64"}]]


def routes(node: Node, stated: list[dict[str, Any]]) -> dict[str, Any]:
    """What the kernel then has in the pod, and the result."""
    pod = node.pod()
    section = {"ranges": RANGES, "routes": stated}
    added = node.add("abc", pod, ipam=section)
    assert added.exit_code == 0, added.stdout
    checked = node.call("CHECK", "abc", pod, ipam=section, prevResult=added.json)
    assert (checked.exit_code, checked.stdout) == (0, "")
    shown = json.loads(pod.run(["ip", "-j", "-d", "route", "show", "table", "all"]).stdout)
    shown += json.loads(pod.run(["ip", "-j", "-d", "-6", "route", "show", "table", "all"]).stdout)
    return {"pod": pod, "result": added.json["routes"], "kernel": [each for each in shown if each["protocol"] == "112"]}


@pytest.mark.parametrize(
    "stated",
    [
        [{"dst": "0.0.0.0/0"}, {"dst": "0.0.0.0/0"}],
        [{"dst": "10.9.0.0/16"}, {"dst": "10.9.0.0/16"}],
        [{"dst": "10.9.0.0/16"}, {"dst": "10.9.3.4/16"}],
        [{"dst": "fd00:9::/32"}, {"dst": "fd00:9::7/32"}],
    ],
    ids=["default", "subnet", "host bits", "IPv6"],
)
def test_a_route_given_twice_is_one_route(node: Node, stated: list[dict[str, Any]]) -> None:
    found = routes(node, stated)
    kept = [route for route in found["result"] if route["dst"] == stated[0]["dst"]]
    assert len(kept) == 1


def test_a_family_without_a_route_in_the_list_has_its_default(node: Node) -> None:
    found = routes(node, [{"dst": "10.96.0.0/12"}])
    assert [route["dst"] for route in found["result"]] == ["10.96.0.0/12", "::/0"]


def test_a_gateway_may_lie_anywhere_and_is_the_node(node: Node) -> None:
    found = routes(node, [{"dst": "0.0.0.0/0", "gw": "192.168.77.1"}, {"dst": "::/0", "gw": "2001:db8::77"}])
    assert [route["gw"] for route in found["result"]] == ["192.168.77.1", "2001:db8::77"]
    node.serve(node.space, NODE_ADDRESS, 80)
    assert node.ask(found["pod"], NODE_ADDRESS, 80) == "10.244.0.1"


def test_attributes_of_a_route_reach_kernel_and_result(node: Node) -> None:
    stated = [
        {"dst": "10.9.0.0/16", "mtu": 1400, "advmss": 1300, "priority": 77, "scope": 200},
        {"dst": "10.10.0.0/16", "table": 1234},
        {"dst": "fd00:9::/32", "mtu": 1400, "priority": 78},
    ]
    found = routes(node, stated)
    assert [{key: value for key, value in route.items() if key != "gw"} for route in found["result"]] == stated
    kernel = {each["dst"]: each for each in found["kernel"]}
    one = kernel["10.9.0.0/16"]
    assert (one["metric"], one["scope"]) == (77, "site")
    assert (one["metrics"][0]["mtu"], one["metrics"][0]["advmss"]) == (1400, 1300)
    assert kernel["10.10.0.0/16"]["table"] == "1234"
    assert (kernel["fd00:9::/32"]["metric"], kernel["fd00:9::/32"]["metrics"][0]["mtu"]) == (78, 1400)


def test_the_mtu_is_that_of_the_way_to_the_neighbouring_nodes_where_it_is_smaller(node: Node) -> None:
    # A tunnel to the pods of the next node, as an overlay makes it.
    node.space.run(["ip", "link", "add", "tunnel", "mtu", "1450", "type", "veth", "peer", "name", "far"])
    for name in ("tunnel", "far"):
        node.space.run(["ip", "link", "set", name, "up"])
    node.space.run(["ip", "route", "add", "10.244.1.0/24", "dev", "tunnel"])
    assert node.add("abc", node.pod()).json["interfaces"][1]["mtu"] == 1500
    wide = node.add("xyz", node.pod(), noMasquerade=["10.244.0.0/16"])
    assert wide.json["interfaces"][1]["mtu"] == 1450
    node.space.run(["ip", "route", "replace", "10.244.1.0/24", "dev", "tunnel", "mtu", "1380"])
    assert node.add("last", node.pod(), noMasquerade=["10.244.0.0/16"]).json["interfaces"][1]["mtu"] == 1380
