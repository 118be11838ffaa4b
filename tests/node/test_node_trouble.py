"""Restarts and refusals: what kubelet sees when a part of the node stops, or the plugin says no."""

import signal

import pytest

from tests.lab import witness
from tests.lab.containerd import ContainerdBinary
from tests.lab.cri import CriError, Port
from tests.lab.node import NODE_ADDRESS, Node, conflist
from tests.lab.traffic import get_from_namespace
from tests.lab.waiting import wait_until


def test_containerd_killed_and_started_again_serves_through_the_same_shim(node: Node) -> None:
    pod = node.run_pod("survivor", ports=[Port(8080, 18080)])
    node.run_tools(pod, "httpd", "exec httpd -f -p 8080 -h /www")
    address = node.cri.address(pod)
    assert node.shim is not None
    shim = node.shim.pid
    node.restart_containerd()
    assert node.shim.running
    assert node.shim.pid == shim
    assert node.cri.address(pod) == address
    assert "hello from podwire" in get_from_namespace(node.outside, NODE_ADDRESS, 18080)


def test_calls_while_containerd_is_down_fail_at_once_and_name_the_socket(node: Node) -> None:
    node.containerd.kill()
    try:
        with pytest.raises(CriError, match=r"UNAVAILABLE.*/run/containerd/containerd\.sock"):
            node.cri.call("Version")
    finally:
        node.containerd.start()
    wait_until(lambda: _answers(node), 10, "the shim to reach containerd again")


def test_a_shim_killed_and_started_again_knows_the_pods(node: Node) -> None:
    pod = node.run_pod("survivor")
    address = node.cri.address(pod)
    node.stop_shim(signal.SIGKILL)
    node.start_shim()
    wait_until(lambda: _answers(node), 10, "the new shim to serve", hint=node.explain)
    assert node.cri.address(pod) == address


def test_status_reports_runtime_and_network_ready(node: Node) -> None:
    conditions = {c.type: c.status for c in node.cri.call("Status").status.conditions}
    assert conditions["RuntimeReady"]
    assert conditions["NetworkReady"]


def test_update_runtime_config_passes(node: Node) -> None:
    node.cri.call("UpdateRuntimeConfig", runtime_config={"network_config": {"pod_cidr": "10.244.0.0/24"}})


def test_a_claimed_host_port_is_refused_by_name_and_leaves_nothing(node: Node) -> None:
    node.run_pod("first", ports=[Port(8080, 18080)])
    before = witness.of_node(node.namespace, node.base)
    with pytest.raises(CriError, match=r"18080") as refused:
        node.run_pod("second", ports=[Port(8080, 18080)])
    assert refused.value.details.count("18080") <= 2, "one error, told once"
    assert not witness.settled(before, lambda: witness.of_node(node.namespace, node.base))


def test_a_full_pool_refuses_the_pod_with_the_plugins_words(usable: ContainerdBinary) -> None:
    with Node(usable, configuration=conflist(subnet="10.244.0.0/30", cooldown=0)) as node:
        pods = [node.run_pod("first"), node.run_pod("second")]
        before = witness.of_node(node.namespace, node.base)
        with pytest.raises(CriError, match=r"10\.244\.0\.\d") as refused:
            node.run_pod("third")
        assert "podwire" in refused.value.details
        assert not witness.settled(before, lambda: witness.of_node(node.namespace, node.base))
        # A full pool is the pod's trouble, never the node's: NetworkReady=false would evict the pods that run.
        assert all(condition.status for condition in node.cri.call("Status").status.conditions)
        node.remove_pod(pods[0])
        node.run_pod("takes-the-free-place")


def _answers(node: Node) -> bool:
    try:
        node.cri.call("Version")
    except CriError:
        return False
    return True
