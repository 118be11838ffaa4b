"""Cases 93-97: what a pod can reach, who can reach it, and as whom it appears. With real conversations."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.cni import site, traffic
from tests.conformance.cni.cases import case
from tests.conformance.cni.traffic import SILENCE
from tests.conformance.cni.workbench import Cni
from tests.lab.netns import Named

SERVICE = "10.96.0.10"
# kube-proxy's way: the destination is rewritten, and who calls himself through the service is masqueraded.
_SERVICE_RULES = """
table ip service {{
  chain out {{ type nat hook prerouting priority -100; ip daddr {service} tcp dport 80 dnat to {pod}:80; }}
  chain back {{ type nat hook postrouting priority 100; ct status dnat ip saddr {pod} ip daddr {pod} masquerade; }}
}}
"""


def mapping(protocol: str, host: int, inner: int, **more: Any) -> dict[str, Any]:
    """The capability portMappings with one of them."""
    return {"portMappings": [{"protocol": protocol, "hostPort": host, "containerPort": inner, **more}]}


@pytest.fixture
def ported(cni: Cni) -> Cni:
    """Only for networks with hostPorts."""
    cni.subject.need_capability("portMappings")
    return cni


@case(93, "X", "hostport")
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_a_host_port_leads_to_the_pod_and_shows_the_caller(ported: Cni, protocol: str) -> None:
    if protocol == "sctp" and not Path("/proc/net/sctp").exists():
        pytest.skip("this kernel has no SCTP")
    ported.subject.need("outside_traffic")
    pod = ported.pod()
    address = ported.add("abc", pod, capabilities=mapping(protocol, 8080, 80)).address
    traffic.serve(ported, pod, address, 80, protocol)
    assert traffic.caller(ported.site.outside, site.NODE4, 8080, protocol) == site.OUTSIDE4


@case(93, "X", "hostport")
def test_a_host_port_of_ipv6_leads_to_the_pod(ported: Cni) -> None:
    ported.with_pool("2001:db8:88::/64")
    pod = ported.pod()
    address = ported.add("abc", pod, capabilities=mapping("tcp", 8080, 80)).address
    traffic.serve(ported, pod, address, 80)
    assert traffic.ask(ported.site.outside, site.NODE6, 8080) == "from"


@case(93, "X", "hostport")
def test_a_host_ip_is_the_only_address_that_answers(ported: Cni) -> None:
    ported.site.space.run(["ip", "address", "add", "192.0.2.22/24", "dev", site.UPLINK])
    pod = ported.pod()
    address = ported.add("abc", pod, capabilities=mapping("tcp", 8080, 80, hostIP="192.0.2.22")).address
    traffic.serve(ported, pod, address, 80)
    assert traffic.ask(ported.site.outside, "192.0.2.22", 8080) == "from"
    assert traffic.once(ported.site.outside, site.NODE4, 8080) == SILENCE


@case(93, "X", "hostport")
@pytest.mark.parametrize("host_ip", ["", "192.0.2.2"], ids=["the same", "one address of it"])
def test_a_host_port_that_is_taken_is_refused(ported: Cni, host_ip: str) -> None:
    """Otherwise one of the two pods gets no traffic, and nobody says so."""
    ported.subject.need("hostport_clash")
    ported.add("first", ported.pod(), capabilities=mapping("tcp", 8080, 80)).ok()
    held = ported.holdings()
    more = {"hostIP": host_ip} if host_ip else {}
    pod = ported.pod()
    answer = ported.add("second", pod, capabilities=mapping("tcp", 8080, 81, **more))
    answer.refused(*ported.subject.codes("hostport_claimed"))
    ported.delete("second", pod).ok()
    ported.restored(held)


@case(93, "X", "hostport")
def test_a_pod_reaches_its_own_host_port(ported: Cni) -> None:
    ported.subject.need("hairpin")
    pod = ported.pod()
    address = ported.add("abc", pod, capabilities=mapping("tcp", 8080, 80)).address
    traffic.serve(ported, pod, address, 80)
    assert traffic.ask(pod, site.NODE4, 8080) == "from"


@case(93, "X", "hostport")
@pytest.mark.parametrize("target", ["127.0.0.1", site.NODE4])
def test_the_node_reaches_a_host_port(ported: Cni, target: str) -> None:
    if target == "127.0.0.1":
        ported.subject.need("hostport_localhost")
    pod = ported.pod()
    address = ported.add("abc", pod, capabilities=mapping("tcp", 8080, 80)).address
    traffic.serve(ported, pod, address, 80)
    assert traffic.ask(ported.site.space, target, 8080) == "from"


@case(93, "X", "hostport")
def test_a_host_port_is_closed_after_del(ported: Cni) -> None:
    pod = ported.pod()
    address = ported.add("abc", pod, capabilities=mapping("tcp", 8080, 80)).address
    traffic.serve(ported, pod, address, 80)
    assert traffic.ask(ported.site.outside, site.NODE4, 8080) == "from"
    ported.delete("abc", pod).ok()
    assert traffic.once(ported.site.outside, site.NODE4, 8080) == SILENCE


def two_pods(cni: Cni) -> tuple[Named, str, Named, str]:
    """Two pods with a server each, and their addresses."""
    first, second = cni.pods(2)
    one, two = cni.add("one", first).address, cni.add("two", second).address
    traffic.serve(cni, first, one, 80)
    traffic.serve(cni, second, two, 80)
    return first, one, second, two


@case(94, "X", "reachability")
@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_pods_of_a_node_see_each_others_addresses(cni: Cni, family: str) -> None:
    cni.subject.need("pod_traffic")
    if family == "IPv6":
        cni.with_pool("2001:db8:88::/64")
    first, one, second, two = two_pods(cni)
    assert traffic.caller(first, two, 80) == one
    assert traffic.caller(second, one, 80) == two


@case(94, "X", "reachability")
@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_the_node_and_a_pod_reach_each_other_and_the_node_sees_the_pods_address(cni: Cni, family: str) -> None:
    cni.subject.need("node_traffic")
    if family == "IPv6":
        cni.with_pool("2001:db8:88::/64")
    node = site.NODE6 if family == "IPv6" else site.NODE4
    first, one, _, _ = two_pods(cni)
    traffic.serve(cni, cni.site.space, node, 81)
    assert traffic.caller(first, node, 81) in (one, node)
    assert traffic.ask(cni.site.space, one, 80) == "from"


@case(94, "X", "reachability")
@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_pod_appears_outside_with_the_nodes_address(cni: Cni, family: str) -> None:
    cni.subject.need("outside_traffic", "masquerade")
    if family == "IPv6":
        cni.with_pool("2001:db8:88::/64")
    node, outside = (site.NODE6, site.OUTSIDE6) if family == "IPv6" else (site.NODE4, site.OUTSIDE4)
    cni.network = cni.network.with_entry(ipMasq=True)
    pod = cni.pod()
    cni.add("abc", pod).ok()
    traffic.serve(cni, cni.site.outside, outside, 80)
    assert traffic.caller(pod, outside, 80) == node


@case(94, "X", "reachability")
def test_a_pod_reaches_itself_through_a_service(cni: Cni) -> None:
    cni.subject.need("pod_traffic", "node_traffic", "ipv4")
    first, one, second, _ = two_pods(cni)
    cni.site.space.run(["nft", "-f", "-"], input=_SERVICE_RULES.format(service=SERVICE, pod=one))
    assert traffic.ask(second, SERVICE, 80) == "from"
    assert traffic.ask(first, SERVICE, 80) == "from"


@case(95, "X", "spoof")
def test_a_foreign_source_does_not_leave_the_pod(cni: Cni) -> None:
    cni.subject.need("spoof_protection", "outside_traffic", "ipv4")
    pod = cni.pod()
    cni.add("abc", pod).ok()
    log = cni.folder / "heard"
    listen = (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.bind(('{site.OUTSIDE4}', 9))\nprint('ready', flush=True)\n"
        "while True: print(s.recv(99).decode(), flush=True)"
    )
    traffic.listen(cni, cni.site.outside, listen, log)
    pod.run(["ip", "address", "add", "172.31.9.9/32", "dev", "eth0"])
    traffic.shout(pod, site.OUTSIDE4, 9, "spoofed", source="172.31.9.9")
    traffic.shout(pod, site.OUTSIDE4, 9, "honest")
    traffic.heard(log, "honest")
    assert "spoofed" not in log.read_text()


@case(96, "S", "bandwidth")
def test_bandwidth_is_limited_both_ways_and_nothing_stays(cni: Cni) -> None:
    """CONVENTIONS.md, bandwidth: rates and bursts in bits; a burst of 2^32-1 is what containerd sends."""
    cni.subject.need_capability("bandwidth")
    before = cni.baseline()
    limits = {"ingressRate": 8_000_000, "ingressBurst": 2**32 - 1, "egressRate": 4_000_000, "egressBurst": 800_000}
    pod = cni.pod()
    cni.add("abc", pod, capabilities={"bandwidth": limits}).ok()
    made = json.loads(cni.site.space.run(["tc", "-j", "qdisc", "show"]).stdout)
    rates = {each["options"]["rate"] for each in made if each["kind"] == "tbf"}
    assert rates == {1_000_000, 500_000}, made
    cni.delete("abc", pod).ok()
    cni.restored(before)


@case(97, "X", "netpol_at_start")
def test_no_packet_passes_before_policy_is_in_force(cni: Cni) -> None:
    """The profile's `deny_all` denies all traffic of pods that are still to come."""
    cni.subject.need("network_policy")
    cni.site.space.run(list(cni.subject.profile.deny_all))
    traffic.serve(cni, cni.site.outside, site.OUTSIDE4, 80)
    pod = cni.pod()
    cni.add("abc", pod).ok()
    assert traffic.once(pod, site.OUTSIDE4, 80) == SILENCE
