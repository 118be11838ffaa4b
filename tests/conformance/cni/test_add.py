"""Cases 12-14, 19, 25-30: what ADD makes, and what its result says of it.

SPEC.md sections 2 (ADD) and 5 (success result), in every version that the plugin speaks.
"""

import ipaddress
import json
from typing import Any

import pytest

from tests.conformance.cni import site
from tests.conformance.cni.cases import case
from tests.conformance.cni.network import VERSIONS, version_number
from tests.conformance.cni.workbench import Cni

# Keys of a result and of its parts by version: SPEC.md of each version, "result types".
_ROUTE_ATTRIBUTES = {"mtu", "advmss", "priority", "table", "scope"}


@case(12, "S", "version_missing")
def test_a_configuration_without_a_version_is_of_0_1_0(cni: Cni) -> None:
    """libcni's version.ConfigDecoder."""
    if "0.1.0" not in cni.subject.versions:
        pytest.skip("the plugin does not speak 0.1.0")
    cni.subject.need("ipv4")
    pod = cni.pod()
    answer = cni.call("ADD", "abc", pod, cniVersion=None)
    assert set(answer.result) <= {"cniVersion", "ip4", "ip6", "dns"}, answer
    assert answer.result["ip4"]["ip"], answer
    cni.call("DEL", "abc", pod, cniVersion=None).ok()


@case(13, "S", "result_shape")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_result_has_the_shape_of_its_version(cni: Cni, version: str) -> None:
    if version not in cni.subject.versions:
        pytest.skip(f"the plugin does not speak {version}")
    network = cni.network.at(version)
    pod = cni.pod()
    result = cni.add("abc", pod, network=network).result
    assert result["cniVersion"] == version
    if version_number(version) < (0, 3, 0):
        _judge_old(result)
    else:
        _judge(result, version_number(version))
    cni.delete("abc", pod, network=network).ok()


def _judge_old(result: dict[str, Any]) -> None:
    assert set(result) <= {"cniVersion", "ip4", "ip6", "dns"}, result
    assert {"ip4", "ip6"} & set(result), f"no address: {result}"
    for family in {"ip4", "ip6"} & set(result):
        entry = result[family]
        assert set(entry) <= {"ip", "gateway", "routes"}, entry
        assert ipaddress.ip_interface(entry["ip"]).version == int(family[2])
        for route in entry.get("routes") or ():
            assert set(route) <= {"dst", "gw"}, route
            ipaddress.ip_network(route["dst"])
    _judge_dns(result)


def _judge(result: dict[str, Any], version: tuple[int, ...]) -> None:
    assert set(result) <= {"cniVersion", "interfaces", "ips", "routes", "dns"}, result
    interface_keys = {"name", "mac", "sandbox"} | ({"mtu", "socketPath", "pciID"} if version >= (1, 1, 0) else set())
    inside = 0
    for interface in result["interfaces"]:
        assert set(interface) <= interface_keys, interface
        assert interface["name"], interface
    for entry in result["ips"]:
        address = ipaddress.ip_interface(entry["address"])
        wanted = {"address", "gateway", "interface"} | ({"version"} if version < (1, 0, 0) else set())
        assert set(entry) <= wanted, entry
        if version < (1, 0, 0):
            assert entry["version"] == str(address.version), entry
        if "gateway" in entry:
            assert ipaddress.ip_address(entry["gateway"]).version == address.version
        inside += bool(result["interfaces"][entry["interface"]].get("sandbox"))
    assert inside, f"no address belongs to an interface of the pod: {result}"
    route_keys = {"dst", "gw"} | (_ROUTE_ATTRIBUTES if version >= (1, 1, 0) else set())
    for route in result.get("routes") or ():
        assert set(route) <= route_keys, route
        ipaddress.ip_network(route["dst"])
    _judge_dns(result)


def _judge_dns(result: dict[str, Any]) -> None:
    dns = result.get("dns", {})
    assert isinstance(dns, dict), dns
    assert set(dns) <= {"nameservers", "domain", "search", "options"}, dns
    assert all(dns.values()), f"empty parts are left out: {dns}"


@case(14, "S", "result_0.2.0_two_v4")
def test_two_addresses_of_a_family_do_not_fit_into_0_2_0(cni: Cni) -> None:
    """Either an error, with both addresses given back, or a result with the first of them."""
    if "0.2.0" not in cni.subject.versions:
        pytest.skip("the plugin does not speak 0.2.0")
    network = cni.with_pool("10.88.1.0/29", "10.88.2.0/29").at("0.2.0")
    pod = cni.pod()
    answer = cni.add("abc", pod, network=network)
    if answer.succeeded:
        assert answer.addresses[0].startswith("10.88."), answer
        cni.delete("abc", pod, network=network).ok()
    else:
        answer.refused()
    assert {each for each in cni.capacity(10) if each.startswith("10.88.1.")} >= {"10.88.1.3", "10.88.1.4"}


@case(19, "S", "empty_dns_omitted")
def test_a_network_without_name_servers_has_no_name_servers_in_its_result(cni: Cni) -> None:
    """SPEC.md section 1: `dns` and all its keys are optional. To leave empty ones out is what libcni's types do."""
    network = cni.network.with_key("dns", None)
    if network.ipam.get("routes"):
        network = network.with_ipam(routes=None)
    pod = cni.pod()
    result = cni.add("abc", pod, network=network).result
    assert result.get("dns", {}) == {}, result
    assert isinstance(result.get("routes", []), list), "`routes` is a list or absent, never null"


