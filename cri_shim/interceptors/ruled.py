"""What carries rules out: the base class of every capability that has them.

    class Greeting(Ruled):
        \"\"\"`do = { text = "..." }` adds an annotation to sandboxes.\"\"\"

        name = "greeting"
        methods = ("RunPodSandbox",)

        @classmethod
        def parse(cls, do: Mapping[str, Any]) -> str:
            return str(take((Setting("text", "text", text),), do).get("text", "hello"))

        async def change_request(self, match: Matched, request: RuntimeMessage) -> None:
            request.config.annotations["example.com/greeting"] = match.action

Everything else is done here: which calls a rule is about, the pod of a call that carries only an id, timeout,
failing open or closed, dry runs, counts. A rule changes a copy; the frame is written anew only if that differs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cri_shim import messages
from cri_shim.call import Call, Code
from cri_shim.capabilities import Setup
from cri_shim.chain import Interceptor
from cri_shim.errors import ConfigError, RejectedError
from cri_shim.pods import SUBJECT, Subject
from cri_shim.rules import NOTE, Rule
from cri_shim.schema import RuntimeMessage, methods

Apply = Callable[["Matched", RuntimeMessage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Matched:
    """One rule and the call it concerns; `action` is what `parse` made of the rule's `do`."""

    rule: Rule
    action: Any
    call: Call
    subject: Subject


class Ruled(Interceptor):
    """Carries out the rules of its Setup. Subclasses give `name`, `methods` (short names), `parse`, a change hook."""

    methods: tuple[str, ...] = ()

    def __init__(self, setup: Setup) -> None:
        self.services = setup.services
        self.fail_open = all(rule.fail_open for rule in setup.rules)
        self._rules: list[tuple[Rule, Any]] = []
        faults: list[str] = []
        for rule in setup.rules:
            try:
                action = self.parse(rule.do)
            except ValueError as fault:
                faults.append(f"rule {rule.name}: do: {fault}")
            except ConfigError as several:
                faults += [f"rule {rule.name}: do: {fault}" for fault in several.faults]
            else:
                self._rules.append((rule, action))
                acts_on = [name for name in self.methods if self.acts(action, name)]
                if not any(self._concerned(rule, action, path) for path in methods()):
                    faults.append(f"rule {rule.name}: {self.name} acts on {', '.join(acts_on)}, and it matches none")
        if faults:
            raise ConfigError(faults)

    @classmethod
    def parse(cls, do: Mapping[str, Any]) -> Any:
        """What `do` means; ValueError or ConfigError with what is wrong with it."""
        return do

    @classmethod
    def acts(cls, action: Any, method: str) -> bool:
        """Whether a rule with this action does anything to calls of this method (one of `methods`)."""
        return True

    @classmethod
    def explain(cls, action: Any) -> str:
        """What a rule with this action does, for `podwire-shim check`."""
        return str(action)

    def explained(self, rule: Rule) -> str:
        """`explain` of one of its rules."""
        return next(self.explain(action) for own, action in self._rules if own is rule)

    async def change_request(self, match: Matched, request: RuntimeMessage) -> None:
        """Change the request in place, or raise RejectedError to refuse the call."""

    async def change_response(self, match: Matched, response: RuntimeMessage) -> None:
        """Change the response in place, or raise RejectedError to end the call in its place."""

    def wants(self, method: str) -> bool:
        return any(self._concerned(rule, action, method) for rule, action in self._rules)

    async def on_request(self, call: Call, frame: bytes) -> bytes:
        matched: list[Matched] = []
        for rule, action in self._rules:
            if self._concerned(rule, action, call.method):
                frame = await self._guarded(rule, call, frame, self._first(rule, action, call, frame, matched))
        if matched:
            call.notes[self.name] = matched
        return frame

    async def on_response(self, call: Call, frame: bytes) -> bytes:
        if type(self).change_response is not Ruled.change_response:
            for match in call.notes.get(self.name, ()):
                work = self._apply(match, frame, messages.edit_response, self.change_response)
                frame = await self._guarded(match.rule, call, frame, work)
        return frame

    def _concerned(self, rule: Rule, action: Any, path: str) -> bool:
        name = path.rpartition("/")[2]
        return name in self.methods and rule.method(path) and self.acts(action, name)

    async def _first(self, rule: Rule, action: Any, call: Call, frame: bytes, matched: list[Matched]) -> bytes:
        """The request after one rule, if the call concerns it."""
        request = messages.request(call, frame)
        subject: Subject | None = call.notes.get(SUBJECT)
        if subject is None:
            subject = self.services.pods.named_in(call.method, request)
        if rule.asks_subject:
            subject = await self.services.pods.find(subject)
        call.notes[SUBJECT] = subject
        if not rule.concerns(call.method, subject):
            return frame
        match = Matched(rule, action, call, subject)
        matched.append(match)
        call.notes.setdefault(NOTE, []).append(rule.name)
        counts = self.services.tally[self.name, rule.name]
        if rule.dry_run:
            counts.dry_hits += 1
        else:
            counts.hits += 1
        return await self._apply(match, frame, messages.edit_request, self.change_request)

    async def _apply(
        self,
        match: Matched,
        frame: bytes,
        edit: Callable[[Call, bytes, messages.Change], Awaitable[bytes]],
        apply: Apply,
    ) -> bytes:
        counts = self.services.tally[self.name, match.rule.name]
        would: list[str] = []

        async def change(message: RuntimeMessage) -> None:
            if not match.rule.dry_run:
                return await apply(match, message)
            # On a copy of the copy: what is handed back stays equal to what came.
            trial = type(message)()
            trial.CopyFrom(message)
            try:
                await apply(match, trial)
            except RejectedError as refusal:
                would.append(f"refuse: {refusal.text}")
            else:
                would.extend(f"change {path}" for path in messages.changed_fields(message, trial))
            return None

        try:
            after = await edit(match.call, frame, change)
        except RejectedError:
            counts.refusals += 1
            raise
        if would:
            self._tell("rule-dry-run", match.rule, match.call, would=would)
        elif after is not frame:
            counts.changes += 1
        return after

    async def _guarded(self, rule: Rule, call: Call, frame: bytes, work: Awaitable[bytes]) -> bytes:
        """`work`'s frame, within the rule's timeout; when it fails, the frame as it was or a refusal."""
        counts = self.services.tally[self.name, rule.name]
        try:
            async with asyncio.timeout(rule.timeout_seconds) as bound:
                return await work
        except RejectedError:
            raise
        except Exception as error:  # whatever a rule meets, the rule says what becomes of the call
            if bound.expired():
                counts.timeouts += 1
                what = f"not done in {rule.timeout_seconds:g} s"
            else:
                counts.failures += 1
                what = f"{type(error).__name__}: {error}"
            self._tell("rule-failed", rule, call, error=what)
            if rule.fail_open or rule.dry_run:
                return frame
            raise RejectedError(
                Code.INTERNAL,
                f"podwire-shim: rule {rule.name} of {self.name} failed on {call.name} and fails closed: {what}",
            ) from error

    def _tell(self, event: str, rule: Rule, call: Call, **fields: object) -> None:
        subject: Subject = call.notes.get(SUBJECT) or Subject()
        self.services.event(
            event, rule=rule.name, interceptor=self.name, method=call.method, **fields, **subject.names()
        )
