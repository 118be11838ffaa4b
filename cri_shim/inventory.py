"""What runs at the runtime, as far as its events tell: how far each sandbox and container is in its life.

A sandbox or container goes through CREATED, STARTED, STOPPED and DELETED once each, in this order; so what events
were missed is the difference between what was known and what is listed, and none is ever told twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from cri_shim import schema
from cri_shim.call import Code
from cri_shim.errors import AskError, ShimError
from cri_shim.schema import RuntimeMessage
from cri_shim.upstream import Upstream

CALL_SECONDS = 20.0
# The values of ContainerEventType.
CREATED, STARTED, STOPPED, DELETED = range(4)
# By ContainerState and by PodSandboxState; of a container in an unknown state it is known that it was started.
_CONTAINER_STAGES = (CREATED, STARTED, STOPPED, STARTED)
_SANDBOX_STAGES = (STARTED, STOPPED)


class NoListingError(ShimError):
    """The runtime did not list what it has."""


@dataclass
class Member:
    """A sandbox (then `sandbox` is its own id) or a container, and the last stage of its life that is known."""

    sandbox: str
    stage: int


class Inventory:
    """The members a subscriber knows of. `begin` once, `note` each event, `catch_up` after a gap."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._members: dict[str, Member] = {}
        # Last words on sandboxes: when one is gone its status cannot be asked for any more.
        self._sandboxes: dict[str, RuntimeMessage] = {}
        self._deleted: set[str] | None = set()
        self._told: set[tuple[str, int]] = set()

    async def begin(self) -> bool:
        """Take what is listed as known; False when nothing could be listed, and so nothing is known."""
        try:
            members = await self._list()
        except NoListingError:
            return False
        for name, member in members.items():
            known = self._members.get(name)
            if name not in (self._deleted or ()) and (known is None or known.stage < member.stage):
                self._members[name] = member
        self._deleted = None
        return True

    def note(self, event: bytes) -> bool:
        """Learn from an event of the runtime; False when `catch_up` has told it already."""
        try:
            told = schema.message("ContainerEventResponse").FromString(event)
        except DecodeError:
            return True
        name, stage = told.container_id, told.container_event_type
        if (name, stage) in self._told:
            return False
        if stage == DELETED:
            self._members.pop(name, None)
            self._sandboxes.pop(name, None)
            if self._deleted is not None:
                self._deleted.add(name)
            return True
        member = self._members.setdefault(name, Member(told.pod_sandbox_status.id or name, stage))
        member.stage = max(member.stage, stage)
        if told.pod_sandbox_status.id:
            self._sandboxes[told.pod_sandbox_status.id] = told.pod_sandbox_status
        return True

    async def catch_up(self) -> list[bytes]:
        """The events between what is known and what is listed now, which is known from then on.

        Raises NoListingError, and has changed nothing then.
        """
        before, sandboxes = self._members, dict(self._sandboxes)
        after = await self._list()
        missed = sorted(_missed(before, after), key=lambda one: _order(*one))
        statuses = {}
        for name, _ in missed:
            sandbox = (after.get(name) or before[name]).sandbox
            if sandbox not in statuses:
                inside = [other for other, member in after.items() if member.sandbox == sandbox != other]
                statuses[sandbox] = await self._status(sandbox, inside, sandboxes.get(sandbox))
        now = time.time_ns()
        events = []
        for name, stage in missed:
            event = schema.message("ContainerEventResponse")(
                container_id=name, container_event_type=stage, created_at=now
            )
            status, containers = statuses[(after.get(name) or before[name]).sandbox]
            if status is not None:
                event.pod_sandbox_status.CopyFrom(status)
            event.containers_statuses.extend(containers)
            events.append(event.SerializeToString())
        self._members, self._told = after, set(missed)
        self._sandboxes = {name: one for name, one in self._sandboxes.items() if name in after}
        return events

    async def _list(self) -> dict[str, Member]:
        sandboxes = (await self._ask("ListPodSandbox")).items
        containers = (await self._ask("ListContainers")).containers
        members = {one.id: Member(one.id, _SANDBOX_STAGES[min(one.state, 1)]) for one in sandboxes}
        for one in sandboxes:
            if one.id in self._sandboxes:
                continue
            self._sandboxes[one.id] = schema.message("PodSandboxStatus")(
                id=one.id,
                metadata=one.metadata,
                state=one.state,
                created_at=one.created_at,
                labels=one.labels,
                annotations=one.annotations,
                runtime_handler=one.runtime_handler,
            )
        for one in containers:
            members[one.id] = Member(one.pod_sandbox_id, _CONTAINER_STAGES[min(one.state, 3)])
        return members

    async def _status(
        self, sandbox: str, containers: Iterable[str], last: RuntimeMessage | None
    ) -> tuple[RuntimeMessage | None, list[RuntimeMessage]]:
        """PodSandboxStatus and the ContainerStatus of all inside; of a sandbox that is gone, what it last was."""
        try:
            found = await self._ask("PodSandboxStatus", pod_sandbox_id=sandbox)
        except _GoneError:
            if last is not None:
                last.state = schema.enum("PodSandboxState")["SANDBOX_NOTREADY"]
            return last, []
        statuses = list(found.containers_statuses)
        for name in () if statuses else containers:
            try:
                statuses.append((await self._ask("ContainerStatus", container_id=name)).status)
            except _GoneError:
                continue
        return found.status, statuses

    async def _ask(self, name: str, **fields: str) -> RuntimeMessage:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await self._upstream.ask(name, **fields)
        except AskError as error:
            raise (_GoneError if error.code == Code.NOT_FOUND else NoListingError)(str(error)) from error
        except TimeoutError as error:
            raise NoListingError(f"{name}: no answer within {CALL_SECONDS:g} s") from error


class _GoneError(NoListingError):
    """What was asked for is not there any more."""


def _missed(before: dict[str, Member], after: dict[str, Member]) -> Iterable[tuple[str, int]]:
    """Id and stage of each step between two states."""
    for name in before.keys() | after.keys():
        first = before[name].stage + 1 if name in before else CREATED
        last = after[name].stage if name in after else DELETED
        yield from ((name, stage) for stage in range(first, last + 1))


def _order(name: str, stage: int) -> tuple[int, str]:
    return (stage, name)
