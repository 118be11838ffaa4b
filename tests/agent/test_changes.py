"""What changes while agents run: nodes that go and move, routes of others, links that fall, the ruleset flushed."""

import signal
import sys
from typing import Any

import pytest

from tests.agent.conftest import FAR, REPOSITORY, Cluster, ClusterNode
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.root


def entries(node: ClusterNode) -> list[str]:
    """Neighbours and fdb entries of the tunnel."""
    found = node.space.run(["ip", "neigh", "show", "dev", "pwvxlan0"], check=False).stdout.splitlines()
    found += node.space.run(["ip", "-6", "neigh", "show", "dev", "pwvxlan0"], check=False).stdout.splitlines()
    fdb = node.space.run(["bridge", "fdb", "show", "dev", "pwvxlan0"], check=False).stdout.splitlines()
    return [line.strip() for line in dict.fromkeys(found + fdb)]


def link(node: ClusterNode) -> str:
    """The tunnel's link as ip(8) tells it; empty where there is none."""
    return node.space.run(["ip", "-d", "link", "show", "pwvxlan0"], check=False).stdout


def test_a_deleted_node_leaves_no_route_neighbour_or_entry(cluster: Cluster) -> None:
    a, b, c = cluster.node("a"), cluster.node("b"), cluster.node("c", FAR)
    cluster.write_peers()
    a.start_agent()
    a.wait_ready()
    a.wait_routes(*b.subnets, *c.subnets)
    assert len(entries(a)) == 3  # two addresses of c in the tunnel, and its MAC
    cluster.write_peers(cluster.entry("a"), cluster.entry("b"))
    a.wait_routes(*b.subnets)
    wait_until(lambda: not link(a), 5, "the tunnel's link to go, as no node needs it", hint=a.told)
    cluster.write_peers(cluster.entry("a"), cluster.entry("c"))
    a.wait_routes(*c.subnets)
    assert len(entries(a)) == 3


