"""ADD, DEL and GC of one attachment, one of them held at each of its steps: it ends fully there or fully gone."""

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.crash.matrix import BYSTANDER, Matrix, trace
from tests.lab import failpoints
from tests.lab.failpoints import Step
from tests.lab.threadnode import Call, Reply, ThreadNode
from tests.lab.waiting import wait_until

# A seeded share of the steps; all with --soak.
SHARE = {"plain": 0.4, "dual stack": 0.25}


def chosen(steps: list[Step], share: float) -> list[Step]:
    """A seeded share of the steps of the call itself, in order."""
    own = [step for step in steps if step.process == "0"]
    kept = random.Random(len(own)).sample(range(len(own)), round(len(own) * share))
    return [own[index] for index in sorted(kept)]


class Duel:
    """One attachment, and two calls about it that overlap."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix, self.node = matrix, matrix.node
        self.file = self.node.folder / "second"

    def start(self, verb: str, container: str, **options: Any) -> Call:
        """Start a call about this container."""
        if verb == "GC":
            return self.node.start_gc(BYSTANDER, **options)
        options |= self.matrix.ports_of(container)
        return self.node.start(verb, container, self.node.pods[container], **options)

    def fight(self, held: str, other: str, container: str, step: Step) -> tuple[Reply, Reply]:
        """Hold `held` after a step, run `other` until it ends or waits for a lock, let go, wait for both."""
        self.matrix.pod(container)
        if held != "ADD":
            assert self.start("ADD", container).finish().exit_code == 0
        first = self.start(held, container, failpoint=step.stop("after"))
        first.wait_stopped()
        self.file.unlink(missing_ok=True)
        second = self.start(other, container, steps=self.file)
        wait_until(lambda: self._waits_or_ended(second), 20, f"{other} to end or to wait", every=0.001)
        first.process.send_signal(signal.SIGCONT)
        return first.finish(), second.finish()

    def _waits_or_ended(self, call: Call) -> bool:
        steps = failpoints.read(self.file).steps
        return call.process.poll() is not None or bool(steps and steps[-1].name.startswith("F_OFD_SETLKW"))

    def end(self, container: str) -> str:
        """`there` when CHECK agrees, `gone` when nothing is left; deletes it. Everything else is a failure."""
        pod = self.node.pods[container]
        ports = self.matrix.ports_of(container)
        checked = self.node.call("CHECK", container, pod, prevResult={"cniVersion": "1.1.0"}, **ports)
        state = "there" if checked.exit_code == 0 else "gone"
        if state == "gone":
            assert self.node.addresses()[container] == [], checked
            assert self.matrix.leftovers() == []
        deleted = self.start("DEL", container).finish()
        assert deleted.exit_code == 0, deleted
        self.node.drop_pod(container)
        return state


@pytest.mark.parametrize("other", ["ADD", "DEL", "GC"])
@pytest.mark.parametrize("held", ["ADD", "DEL", "GC"])
@pytest.mark.parametrize("configuration", SHARE)
def test_two_calls_about_one_attachment_leave_it_whole_or_gone(
    node: ThreadNode,
    launcher: Path,
    tmp_path: Path,
    configuration: str,
    held: str,
    other: str,
    request: pytest.FixtureRequest,
) -> None:
    share = 1.0 if request.config.getoption("--soak") else SHARE[configuration]
    steps = chosen(trace(node, configuration, held), share)
    matrix = Matrix(launcher, tmp_path / "duel", configuration)
    with matrix.node:
        duel = Duel(matrix)
        for count, step in enumerate(steps):
            first, second = duel.fight(held, other, f"c{count}", step)
            story = f"{held} held after {step}: {first}; {other}: {second}"
            for verb, reply in ((held, first), (other, second)):
                # An ADD may find the other's attachment, or its interface.
                assert reply.code in ((0, 110, 103) if verb == "ADD" else (0,)), story
            state = duel.end(f"c{count}")
            if held == "ADD" and other == "ADD":
                assert state == "there", story
            if "ADD" not in (held, other):
                assert state == "gone", story
        assert matrix.leftovers() == []


@pytest.mark.parametrize("seed", range(6))
def test_add_del_and_gc_of_one_attachment_in_a_seeded_order(launcher: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    matrix = Matrix(launcher, tmp_path, "dual stack")
    with matrix.node:
        duel = Duel(matrix)
        for count in range(8):
            container = f"c{count}"
            matrix.pod(container)
            verbs = [draw.choice(["ADD", "DEL", "GC"]) for _ in range(4)]
            stops = [f"stop:0:{draw.randint(1, 30)}:{draw.choice(['before', 'after'])}" for _ in verbs]
            calls = [duel.start(verb, container, failpoint=stop) for verb, stop in zip(verbs, stops, strict=True)]
            wait_until(lambda calls=calls: _let_go(calls, draw), 60, "the calls to end", every=0.001)  # type: ignore[misc]
            replies = [call.finish() for call in calls]
            story = f"seed {seed}, round {count}: {list(zip(verbs, stops, replies, strict=True))}"
            assert {reply.code for reply in replies} <= {0, 11, 103, 110}, story
            assert duel.end(container) in ("there", "gone"), story
        assert matrix.leftovers() == []


def _let_go(calls: list[Call], draw: random.Random) -> bool:
    """Continue one of those that stand at their failpoint; whether all have ended."""
    stopped = [call for call in calls if call.stopped()]
    if stopped and draw.random() < 0.1:
        draw.choice(stopped).process.send_signal(signal.SIGCONT)
    return all(call.process.poll() is not None for call in calls)
