"""A real agent and its peers file: what is half written, what is wrong in it, and a node that has no list yet."""

import pytest

from tests.agent.conftest import Cluster

pytestmark = pytest.mark.root


def test_a_half_written_file_changes_nothing_and_is_told(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    cluster.write_peers()
    a.start_agent()
    a.wait_ready()
    a.wait_routes(*b.subnets)
    whole = cluster.peers.read_text()
    cluster.peers.write_text(whole[: len(whole) // 2 + 5])
    a.wait_told("not valid TOML")
    assert "the last list stays in force" in a.told()
    assert set(a.routes()) == set(b.subnets)
    assert a.metric("podwire_agent_source_up") == 0
    cluster.peers.write_text("")
    a.wait_told("it holds no [[node]]")
    assert set(a.routes()) == set(b.subnets)
    cluster.write_peers()
    a.wait_told("no longer: ")


def test_each_wrong_entry_is_one_line_and_the_rest_goes_on(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    cluster.write_peers(
        cluster.entry("a"),
        cluster.entry("b"),
        cluster.entry("overlap", ["192.0.2.9"], ["10.244.2.128/25"]),
        cluster.entry("mine", ["192.0.2.10"], ["10.244.1.0/24"]),
        cluster.entry("twin", [a.v4], ["10.244.11.0/24"]),
        cluster.entry("wrong", ["192.0.2.256"], ["10.244.12.0/33", "0.0.0.0/0", "192.0.2.0/24"]),
        {"name": "../../etc\n", "addresses": [], "pod_cidrs": []},
    )
    a.start_agent(mode="host-gw")
    a.wait_ready()
    a.wait_routes(*b.subnets)
    faults = [line for line in a.told().splitlines() if line.startswith("error: ")]
    wanted = (
        "node overlap: pod CIDR 10.244.2.128/25 was passed over: it overlaps 10.244.2.0/24 of node b",
        "node mine: pod CIDR 10.244.1.0/24 was passed over: it overlaps 10.244.1.0/24 of this node",
        "node twin has this node's own address 192.0.2.1 and was passed over",
        "node wrong: address '192.0.2.256' was passed over",
        "node wrong: pod CIDR '10.244.12.0/33' was passed over",
        "node wrong: pod CIDR 0.0.0.0/0 was passed over: pods cannot have such addresses",
        "node wrong: pod CIDR 192.0.2.0/24 was passed over",
        "node '../../etc\\n' was passed over: its name is no name of a node",
    )
    assert sorted(fault for fault in wanted if not any(fault in line for line in faults)) == []
    assert len(faults) == len(wanted), faults


def test_without_a_list_it_is_alive_but_not_ready_and_touches_no_route(cluster: Cluster) -> None:
    a = cluster.node("a")
    cluster.write_peers()
    a.start_agent(source="auto", file={"path": str(a.folder / "peers.toml")}, kubernetes={"kubeconfig": "/nowhere"})
    a.wait_told("podwire-agent of node a")
    a.space.run(["ip", "route", "add", "10.244.9.0/24", "via", "192.0.2.254", "proto", "113"])
    assert a.get("/healthz")[0] in (0, 200)
    while a.get("/healthz")[0] == 0:
        pass
    code, text = a.get("/readyz")
    assert (code, text.splitlines()[0]) == (503, "not ready: waits for the list of nodes")
    assert set(a.routes()) == {"10.244.9.0/24"}
    # As soon as there is one it is used.
    (a.folder / "peers.toml").write_text(cluster.peers.read_text())
    a.wait_ready()
    a.wait_routes()