def test_a_node_that_moved_is_reached_at_its_new_address_without_a_gap(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    b.space.run(["ip", "address", "add", "192.0.2.77/24", "dev", "uplink"])
    cluster.write_peers(cluster.entry("a", [a.v4]), cluster.entry("b", [b.v4]))
    a.start_agent(mode="host-gw")
    a.wait_ready()
    # ip-monitor shows the order: the new route stands before the old one goes.
    monitor = a.space.start(["ip", "monitor", "route"], a.folder / "monitor.log")
    a.stack.callback(monitor.kill)

    def watched() -> bool:
        # The kernel tells nothing of a route that replaces its like, so each try is another one.
        a.space.run(["ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.254"])
        a.space.run(["ip", "route", "delete", "198.51.100.0/24"])
        return "198.51.100.0/24" in monitor.tail()

    wait_until(watched, 10, "ip monitor to watch", every=0.1)
    cluster.write_peers(cluster.entry("a", [a.v4]), cluster.entry("b", ["192.0.2.77"]))
    wait_until(lambda: "192.0.2.77" in a.routes().get(b.subnets[0], ""), 10, "the new route", hint=a.told)
    wait_until(lambda: "Deleted 10.244.2.0/24" in monitor.tail(), 10, "the old route's end", hint=monitor.tail)
    seen = [line for line in monitor.tail(50).splitlines() if "10.244.2.0/24" in line]
    assert [("Deleted" in line, line.split("via ")[1].split()[0]) for line in seen] == [
        (False, "192.0.2.77"),
        (True, "192.0.2.2"),
    ]


def test_a_route_of_somebody_else_stays_and_is_told(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    cluster.write_peers(cluster.entry("a", [a.v4]), cluster.entry("b", [b.v4], b.subnets[:1]))
    foreign = ["ip", "route", "add", b.subnets[0], "via", "192.0.2.254", "proto", "static", "metric", "50"]
    a.space.run(foreign)
    a.start_agent(mode="host-gw")
    a.wait_ready()
    a.wait_told(f"route {b.subnets[0]} via {b.v4} was not made: {b.subnets[0]} via 192.0.2.254 over link")
    assert a.routes() == {}
    assert "192.0.2.254" in a.space.run(["ip", "route", "show", b.subnets[0]]).stdout
    a.space.run(["ip", "route", "del", b.subnets[0]])
    a.wait_routes(b.subnets[0])
    a.wait_told("no longer: route")
    # One that leads to the same place does the job.
    a.space.run(["ip", "route", "add", b.subnets[0], "via", b.v4, "dev", "uplink", "proto", "static", "metric", "9"])
    a.wait_routes()
    assert "metric 9" in a.space.run(["ip", "route", "show", b.subnets[0]]).stdout


def test_routes_and_entries_that_somebody_removed_come_back(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    cluster.write_peers()
    a.start_agent(mode="vxlan")
    a.wait_ready()
    a.wait_routes(*b.subnets)
    before = sorted(entries(a))
    a.space.run(["ip", "route", "del", b.subnets[0]])
    a.wait_routes(*b.subnets)
    a.space.run(["ip", "neigh", "del", "10.244.2.0", "dev", "pwvxlan0"])
    wait_until(lambda: sorted(entries(a)) == before, 10, "the neighbour to come back", hint=a.told)
    a.space.run(["ip", "link", "del", "pwvxlan0"])
    a.wait_routes(*b.subnets)
    assert sorted(entries(a)) == before
    a.space.run(["ip", "link", "set", "pwvxlan0", "mtu", "1300"])
    wait_until(lambda: "mtu 1450" in link(a), 10, "the MTU to come back", hint=a.told)


def test_a_link_that_falls_and_rises_has_its_routes_again(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    cluster.write_peers(cluster.entry("a", [a.v4]), cluster.entry("b", [b.v4], b.subnets[:1]))
    a.start_agent(mode="host-gw")
    a.wait_ready()
    a.wait_routes(b.subnets[0])
    a.space.run(["ip", "link", "set", "uplink", "down"])
    a.wait_routes()
    a.space.run(["ip", "link", "set", "uplink", "up"])
    a.wait_routes(b.subnets[0])


@pytest.mark.parametrize("underlay", ["ipv4", "ipv6"])
def test_a_node_whose_own_address_changed_has_the_tunnel_there(cluster: Cluster, underlay: str) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    old, new, peer = (a.v4, "192.0.2.99", b.v4) if underlay == "ipv4" else (a.v6, "2001:db8:1::99", b.v6)
    a.space.run(["ip", "address", "add", f"{new}/{24 if underlay == 'ipv4' else 64}", "dev", "uplink", "nodad"])
    cluster.write_peers(cluster.entry("a", [old]), cluster.entry("b", [peer]))
    cluster.start_agents(mode="vxlan")
    mac = link(a).split("link/ether ")[1].split()[0]
    cluster.write_peers(cluster.entry("a", [new]), cluster.entry("b", [peer]))
    wait_until(lambda: f"local {new}" in link(a), 10, "the tunnel's new end", hint=a.told)
    assert link(a).split("link/ether ")[1].split()[0] != mac
    a.wait_routes(*b.subnets)
    wait_until(lambda: any(new in each for each in entries(b)), 10, "the other node to know it", hint=b.told)
    pod, addresses = a.add_pod()
    other, others = b.add_pod()
    cluster.talks(pod, b, other, others[0], addresses[0])


def test_a_strict_rp_filter_of_all_links_drops_nothing_in_the_tunnel(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    for node in (a, b):
        node.space.run(["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1"])
    cluster.write_peers()
    cluster.start_agents(mode="vxlan")
    pod, addresses = a.add_pod()
    other, others = b.add_pod()
    cluster.talks(pod, b, other, others[0], addresses[0])
    # The node itself reaches the pod too, from its own end of the tunnel.
    assert a.ask(a.space, others[0], 8080) == "10.244.1.0"


def test_a_flushed_ruleset_comes_back_with_hostports_and_destinations(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    cluster.write_peers()
    a.start_agent(mode="host-gw")
    a.wait_ready()
    a.wait_routes(*b.subnets)
    pod, addresses = a.add_pod("c1", ("tcp", 18080, 8080))
    a.serve(pod, addresses[0], 8080)
    # Both nodes' pods are one interval beside the one of multicast.
    wait_until(lambda: "10.244.2.255" in a.ruleset(), 10, "the other node's pods in the set", hint=a.told)
    before = {name: a.elements(name) for name in ("nomasq4", "nomasq6", "hairpin4", "hairpin6")}
    assert a.ask(cluster.router, a.v4, 18080) == "192.0.2.254"
    rebuilds = a.metric("podwire_agent_table_rebuilds_total")
    a.space.run(["nft", "flush", "ruleset"])
    wait_until(lambda: "hostport4" in a.ruleset(), 10, "the table to come back", hint=a.told)
    assert {name: a.elements(name) for name in before} == before
    assert a.ask(cluster.router, a.v4, 18080) == "192.0.2.254"
    assert (a.metric("podwire_agent_table_rebuilds_total") or 0) == (rebuilds or 0) + 1


def test_a_killed_agent_breaks_no_pod_and_no_add(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    cluster.write_peers()
    cluster.start_agents(mode="vxlan")
    pod, addresses = a.add_pod()
    other, others = b.add_pod()
    b.serve(other, others[0], 8080)
    for node in (a, b):
        assert node.agent is not None
        node.agent.kill(signal.SIGKILL)
    assert a.ask(pod, others[0], 8080) == addresses[0]
    late, late_addresses = a.add_pod("c2")
    assert a.ask(late, others[0], 8080) == late_addresses[0]
    assert a.call("DEL", "c2", late).exit_code == 0
    # The next one finds all as it should be, and changes nothing.
    a.agent_log.unlink()
    a.start_agent(mode="vxlan")
    a.wait_ready()
    assert a.metric('podwire_agent_routes_changed_total{change="made"}') == 0, a.told()
    assert "made the link" not in a.told()


def test_two_agents_never_work_in_one_namespace(cluster: Cluster) -> None:
    a = cluster.node("a")
    cluster.write_peers()
    a.start_agent()
    a.wait_ready()
    assert "another podwire-agent runs in this network namespace" in a.run_agent(check=False)
    assert "another podwire-agent" in a.run_agent("cleanup", check=False)


def test_sigterm_ends_at_once_and_leaves_everything_and_cleanup_leaves_nothing(cluster: Cluster) -> None:
    a, b, c = cluster.node("a"), cluster.node("b"), cluster.node("c", FAR)
    cluster.write_peers()
    before = state(a)
    agent = a.start_agent()
    a.wait_ready()
    a.wait_routes(*b.subnets, *c.subnets)
    a.add_pod()
    wait_until(lambda: a.files("networks") == ["@peers", "testnet"], 10, "the stated destinations", hint=a.told)
    agent.kill(signal.SIGTERM, timeout=5)
    assert set(a.routes()) == {*b.subnets, *c.subnets}
    assert link(a)
    assert a.call("DEL", "c1").exit_code == 0
    a.run_agent("cleanup")
    assert state(a) == before
    assert a.files("networks") == ["testnet"]
    assert not (a.folder / "data" / "peers.json").exists()
    assert len(a.elements("nomasq4")) == 2  # the node's own pods, and multicast


def state(node: ClusterNode) -> Any:
    """Links, addresses, routes and neighbours that are not the kernel's own to learn."""
    commands = (["link"], ["address"], ["route"], ["-6", "route"], ["neigh", "show", "nud", "permanent"])
    shown = [node.space.run(["ip", "-o", *command]).stdout for command in commands]
    # Counters of time.
    return [[line for line in text.splitlines() if "_lft" not in line or "forever" in line] for text in shown]


def test_checksum_offload_of_the_tunnel_can_be_switched_off(cluster: Cluster) -> None:
    a, _ = cluster.node("a"), cluster.node("b")
    cluster.write_peers()
    a.start_agent(mode="vxlan", vxlan={"checksum_offload": False})
    a.wait_ready()
    asked = "from cni_plugin.agent import vxlan; print(vxlan._offloads_checksums('pwvxlan0'))"
    seen = a.space.run(["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-c", asked]).stdout
    assert seen.strip() == "False", a.told()
    assert "checksum" not in a.told()
