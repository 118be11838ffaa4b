"""A pod on two networks: each interface answers for itself, and both go without a trace."""

import json
from typing import Any

from tests.kernel.conftest import NODE_ADDRESS, Node

FIRST: dict[str, Any] = {"ranges": [[{"subnet": "10.244.0.0/24"}], [{"subnet": "fd00:1::/64"}]]}
SECOND: dict[str, Any] = {
    "ranges": [[{"subnet": "10.245.0.0/24"}], [{"subnet": "fd00:2::/64"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.99.0.0/16"}],
}


def test_the_first_interface_keeps_the_default_route_and_the_second_answers_by_source(node: Node) -> None:
    pod = node.pod()
    node.add("abc", pod, ipam=FIRST)
    second = node.call("ADD", "abc", pod, "net1", ipam=SECOND, name="second")
    assert second.exit_code == 0, second.stdout
    route = ["ip", "-j", "route", "get", "192.0.2.1"]
    assert json.loads(pod.run(route).stdout)[0]["dev"] == "eth0"
    assert json.loads(pod.run([*route, "from", "10.245.0.1"]).stdout)[0]["dev"] == "net1"
    assert json.loads(pod.run([*route[:-1], "10.99.0.1"]).stdout)[0]["dev"] == "net1"
    assert json.loads(pod.run(["ip", "-j", "-6", "route", "get", "2001:db8::1"]).stdout)[0]["dev"] == "eth0"
    assert (
        json.loads(pod.run(["ip", "-j", "-6", "route", "get", "2001:db8::1", "from", "fd00:2::1"]).stdout)[0]["dev"]
        == "net1"
    )
    # A caller of either address gets its answer from there: strict rp_filter would drop any other.
    for address in ("10.244.0.1", "10.245.0.1"):
        node.serve(pod, address, 80)
        assert node.ask(node.outside, address, 80) == "no answer"  # outside has no route to pods
        assert node.ask(node.space, address, 80) == NODE_ADDRESS
    checked = node.call("CHECK", "abc", pod, "net1", ipam=SECOND, name="second", prevResult=second.json)
    assert (checked.exit_code, checked.stdout) == (0, "")
    pod.run(["ip", "rule", "del", "from", "10.245.0.1"])
    node.call("CHECK", "abc", pod, "net1", ipam=SECOND, name="second", prevResult=second.json).fails_with(
        108, "rule from 10.245.0.1"
    )


def test_a_deleted_interface_leaves_no_rule_in_the_pod_that_lives_on(node: Node) -> None:
    pod = node.pod()
    node.add("abc", pod, ipam=FIRST)
    before = pod.run(["ip", "rule"]).stdout, pod.run(["ip", "-6", "rule"]).stdout
    assert node.call("ADD", "abc", pod, "net1", ipam=SECOND, name="second").exit_code == 0
    assert "10.245.0.1" in pod.run(["ip", "rule"]).stdout
    assert node.call("DEL", "abc", pod, "net1", ipam=SECOND, name="second").exit_code == 0
    assert (pod.run(["ip", "rule"]).stdout, pod.run(["ip", "-6", "rule"]).stdout) == before
    assert "net1" not in pod.run(["ip", "route", "show", "table", "all"]).stdout
    assert node.files("addresses") == ["10.244.0.1", "fd00:1::1"]


def test_two_networks_may_have_the_same_routes(node: Node) -> None:
    pod = node.pod()
    section = FIRST | {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.99.0.0/16"}]}
    node.add("abc", pod, ipam=section)
    for count in range(2):
        more = node.call("ADD", "abc", pod, f"net{count}", ipam=SECOND, name=f"second{count}")
        assert more.exit_code == 0, more.stdout
    assert json.loads(pod.run(["ip", "-j", "route", "get", "10.99.0.1"]).stdout)[0]["dev"] == "eth0"
