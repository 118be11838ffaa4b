"""A real agent collects what a dead pod left, and its metrics tell claims and pools."""

import json

import pytest

from tests.agent.conftest import Cluster
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.root


def test_what_a_dead_pod_left_is_collected_and_counted(cluster: Cluster) -> None:
    a = cluster.node("a")
    cluster.write_peers()
    network = {key: value for key, value in a.config.items() if key not in ("cniVersion", "name")}
    conflist = {"cniVersion": "1.0.0", "name": "testnet", "plugins": [network]}
    (a.folder / "05-podwire.conflist").write_text(json.dumps(conflist))
    pod, _ = a.add_pod("dead", ("tcp", 18080, 8080))
    living, _ = a.add_pod("living")
    pod.close()
    a.start_agent(gc={"seconds": 1})
    a.wait_ready()
    wait_until(lambda: not a.files("attachments") or len(a.files("attachments")) == 1, 20, "GC", hint=a.told)
    a.wait_told("gc removed: ")
    assert "10.244.1.1" not in a.files("addresses")
    assert len([name for name in a.witness(a.space)["links"] if name.startswith("pw")]) == 1
    wait_until(lambda: (a.metric('podwire_agent_gc_objects_total{result="removed"}') or 0) > 0, 10, "the count")
    # The figures of the state folder are read anew every few seconds.
    wait_until(lambda: a.metric('podwire_agent_claims{kind="address"}') == 2, 10, "claims", every=0.2)
    assert a.metric('podwire_agent_claims{kind="host_port"}') == 0
    assert a.metric('podwire_agent_attachments{state="attachments"}') == 1
    pool = '{network="testnet",ranges="10.244.1.1-10.244.1.254"}'
    assert a.metric(f"podwire_agent_pool_size{pool}") == 254
    assert a.metric(f"podwire_agent_pool_used{pool}") == 1
    assert a.metric(f"podwire_agent_pool_free{pool}") == 253
    assert a.call("DEL", "living", living).exit_code == 0
