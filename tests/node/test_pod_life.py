"""One pod's life through the shim, containerd and the plugin, as kubelet would lead it."""

import ipaddress

import pytest

from tests.lab import witness
from tests.lab.cri import CriError, Port
from tests.lab.node import NODE_ADDRESS, OUTSIDE_ADDRESS, SUBNET, Node
from tests.lab.traffic import PeerServer, get_from_container, get_from_namespace
from tests.lab.waiting import wait_until

PAGE = "hello from podwire"
SERVE = "exec httpd -f -p 8080 -h /www"
WAIT = "exec sleep 3600"


def test_pods_get_distinct_addresses_of_the_pool(node: Node) -> None:
    pods = [node.run_pod(f"pod-{number}") for number in range(3)]
    addresses = [ipaddress.ip_address(node.cri.address(pod)) for pod in pods]
    assert len(set(addresses)) == 3
    assert all(address in ipaddress.ip_network(SUBNET) for address in addresses)


def test_a_pod_reaches_another_over_http(node: Node) -> None:
    client, server = node.run_pod("client"), node.run_pod("server")
    node.run_tools(server, "httpd", SERVE)
    container = node.run_tools(client, "shell", WAIT)
    assert PAGE in get_from_container(node, container, node.cri.address(server), 8080)


@pytest.mark.parametrize("place", ["outside", "node", "other-pod", "same-pod"])
def test_a_host_port_answers_on_the_nodes_address(node: Node, place: str) -> None:
    server, client = node.run_pod("server", ports=[Port(8080, 18080)]), node.run_pod("client")
    own = node.run_tools(server, "httpd", SERVE)
    other = node.run_tools(client, "shell", WAIT)
    match place:
        case "outside":
            answer = get_from_namespace(node.outside, NODE_ADDRESS, 18080)
        case "node":
            answer = get_from_namespace(node.namespace, NODE_ADDRESS, 18080)
        case "other-pod":
            answer = get_from_container(node, other, NODE_ADDRESS, 18080)
        case _:
            answer = get_from_container(node, own, NODE_ADDRESS, 18080)
    assert PAGE in answer


def test_a_host_port_is_closed_after_its_pod(node: Node) -> None:
    pod = node.run_pod("server", ports=[Port(8080, 18080)])
    node.run_tools(pod, "httpd", SERVE)
    assert PAGE in get_from_namespace(node.outside, NODE_ADDRESS, 18080)
    node.remove_pod(pod)
    assert PAGE not in get_from_namespace(node.outside, NODE_ADDRESS, 18080, seconds=0)


def test_traffic_to_the_outside_carries_the_nodes_address(node: Node) -> None:
    container = node.run_tools(node.run_pod("client"), "shell", WAIT)
    with PeerServer(node.outside, OUTSIDE_ADDRESS, 9000, node.base / "peers.log"):
        assert get_from_container(node, container, OUTSIDE_ADDRESS, 9000).splitlines()[-1] == NODE_ADDRESS


def test_traffic_between_pods_keeps_the_pods_address(node: Node) -> None:
    client, server = node.run_pod("client"), node.run_pod("server")
    container = node.run_tools(client, "shell", WAIT)
    node.run_tools(server, "httpd", f"{SERVE} -v")
    assert PAGE in get_from_container(node, container, node.cri.address(server), 8080)
    log, address = node.pod_logs / "server" / "httpd.log", node.cri.address(client)
    # httpd -v logs `[::ffff:10.244.0.2]:41234: ...` to stderr; containerd writes the file a moment later.
    wait_until(lambda: address in log.read_text(), 5, f"{address} in httpd's log", hint=log.read_text)


def test_exec_sync_gives_exit_code_stdout_and_stderr(node: Node) -> None:
    container = node.run_tools(node.run_pod("pod"), "shell", WAIT)
    assert node.cri.execute(container, ["sh", "-c", "echo out; echo err >&2; exit 7"]) == (7, "out\n", "err\n")


def test_logs_are_in_the_format_kubelet_reads(node: Node) -> None:
    node.run_tools(node.run_pod("pod"), "talker", f"echo to stdout; echo to stderr >&2; {WAIT}")
    log = node.pod_logs / "pod" / "talker.log"

    def complete() -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        return lines if len(lines) == 2 else []

    lines = wait_until(complete, 10, "two lines in the log")
    assert {tuple(line.split(" ", 3)[1:]) for line in lines} == {
        ("stdout", "F", "to stdout"),
        ("stderr", "F", "to stderr"),
    }


def test_stop_and_remove_succeed_when_repeated(node: Node) -> None:
    pod = node.run_pod("pod", ports=[Port(8080, 18080)])
    for _ in range(2):
        node.cri.call("StopPodSandbox", pod_sandbox_id=pod.id)
    for _ in range(2):
        node.cri.call("RemovePodSandbox", pod_sandbox_id=pod.id)
    with pytest.raises(CriError, match="NOT_FOUND"):
        node.cri.call("PodSandboxStatus", pod_sandbox_id=pod.id)


def test_a_stopped_pod_keeps_nothing_on_the_node_but_its_record(node: Node) -> None:
    before = witness.of_node(node.namespace, node.base)
    pod = node.run_pod("pod", ports=[Port(8080, 18080)])
    node.cri.call("StopPodSandbox", pod_sandbox_id=pod.id)
    network = ("link", "route", "neighbour", "claim")
    assert not [
        line
        for line in witness.settled(before, lambda: witness.of_node(node.namespace, node.base), 3)
        if line.split()[1].rstrip(":") in network
    ]


def test_every_plugin_call_is_logged_with_the_pods_name(node: Node) -> None:
    known = len(node.plugin_calls())
    pod = node.run_pod("named", ports=[Port(8080, 18080)])
    node.remove_pod(pod)
    calls = node.plugin_calls()[known:]
    assert {call["containerID"] for call in calls} == {pod.id}
    assert [call["command"] for call in calls][:2] == ["ADD", "DEL"]
    assert all(call["code"] == 0 for call in calls)
    assert calls[0]["pod"] == "default/named"
