"""A real agent, a real connection to an API server in another namespace, and the life of both."""

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.agent.conftest import REPOSITORY, Cluster
from tests.lab.kubeobjects import kubeconfig
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.root


def test_an_agent_follows_the_api_and_outlives_it(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    state = cluster.folder / "nodes.json"
    certificate, key = cluster.folder / "tls.crt", cluster.folder / "tls.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:192.0.2.254",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip

    def write(*entries: dict[str, Any]) -> None:
        draft = state.with_suffix(".new")
        draft.write_text(json.dumps(entries))
        draft.replace(state)

    def start_api() -> Any:
        command = [sys.executable, "-m", "tests.lab.kubeapi", "--state", str(state), "--listen", "192.0.2.254:6443"]
        log = cluster.folder / "api.log"
        log.write_text("")
        api = cluster.router.start(
            [*command, "--tls", str(certificate), str(key)], log, {"PYTHONPATH": str(REPOSITORY)}
        )
        cluster.stack.callback(api.kill)
        wait_until(lambda: "ready" in log.read_text(), 10, "the API server", hint=api.tail)
        return api

    mine, other = cluster.entry("a"), cluster.entry("b")
    write(mine, other)
    api = start_api()
    config = a.folder / "kubeconfig"
    config.write_text(kubeconfig("https://192.0.2.254:6443", ca=str(certificate)))
    settings: dict[str, Any] = {
        "source": "kubernetes",
        "kubernetes": {"kubeconfig": str(config), "retry_initial_seconds": 0.05, "retry_max_seconds": 0.3},
    }
    agent = a.start_agent(**settings)
    a.wait_ready()
    a.wait_routes(*b.subnets)
    late = {"name": "late", "addresses": ["192.0.2.50"], "pod_cidrs": ["10.244.50.0/24"]}
    write(mine, other, late)
    a.wait_routes(*b.subnets, "10.244.50.0/24")

    api.kill()
    a.wait_told("the API server cannot be asked to watch nodes")
    assert a.metric("podwire_agent_source_up") == 0
    assert a.get("/readyz")[0] == 200
    # A new agent, too, works from the last list that was had.
    agent.kill(signal.SIGKILL)
    a.space.run(["ip", "route", "del", "10.244.50.0/24", "proto", "113"])
    a.agent_log.unlink()
    a.start_agent(**settings)
    a.wait_ready()
    a.wait_routes(*b.subnets, "10.244.50.0/24")
    assert "3 nodes known before" in a.told()

    write(mine, other)
    start_api()
    a.wait_routes(*b.subnets)
    wait_until(lambda: a.metric("podwire_agent_source_up") == 1, 5, "the source to be up", hint=a.told)
    assert (a.metric("podwire_agent_source_age_seconds") or 99) < 60
