"""Cases 84-92: what the kernel holds after ADD, in surroundings that are not the usual ones."""

from typing import Any

import pytest

from tests.conformance.cni import site, traffic
from tests.conformance.cni.cases import case
from tests.conformance.cni.workbench import Cni

# include/uapi/linux/netdevice.h, addr_assign_type: set by somebody, so udev's MACAddressPolicy leaves it alone.
NET_ADDR_SET = "3"


@case(84, "X", "v6_no_dad")
@pytest.mark.parametrize("enhanced", ["0", "1"], ids=["enhanced_dad off", "enhanced_dad on"])
def test_an_ipv6_address_can_be_used_when_add_returns(cni: Cni, enhanced: str) -> None:
    """Duplicate address detection takes a second or more, and a connection from a tentative address fails."""
    cni.subject.need("node_traffic")
    cni.with_pool("2001:db8:88::/64")
    traffic.serve(cni, cni.site.space, site.NODE6, 80)
    pod = cni.pod()
    pod.run(["sysctl", "-qw", f"net.ipv6.conf.all.enhanced_dad={enhanced}"])
    cni.add("abc", pod).ok()
    assert pod.run(["ip", "-6", "address", "show", "dev", "eth0", "scope", "global", "tentative"]).stdout == ""
    assert traffic.once(pod, site.NODE6, 80) == "from"


@case(85, "X", "v6_disabled")
@pytest.mark.parametrize("where", ["pod", "node"])
def test_ipv4_does_not_need_ipv6(cni: Cni, where: str) -> None:
    cni.subject.need("ipv4")
    pod = cni.pod()
    place = pod if where == "pod" else cni.site.space
    place.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"])
    assert cni.add("abc", pod).addresses
    cni.delete("abc", pod).ok()


@case(85, "X", "v6_disabled")
@pytest.mark.parametrize("where", ["pod", "node"])
def test_an_ipv6_address_is_there_or_refused_where_ipv6_is_disabled(cni: Cni, where: str) -> None:
    """All or nothing: a dual-stack pod with half its addresses looks healthy and is not."""
    cni.with_pool("10.88.1.0/24", "2001:db8:88::/64")
    before = cni.baseline()
    pod = cni.pod()
    place = pod if where == "pod" else cni.site.space
    place.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"])
    held = cni.holdings()
    answer = cni.add("abc", pod)
    if answer.succeeded:
        inside = site.addresses(site.links(pod)["eth0"])
        assert {each.partition("/")[0] for each in inside} == set(answer.addresses)
        cni.delete("abc", pod).ok()
    else:
        answer.refused()
        cni.delete("abc", pod).ok()
        cni.restored(held)
    assert before.kinds["file"] == cni.holdings().kinds["file"]


ROUTES: dict[str, list[dict[str, Any]]] = {
    "default twice": [{"dst": "0.0.0.0/0"}, {"dst": "0.0.0.0/0"}],
    "the same twice": [{"dst": "0.0.0.0/0"}, {"dst": "172.31.0.0/16"}, {"dst": "172.31.0.0/16"}],
}


@case(86, "X", "route_dup")
@pytest.mark.parametrize("what", ROUTES)
def test_a_route_that_is_asked_for_twice_is_made_once(cni: Cni, what: str) -> None:
    cni.subject.need("ipam", "ipv4")
    pod = cni.pod()
    cni.add("abc", pod, network=cni.network.with_ipam(routes=ROUTES[what])).ok()
    made = [route["dst"] for route in site.routes(pod)]
    assert len(made) == len(set(made)), made
    assert "default" in made


@case(86, "X", "route_dup")
def test_a_route_with_host_bits_is_refused_or_made_without_them(cni: Cni) -> None:
    cni.subject.need("ipam", "ipv4")
    before = cni.baseline()
    pod = cni.pod()
    answer = cni.add("abc", pod, network=cni.network.with_ipam(routes=[{"dst": "172.31.5.5/16"}]))
    if answer.succeeded:
        assert "172.31.0.0/16" in [route["dst"] for route in site.routes(pod)]
        cni.delete("abc", pod).ok()
    else:
        answer.refused()
        cni.delete("abc", pod).ok()
    cni.restored(before)


@case(87, "S", "route_attrs")
@pytest.mark.parametrize(
    ("attribute", "value", "shown"),
    [
        ("mtu", 1400, "mtu 1400"),
        ("advmss", 1300, "advmss 1300"),
        ("priority", 50, "metric 50"),
        ("scope", 200, "scope site"),
    ],
)
def test_attributes_of_a_route_are_in_the_kernel_and_in_the_result(
    cni: Cni, attribute: str, value: int, shown: str
) -> None:
    """SPEC.md 1.1.0, success result: mtu, advmss, priority, table and scope of a route."""
    cni.subject.need_version("1.1.0")
    cni.subject.need("route_attributes", "ipam", "ipv4")
    asked = {"dst": "172.31.0.0/16", attribute: value}
    pod = cni.pod()
    network = cni.network.with_ipam(routes=[{"dst": "0.0.0.0/0"}, asked])
    result = cni.add("abc", pod, network=network).result
    assert any(route["dst"] == asked["dst"] and route.get(attribute) == value for route in result["routes"]), result
    assert shown in pod.run(["ip", "route", "show", "172.31.0.0/16"]).stdout


