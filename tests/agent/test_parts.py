"""Small parts: the kept list, faults, readiness messages, the monitor, health, and GC by the clock."""

import io
import ipaddress
import os
import socket
import stat
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from cni_plugin.agent import garbage, peers
from cni_plugin.agent.errors import ListenError
from cni_plugin.agent.faults import Faults, Log
from cni_plugin.agent.health import Server
from cni_plugin.agent.notify import Notifier
from cni_plugin.agent.peers import Nodes, Peer
from cni_plugin.agent.settings import Endpoint
from tests.agent.conftest import fetch
from tests.lab.waiting import wait_until

NODES = Nodes((Peer("a", (ipaddress.ip_address("192.0.2.1"),), (ipaddress.ip_network("fd00::/112"),)),))


def test_a_list_is_kept_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "data" / "peers.json"
    peers.save(path, NODES)
    assert peers.load(path) == Nodes(NODES.peers, (), saved=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["peers.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 9, "nodes": []}', '{"version": 1, "nodes": [5]}'])
def test_a_kept_list_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "peers.json"
    path.write_text(text)
    assert peers.load(path) is None
    assert peers.load(tmp_path / "absent") is None


def test_a_fault_is_told_when_it_begins_and_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    faults = Faults(Log(priorities=True))
    for _ in range(3):
        faults.report("nodes", ["b is wrong", "c is wrong"])
    faults.report("nodes", ["c is wrong"])
    faults.report("routes", [f"r{number}" for number in range(50)])
    lines = output.getvalue().splitlines()
    assert lines[:3] == ["<3>b is wrong", "<3>c is wrong", "<6>no longer: b is wrong"]
    assert lines[-1] == "<3>... and 30 more of this kind"
    assert faults.counts() == {"nodes": 1, "routes": 50}


def test_systemd_hears_ready_status_and_that_it_lives(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"}
        notifier = Notifier(env)
        notifier.ready("3 nodes")
        notifier.alive()
        notifier.stopping()
        assert [systemd.recv(99) for _ in range(3)] == [b"READY=1\nSTATUS=3 nodes", b"WATCHDOG=1", b"STOPPING=1"]
    assert notifier.watchdog_seconds == 30
    assert Notifier({**env, "WATCHDOG_PID": "1"}).watchdog_seconds is None
    notifier.status("nobody listens any more")


def test_health_answers_by_what_it_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = Endpoint("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ListenError, match=r"http\.listen: cannot listen on 127\.0\.0\.1:"):
            Server(endpoint, CollectorRegistry(), lambda: (True, ""), lambda: (True, ""))
    good = {"ready": False}
    server = Server(
        Endpoint("127.0.0.1", 0), CollectorRegistry(), lambda: (True, "ok"), lambda: (good["ready"], "a\nb")
    )
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert fetch(f"{url}/healthz") == (200, "ok\n")
        assert fetch(f"{url}/readyz") == (503, "a\nb\n")
        good["ready"] = True
        assert fetch(f"{url}/readyz") == (200, "a\nb\n")
        assert fetch(f"{url}/metrics") == (200, "")
        assert fetch(f"{url}/other")[0] == 404
    finally:
        server.close()


@pytest.mark.root
def test_gc_runs_beside_the_loop_and_counts(tmp_path: Path) -> None:
    collector = garbage.Collector(str(tmp_path / "state"), str(tmp_path), 0.01)
    wait_until(lambda: collector.turn() or collector.counts.runs, 20, "a run", hint=lambda: collector.fault)
    assert (collector.counts.removed, collector.counts.broken, collector.fault) == (0, 0, "")
    assert collector.counts.take("runs") == 1
    assert collector.counts.runs == 0
    collector.stop()
    broken = garbage.Collector(str(tmp_path / "state"), str(tmp_path), 0.01)
    broken._command = ["/nowhere/podwire-net"]
    wait_until(lambda: broken.turn() or broken.counts.broken, 5, "a failure")
    assert "gc did not run" in broken.fault
    assert garbage.Collector("/nowhere", "/nowhere", 0).wait() == float("inf")