@case(19, "S", "empty_dns_omitted")
def test_name_servers_of_the_configuration_are_in_the_result(cni: Cni) -> None:
    """SPEC.md section 1: `dns` of a configuration, with nameservers, domain, search and options."""
    dns = {"nameservers": ["192.0.2.53"], "domain": "example.org", "search": ["a.example.org"], "options": ["ndots:5"]}
    assert cni.add("abc", cni.pod(), network=cni.network.with_entry(dns=dns)).result.get("dns") == dns


@case(25, "S", "add_basic")
def test_add_makes_what_its_result_says(cni: Cni) -> None:
    pod = cni.pod()
    answer = cni.add("abc", pod)
    result = answer.result
    inside = site.links(pod)
    link = inside["eth0"]
    assert "UP" in link["flags"], f"eth0 is not up: {link}"
    assert set(site.addresses(link)) == site.addresses_inside(result)
    ends = [end for end in result["interfaces"] if end.get("sandbox")]
    assert [end["name"] for end in ends] == ["eth0"], result
    assert ends[0]["sandbox"] == pod.path
    assert ends[0]["mac"].lower() == link["address"]
    assert ends[0].get("mtu") in (None, 0, link["mtu"])
    defaults = [route for route in result.get("routes", ()) if route["dst"] in ("0.0.0.0/0", "::/0")]
    for default in defaults:
        found = site.routes(pod, 6 if ":" in default["dst"] else 4)
        assert any(route["dst"] == "default" and route["dev"] == "eth0" for route in found), found


@case(25, "S", "add_basic")
def test_the_end_on_the_node_is_up_and_as_the_result_says(cni: Cni) -> None:
    cni.subject.need("host_end")
    result = cni.add("abc", cni.pod()).result
    outside = site.links(cni.site.space)
    for end in (end for end in result["interfaces"] if not end.get("sandbox")):
        assert "UP" in outside[end["name"]]["flags"], outside[end["name"]]
        assert end.get("mac", "").lower() in ("", outside[end["name"]]["address"])


@case(26, "S", "add_ifname_exists")
def test_add_refuses_an_interface_that_exists(cni: Cni) -> None:
    """SPEC.md section 2, ADD: if the interface exists in the container, the plugin MUST return an error."""
    before = cni.baseline()
    pod = cni.pod()
    pod.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other0"])
    pod.run(["ip", "address", "add", "172.30.0.1/24", "dev", "eth0"])
    cni.add("abc", pod).refused(*cni.subject.codes("interface_exists"))
    assert site.addresses(site.links(pod)["eth0"]) == ["172.30.0.1/24"]
    cni.restored(before)


@case(27, "S", "add_duplicate_same_id_ifname")
def test_a_second_add_of_one_attachment_fails_and_harms_nothing(cni: Cni) -> None:
    """SPEC.md section 2, ADD: a runtime should not do it, and the interface exists, which MUST be an error."""
    pod = cni.pod()
    first = cni.add("abc", pod)
    first.ok()
    before, inside = cni.holdings(), site.shape(pod)
    cni.call("ADD", "abc", pod).refused()
    cni.restored(before)
    assert site.shape(pod) == inside
    others = [cni.add(f"other{number}", cni.pod()) for number in range(3)]
    assert not {each for other in others for each in other.addresses} & set(first.addresses)


@case(28, "S", "add_same_id_other_ifname")
def test_a_second_interface_is_an_attachment_of_its_own(cni: Cni) -> None:
    """SPEC.md section 2, ADD: the same network again with another interface name; section 3: a tuple of its own."""
    pod = cni.pod()
    first = cni.add("abc", pod)
    network = cni.network.with_ipam(routes=[]) if cni.subject.has("ipam") else cni.network
    second = cni.add("abc", pod, "net1", network=network)
    assert not set(first.addresses) & set(second.addresses)
    assert {"eth0", "net1"} <= set(site.links(pod))
    cni.delete("abc", pod, "net1", network=network).ok()
    inside = site.links(pod)
    assert "net1" not in inside
    assert set(site.addresses(inside["eth0"])) == site.addresses_inside(first.result)
    assert set(cni.add("next", cni.pod()).addresses).isdisjoint(first.addresses)


@case(29, "R", "two_networks_same_pod")
def test_two_networks_join_one_pod(cni: Cni) -> None:
    """Multus does it. Both may ask for the default route, which stays with the first."""
    cni.subject.need("ipam", "ipv4", "one_default_route")
    first, second = cni.network, cni.network.named("second").with_ranges("10.99.0.0/24")
    pod = cni.pod()
    cni.add("abc", pod, network=first).ok()
    cni.add("abc", pod, "net1", network=second).ok()
    taken = json.loads(pod.run(["ip", "-j", "route", "get", site.OUTSIDE4]).stdout)
    assert taken[0]["dev"] == "eth0", f"the way out has moved to the second network: {taken}"
    cni.delete("abc", pod, "net1", network=second).ok()
    cni.delete("abc", pod, network=first).ok()
    assert set(site.links(pod)) == {"lo"}


@case(30, "X", "netns_missing")
@pytest.mark.parametrize("path", ["/run/netns/there-is-none", "/nowhere/at/all", "relative/path"])
def test_a_missing_namespace_is_an_error_and_is_not_made(cni: Cni, path: str) -> None:
    """Libraries that create what they do not find leave a namespace which nobody removes."""
    before = cni.baseline()
    names = sorted(entry.name for entry in cni.site.path("/run/netns").iterdir())
    cni.add("abc", path).refused()
    cni.delete("abc", path).ok()
    assert sorted(entry.name for entry in cni.site.path("/run/netns").iterdir()) == names
    cni.restored(before)
