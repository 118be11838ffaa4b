"""podwire-cri timeline of a real pod: what the shim and the plugin logged of it fits together."""

import os
import subprocess
import sys

from cri_shim.timeline import Span, chosen, timelines
from tests.lab import images
from tests.lab.node import Node
from tests.lab.waiting import wait_until


def test_a_real_pods_waterfall_has_every_rpc_the_plugins_phases_and_the_exit(node: Node) -> None:
    pod = node.run_pod("traced")
    node.run_tools(pod, "main", "exec sleep 3600")
    node.remove_pod(pod)
    logs = [node.base / "shim.log", node.plugin_log]

    def whole() -> list[Span]:
        lines = [line for log in logs for line in log.read_text().splitlines()]
        found = chosen(timelines(lines), pod.id)
        spans = found[0].spans if found and found[0].marks else []
        return spans if spans and spans[-1].label == "RemovePodSandbox" else []

    spans = wait_until(whole, 10, "the whole story in the logs", hint=node.explain)
    labels = ["RunPodSandbox", "CreateContainer", "StartContainer", "StopPodSandbox", "RemovePodSandbox"]
    assert [span.label for span in spans] == labels
    run, stop = spans[0], spans[3]
    assert [inner.label for inner in run.inside] == ["CNI ADD eth0"]
    assert [inner.label for inner in stop.inside] == ["CNI DEL eth0"]
    (add,) = run.inside
    assert run.began <= add.began
    assert add.ended <= run.ended + 1e-6
    assert {"start", "config", "netns", "claims", "wiring", "record"} <= {phase.label for phase in add.inside}
    # What follows the last phase, on a machine with other work, is in the whole only.
    assert 0 < sum(phase.seconds for phase in add.inside) <= add.seconds + 1e-3
    argv = [sys.executable, "-B", "-m", "cri_shim.cli", "timeline", "default/traced", *(f"--log={log}" for log in logs)]
    done = subprocess.run(argv, cwd=images.REPOSITORY, env=os.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "main with 137" in done.stdout