@case(87, "S", "route_attrs")
def test_a_route_of_another_table_is_there(cni: Cni) -> None:
    cni.subject.need_version("1.1.0")
    cni.subject.need("route_attributes", "ipam", "ipv4")
    pod = cni.pod()
    network = cni.network.with_ipam(routes=[{"dst": "0.0.0.0/0"}, {"dst": "172.31.0.0/16", "table": 177}])
    cni.add("abc", pod, network=network).ok()
    assert [route["dst"] for route in site.routes(pod, table="177")] == ["172.31.0.0/16"]


@case(88, "X", "gw_outside_subnet")
def test_a_gateway_outside_of_the_subnet_works_or_is_refused(cni: Cni) -> None:
    """Routed networks have such gateways; who cannot reach them says so and leaves nothing."""
    cni.subject.need("ipam", "ipv4")
    before = cni.baseline()
    network = cni.network.with_ranges([{"subnet": "10.88.1.0/24", "gateway": "10.77.0.1"}])
    pod = cni.pod()
    answer = cni.add("abc", pod, network=network)
    if answer.succeeded:
        if cni.subject.has("node_traffic"):
            traffic.serve(cni, cni.site.space, site.NODE4, 80)
            assert traffic.ask(pod, site.NODE4, 80) == "from"
    else:
        answer.refused()
    cni.delete("abc", pod, network=network).ok()
    cni.restored(before)


@case(89, "X", "mtu")
def test_an_mtu_of_the_configuration_is_that_of_both_ends_and_of_the_result(cni: Cni) -> None:
    cni.subject.need("mtu")
    pod = cni.pod()
    result = cni.add("abc", pod, network=cni.network.with_entry(mtu=1280)).result
    outside = site.links(cni.site.space)
    seen = {"eth0": site.links(pod)["eth0"]["mtu"]}
    for end in result["interfaces"]:
        if not end.get("sandbox"):
            seen[end["name"]] = outside[end["name"]]["mtu"]
        assert end.get("mtu") in (None, 1280), result
    assert set(seen.values()) == {1280}, seen


@case(89, "X", "mtu")
def test_without_an_mtu_that_of_the_way_out_is_taken(cni: Cni) -> None:
    """An overlay makes the uplink smaller than 1500, and what is too long for it is lost without a word."""
    cni.subject.need("mtu")
    cni.site.space.run(["ip", "link", "set", site.UPLINK, "mtu", "1432"])
    pod = cni.pod()
    cni.add("abc", pod).ok()
    assert site.links(pod)["eth0"]["mtu"] == 1432


@case(89, "X", "mtu")
@pytest.mark.parametrize("mtu", [70000, -1, "1500", 67])
def test_an_impossible_mtu_is_refused(cni: Cni, mtu: object) -> None:
    cni.subject.need("mtu")
    before = cni.baseline()
    pod = cni.pod()
    network = cni.network.with_entry(mtu=mtu)
    cni.add("abc", pod, network=network).refused()
    # With its configuration corrected, as a runtime would do it after an operator has.
    cni.delete("abc", pod).ok()
    cni.restored(before)


@case(90, "X", "hostveth_collision")
def test_a_link_that_has_the_name_already_is_no_obstacle(cni: Cni) -> None:
    cni.subject.need("host_end")
    pod = cni.pod()
    result = cni.add("abc", pod).result
    names = cni.host_links(result)
    cni.delete("abc", pod).ok()
    for name in names:
        cni.site.space.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"x{name}"[:15]])
    cni.add("abc", pod).ok()
    cni.delete("abc", pod).ok()
    assert set(names) <= set(site.links(cni.site.space)), "a foreign link was deleted"


@case(91, "X", "mac_stable")
def test_the_hardware_address_on_the_node_is_one_that_udev_leaves_alone(cni: Cni) -> None:
    """With MACAddressPolicy=persistent, udev replaces random addresses, and races with those who read them."""
    cni.subject.need("host_end")
    result = cni.add("abc", cni.pod()).result
    for end in result["interfaces"]:
        if not end.get("sandbox"):
            kind = cni.site.space.run(["cat", f"/sys/class/net/{end['name']}/addr_assign_type"]).stdout.strip()
            assert kind == NET_ADDR_SET, f"{end['name']} has a random address (addr_assign_type {kind})"


@case(92, "X", "sysctl_ro")
def test_read_only_sysctls_are_managed_without_or_named(cni: Cni) -> None:
    """Nodes in containers have such a /proc/sys."""
    before = cni.baseline()
    cni.site.space.run(["mount", "--bind", "/proc/sys", "/proc/sys"])
    cni.site.space.run(["mount", "-o", "remount,bind,ro", "/proc/sys"])
    pod = cni.pod()
    answer = cni.add("abc", pod)
    if answer.succeeded:
        assert set(site.addresses(site.links(pod)["eth0"])) == {each["address"] for each in answer.result["ips"]}
    else:
        answer.refused()
    cni.delete("abc", pod).ok()
    cni.restored(before)
