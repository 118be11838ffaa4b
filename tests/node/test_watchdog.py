"""The watchdog's one call, as real containerd and the shim before it answer it."""

from cni_plugin.install.watchdog_probe import serves
from tests.lab.node import Node


def test_containerd_and_the_shim_serve(node: Node) -> None:
    assert serves(str(node.containerd_socket), 5)
    assert serves(str(node.cri_socket), 5)


def test_a_shim_whose_containerd_is_away_does_not_serve_but_answers(node: Node) -> None:
    node.containerd.kill()
    try:
        assert not serves(str(node.containerd_socket), 5)
        assert not serves(str(node.cri_socket), 5)
    finally:
        node.containerd.start()
    node._wait_ready()
    assert serves(str(node.cri_socket), 5)
