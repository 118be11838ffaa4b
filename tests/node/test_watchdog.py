"""The watchdog's one call, as real containerd and the shim before it answer it."""

import os
import signal

from cni_plugin.install.watchdog_probe import serves
from tests.lab.node import Node


def test_containerd_and_the_shim_serve(node: Node) -> None:
    assert serves(str(node.containerd_socket), 5)
    assert serves(str(node.cri_socket), 5)


def test_a_shim_that_hangs_does_not(node: Node) -> None:
    assert node.shim is not None
    os.kill(node.shim.pid, signal.SIGSTOP)
    try:
        assert not serves(str(node.cri_socket), 0.5)
    finally:
        os.kill(node.shim.pid, signal.SIGCONT)
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
