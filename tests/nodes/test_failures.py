"""An install that fails at a step of its journal, by an exception or by kill -9, leaves the node as it was.

Both nodes work at the same time, each on half of the steps. In CI a seeded third of the steps, all with --soak.
"""

import random
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import kindnode_state, witness
from tests.lab.kindnode import Cluster, Node
from tests.lab.witness import Snapshot
from tests.nodes import payloads
from tests.nodes.failing_points import Point, points
from tests.nodes.kubeadm import CONTAINERD, wait_for_kubelet

SEED = 20260801
SCRIPT = "/run/failing_install.py"
_MASTER = "/kind/payload"
_PEERS = '[[node]]\nname = "{name}"\naddresses = ["{address}"]\npod_cidrs = ["10.244.9.0/24"]\n'
NEVER = Point(-1, "done", "raise")

pytestmark = pytest.mark.usefixtures("kubelets", "untouched")


@dataclass
class Patient:
    """A node with the payload at hand, and what it held before."""

    node: Node
    identity: str
    before: Snapshot

    @property
    def tool(self) -> str:
        return f"/opt/podwire/versions/{self.identity}/bin"

    def install(self, point: Point) -> tuple[int, str]:
        """Place and install, up to the point; exit code and stderr."""
        incoming = f"/opt/podwire/.incoming-{self.identity}"
        self.node.sh(f"mkdir -p {incoming} && cp -al {_MASTER}/{self.identity} {incoming}/")
        self.node.exec(f"{incoming}/{self.identity}/bin/podwire-node", "place", f"{incoming}/{self.identity}")
        done = self.node.exec(
            *(f"{self.tool}/python3", "-IB", SCRIPT, str(point.step), point.moment, point.end),
            *("install", "--cni", "--shim", "--pod-cidr", "10.244.9.0/24", "--node-name", self.node.name),
            *("--peers", "/run/failing_peers.toml"),
            check=False,
            timeout=180,
        )
        return done.returncode, done.stderr

    def roll_back(self) -> None:
        """As the host does after a failure."""
        self.node.exec(f"{self.tool}/podwire-node", "rollback", timeout=180)
        self.node.sh(f"rm -rf /opt/podwire/versions/{self.identity}; rmdir /opt/podwire/versions /opt/podwire || true")

    def left(self) -> list[str]:
        """What is not as it was."""
        return witness.settled(self.before, lambda: kindnode_state.of_node(self.node))


@pytest.fixture(scope="module")
def patients(cluster: Cluster, payload: Path, kubelets: None, untouched: None) -> "list[Patient]":
    """Both nodes; the payload lies unpacked where an install does not look."""
    made = []
    for node in cluster.nodes:
        node.exec("sh", "-c", f"mkdir -p {_MASTER} && tar -xz -C {_MASTER}", input=payload.read_bytes())
        node.write(SCRIPT, Path(__file__).with_name("failing_install.py").read_bytes())
        node.write("/run/failing_peers.toml", _PEERS.format(name=node.name, address=node.addresses[0]))
        made.append(Patient(node, payloads.identity(payload), kindnode_state.of_node(node)))
    return made


@pytest.fixture(scope="module")
def steps(patients: list[Patient]) -> list[str]:
    """The names of the steps of an install that nothing disturbs; it is rolled back whole, too."""
    code, said = patients[0].install(NEVER)
    assert code == 0, said
    patients[0].roll_back()
    assert patients[0].left() == []
    return [line.split(" ", 2)[2] for line in said.splitlines() if line.startswith("step ")]


def test_a_whole_install_can_be_rolled_back(steps: list[str]) -> None:
    assert len(steps) > 20


def test_a_failure_at_some_steps_leaves_nothing(patients: list[Patient], steps: list[str]) -> None:
    chosen = random.Random(SEED).sample(points(len(steps)), k=len(steps) // 3)
    _fail_at(chosen, patients, steps)


@pytest.mark.soak
def test_a_failure_at_every_step_leaves_nothing(patients: list[Patient], steps: list[str]) -> None:
    _fail_at(points(len(steps), every=True), patients, steps)


def _fail_at(chosen: list[Point], patients: list[Patient], steps: list[str]) -> None:
    waiting, faults = sorted(chosen, key=lambda point: point.step), []

    def work(patient: Patient) -> None:
        while True:
            try:
                point = waiting.pop()
            except IndexError:
                return
            try:
                _check(patient, point)
            # Whatever it is, the thread has to tell it.
            except Exception as fault:  # noqa: BLE001
                faults.append(f"{patient.node.name}: {point} ({steps[point.step]}): {fault}")
                return

    workers = [threading.Thread(target=work, args=(patient,)) for patient in patients]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert not faults, "\n".join(faults)


def _check(patient: Patient, point: Point) -> None:
    code, said = patient.install(point)
    assert code == (137 if point.end == "kill" else 1), f"exit code {code}\n{said}"
    patient.roll_back()
    left = patient.left()
    assert not left, "\n".join(["left:", *left, "said:", said])
    wait_for_kubelet(patient.node, CONTAINERD)
