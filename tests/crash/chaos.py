"""Seeded random calls, several at once, many of them killed; whoever reads a failure can run the seed again."""

import random
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.matrix import BYSTANDER, Matrix
from tests.lab import audit
from tests.lab.threadnode import Call, Reply
from tests.lab.waiting import wait_until

_PODS = 20
_AT_ONCE = 4
# A call that finds nothing to do has five steps, an ADD forty.
_LAST_STEPS = {"ADD": (6, 30, 70), "DEL": (6, 20, 20), "CHECK": (1, 1, 1), "GC": (6, 20, 40)}
# Attached already, the interface is there, the lock is held, a child was killed; CHECK: unknown, different.
_ALLOWED = {110, 103, 11, 106, 3, 108}
# A pool hardly larger than the pods, so that every freed address is handed out again soon.
_POOL = {"ranges": [[{"subnet": "10.244.0.0/27"}], [{"subnet": "fd00:10:244::/123"}]], "cooldownSeconds": 0}


@dataclass
class Operation:
    """One call, and what became of it."""

    verb: str
    container: str
    failpoint: str
    outside: float
    valid: tuple[str, ...] = ()
    reply: Reply | None = field(default=None, compare=False)

    def __str__(self) -> str:
        end = f" killed from outside after {self.outside * 1000:.1f} ms" if self.outside else ""
        what = self.container or f"keeping {' '.join(self.valid)}"
        return f"{self.verb} {what} {self.failpoint}{end} -> {_brief(self.reply)}"


class Chaos:
    """A node and the history of what was done to it."""

    def __init__(self, launcher: Path, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.matrix = Matrix(launcher, folder, "dual stack")
        self.node = self.matrix.node
        self.node.config |= {"ipam": _POOL}
        self.containers = [f"c{count}" for count in range(_PODS)]
        for container in self.containers:
            self.matrix.pod(container)
        self.history: list[str] = []
        # What must be there, and what must be gone: only where the last call that touched it came to its end.
        self.attached: dict[str, dict[str, Any]] = {}
        self.gone: set[str] = set()

    def run(self, kills: int) -> None:
        """Waves of calls until so many were killed; then everything is deleted and audited."""
        killed = 0
        while killed < kills:
            wave = [self._operation() for _ in range(self.random.randint(1, _AT_ONCE))]
            for operation, call in [(operation, self._start(operation)) for operation in wave]:
                if operation.outside:
                    _kill_after(call, operation.outside)
                operation.reply = call.finish()
                killed += operation.reply.exit_code == -signal.SIGKILL
                self.history.append(f"{'' if operation is wave[0] else '  with '}{operation}")
                self._judge(operation.reply)
            self._account(wave)
            if self.random.random() < 0.1:
                self._compare()
        self._compare()
        self._end()

    def _operation(self) -> Operation:
        draw = self.random
        verb = draw.choices(["ADD", "DEL", "CHECK", "GC"], [12, 8, 1, 2])[0]
        outside = draw.uniform(0.004, 0.025) if draw.random() < 0.25 else 0.0
        failpoint = ""
        if not outside and draw.random() < 0.85:
            process = draw.choice(["0"] * 8 + ["0.1", "0.2"])
            last = draw.choice(_LAST_STEPS[verb]) if process == "0" else 2
            failpoint = f"kill:{process}:{draw.randint(1, last)}:{draw.choice(['before', 'after'])}"
        if verb != "GC":
            return Operation(verb, draw.choice(self.containers), failpoint, outside)
        valid = tuple(sorted(draw.sample(self.containers, _PODS * 3 // 4)))
        return Operation(verb, "", failpoint, outside, (BYSTANDER, *valid))

    def _start(self, operation: Operation) -> Call:
        options: dict[str, Any] = {"failpoint": operation.failpoint}
        if operation.verb == "GC":
            return self.node.start_gc(*operation.valid, **options)
        options |= self.matrix.ports_of(operation.container)
        if operation.verb == "CHECK":
            options["prevResult"] = self.attached.get(operation.container, {"cniVersion": "1.1.0"})
        return self.node.start(operation.verb, operation.container, self.node.pods[operation.container], **options)

    def _judge(self, reply: Reply) -> None:
        assert reply.exit_code in (0, 1, -signal.SIGKILL), self.story(str(reply))
        if reply.exit_code == 1:
            assert reply.code in _ALLOWED, self.story(str(reply))
        if reply.exit_code == 0 and reply.stdout:
            assert reply.json["cniVersion"], self.story(str(reply))

    def _account(self, wave: list[Operation]) -> None:
        collected = [operation for operation in wave if operation.verb == "GC"]
        for container in self.containers:
            touching = [each for each in wave if each.container == container and each.verb != "CHECK"]
            if not touching and not any(container not in each.valid for each in collected):
                continue
            self.attached.pop(container, None)
            self.gone.discard(container)
            if len(touching) != 1 or collected or touching[0].reply is None or touching[0].reply.exit_code:
                continue
            if touching[0].verb == "ADD":
                self.attached[container] = touching[0].reply.json
            else:
                self.gone.add(container)

    def _compare(self) -> None:
        """What was answered is what is there, and no address is in two pods."""
        self.node.quiet()
        self.matrix.no_address_twice()
        held = self.node.addresses()
        for container, result in self.attached.items():
            wanted = [each["address"].partition("/")[0] for each in result["ips"]]
            assert set(wanted) <= set(held[container]), self.story(f"{container} lost {wanted}: {held[container]}")
            pod = self.node.pods[container]
            ports = self.matrix.ports_of(container)
            reply = self.node.call("CHECK", container, pod, prevResult=result, **ports)
            assert reply.exit_code == 0, self.story(f"CHECK of {container}: {reply}")
        for container in self.gone:
            assert held[container] == [], self.story(f"{container} was deleted and has {held[container]}")

    def _end(self) -> None:
        for container in self.containers:
            reply = self.node.call("DEL", container, self.node.pods[container])
            assert reply.exit_code == 0, self.story(f"the last DEL of {container}: {reply}")
        assert self.node.gc(BYSTANDER).exit_code == 0
        left = self.matrix.leftovers()
        assert left == [], self.story("\n".join(left))
        assert self.node.do(audit.network), "the audit reads nothing"

    def story(self, what: str) -> str:
        """A failure with its seed and the calls that led to it."""
        return "\n".join([f"seed {self.seed}: {what}", *self.history])


def _brief(reply: Reply | None) -> str:
    if reply is None or not reply.stdout:
        return f"exit {reply.exit_code if reply else 'unknown'}"
    ips = [each["address"] for each in reply.json.get("ips", [])]
    return f"exit {reply.exit_code}, {' '.join(ips)}{reply.json.get('code', '')} {reply.json.get('msg', '')}"


def _kill_after(call: Call, seconds: float) -> None:
    # The moment is the thing tested: wherever the process is by then. It may have ended before.
    try:
        wait_until(lambda: call.process.poll() is not None, seconds, "", every=0.001)
    except AssertionError:
        call.process.kill()
