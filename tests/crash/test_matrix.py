"""SIGKILL before and after every step of ADD, DEL and GC; then DEL, ADD, GC or a reboot brings everything back."""

from pathlib import Path

import pytest

from tests.crash.matrix import CONFIGURATIONS, RECOVERIES, Matrix, host_ports, pod, points, survives, trace
from tests.lab import audit
from tests.lab.threadnode import ThreadNode

# All points of all configurations are those of --soak.
SHARES = {"plain": 0.3, "masquerade and hostPorts": 0.2, "dual stack": 0.3, "second interface": 0.2}


@pytest.mark.parametrize("how", RECOVERIES)
@pytest.mark.parametrize("verb", ["ADD", "DEL", "GC"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_nothing_is_left_of_a_killed_call(
    node: ThreadNode,
    launcher: Path,
    tmp_path: Path,
    configuration: str,
    verb: str,
    how: str,
    request: pytest.FixtureRequest,
) -> None:
    share = 1 if request.config.getoption("--soak") else SHARES[configuration]
    steps = trace(node, configuration, verb)
    left = survives(launcher, tmp_path, configuration, verb, how, points(steps, share))
    assert not left, "\n".join(left)


@pytest.mark.parametrize("how", ["DEL", "GC"])
def test_no_draft_of_a_record_is_left(node: ThreadNode, launcher: Path, tmp_path: Path, how: str) -> None:
    steps = [step for step in trace(node, "plain", "ADD") if "/pending/." in step.name]
    assert steps
    matrix = Matrix(launcher, tmp_path / "drafts", "plain")
    with matrix.node:
        containers = matrix.kill("ADD", points(steps))
        matrix.recover(how, containers)
        assert matrix.leftovers(drafts=True) == []


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_nothing_is_left_of_the_nodes_first_add_when_it_is_killed(
    node: ThreadNode, configuration: str, request: pytest.FixtureRequest
) -> None:
    """Folders, table and forwarding are made by the first ADD: killed anywhere, the next one finds its way."""
    share = 1 if request.config.getoption("--soak") else 0.1
    steps = trace(node, configuration, "ADD", first=True)
    baseline = node.holdings()
    for point in points(steps, share):
        node.quiet()
        node.forget_state()
        node.run(
            [
                "sh",
                "-ec",
                "nft flush ruleset; cd /proc/sys/net; echo 0 >ipv4/ip_forward; echo 0 >ipv6/conf/all/forwarding",
            ]
        )
        path = pod(node, configuration)
        killed = node.call("ADD", "abc", path, failpoint=point.step.kill(point.when), **host_ports(configuration, 999))
        assert killed.exit_code == -9, point
        again = node.call("ADD", "abc", path, **host_ports(configuration, 999))
        assert again.code in (0, 110), f"killed {point}: {again}"
        result = again.json if again.code == 0 else {"cniVersion": "1.1.0"}
        checked = node.call("CHECK", "abc", path, prevResult=result, **host_ports(configuration, 999))
        assert checked.exit_code == 0, f"killed {point}: {checked}"
        assert node.call("DEL", "abc", path).exit_code == 0
        node.quiet()
        assert audit.difference(baseline, node.holdings()) == [], f"killed {point}"
