"""The journal: what an installation is about to do, with what undoes it, written down before it is done.

`/var/lib/podwire/install.json` is one document, replaced by rename: the record of the installation that stands
(`installed`, `steps`: how to get from it to a node without podwire), and the open `transaction`, whose steps lead
back to that record. A step is data: a kind out of a fixed table (see `undo`), its arguments, and the part of the
node it belongs to. Whatever kills a process, another one reads the document and undoes it.

Exceptions: JournalError says what failed and, as `details`, what to do next.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni_plugin.install import entries
from cni_plugin.install.entries import Entry, Store
from cni_plugin.install.places import Places

SCHEMA = 1
_ABOUT = "podwire's record of its installation on this node; `podwire-node status` tells what it says"

# Steps that only a rollback takes back: somebody's own file outlives us, and of versions the folder tells.
TRANSIENT = ("kept", "version")
# What a step touches; an uninstall goes through them in this order.
PARTS = ("watchdog", "kubelet", "shim", "network", "agent", "state", "node", "executable")


class JournalError(Exception):
    """The journal cannot be read or written, or does not allow what is asked."""

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__(text)
        self.details = details


@dataclass(frozen=True)
class Step:
    """One effect on the node: `data` undoes it, whether or not `do` was done."""

    name: str
    kind: str
    part: str
    data: dict[str, Any]
    do: Callable[[], object] = field(default=lambda: None, compare=False)

    def document(self) -> dict[str, Any]:
        """The step as the journal holds it."""
        return {"name": self.name, "kind": self.kind, "part": self.part, "data": self.data}


class Journal:
    """The document, and every change of it. Whoever changes it holds `locking.Turn`."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.store = Store(places.originals)
        self.document: dict[str, Any] = _empty()

    # Reading.

    @property
    def installed(self) -> dict[str, Any] | None:
        """Identity, options and owner of the conflist of what was committed, or None."""
        found: dict[str, Any] | None = self.document["installed"]
        return found

    @property
    def transaction(self) -> dict[str, Any] | None:
        """The open transaction, or None."""
        found: dict[str, Any] | None = self.document["transaction"]
        return found

    @property
    def in_force(self) -> dict[str, Any] | None:
        """What the node has now: the complete transaction's, else what was committed."""
        if self.transaction and self.transaction["complete"]:
            return self.transaction
        return self.installed

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The committed steps."""
        found: list[dict[str, Any]] = self.document["steps"]
        return found

    def all_steps(self) -> list[dict[str, Any]]:
        """Every recorded step, the open transaction's included."""
        return [*self.steps, *(self.transaction["steps"] if self.transaction else [])]

    def written(self, path: Path) -> Entry:
        """What we made of a path last; None also where we never touched it."""
        found = [each for each in self.all_steps() if each["data"].get("path") == str(path) and "after" in each["data"]]
        return found[-1]["data"]["after"] if found else None

    def load(self) -> "Journal":
        """Read the file; an absent one is an empty journal. Raises JournalError for garbage."""
        try:
            raw = self.places.journal.read_bytes()
        except FileNotFoundError:
            self.document = _empty()
            return self
        try:
            document = json.loads(raw)
            _check(document)
        except (ValueError, KeyError, TypeError) as fault:
            raise JournalError(
                f"{self.places.journal} is damaged: {fault}",
                "podwire-node uninstall  # removes what can be recognised as podwire's",
            ) from None
        self.document = document
        return self

    # Writing.

    def save(self) -> None:
        """Replace the file, durably. Raises OSError."""
        self._make_folder()
        text = json.dumps(self.document, indent=1, sort_keys=False) + "\n"
        entries.replace(self.places.journal, text.encode(), 0o600)

    def _make_folder(self) -> None:
        # The lock made the folder; what else was in it is somebody's, and stays.
        if self.document["found"] is None:
            ours = {self.places.journal.name, self.places.lock.name, self.places.originals.name}
            ours.add(entries.draft(self.places.journal).name)
            self.document["found"] = sorted(set(os.listdir(self.places.lib)) - ours)

    def begin(self, verb: str, identity: str, options: dict[str, Any], owner: str) -> None:
        """Open a transaction, which takes over the versions that `place` brought."""
        if self.transaction is not None:
            raise JournalError(
                f"a transaction is open: {describe(self.transaction)}", "podwire-node rollback  # or commit"
            )
        self.document["transaction"] = {
            "verb": verb,
            "identity": identity,
            "options": options,
            "owner": owner,
            "begun": _now(),
            "complete": False,
            "steps": [
                Step(f"version {each}", "version", "executable", {"identity": each}).document()
                for each in self.document["placed"]
            ],
        }
        self.document["placed"] = []
        self.save()

    def perform(self, step: Step) -> None:
        """Write the step down, then do it."""
        if self.transaction is None:
            raise JournalError(f"no transaction is open for {step.name!r}")
        self.transaction["steps"].append(step.document())
        self.save()
        step.do()

    def replace(
        self,
        path: Path,
        before: bytes | None,
        after: bytes | None,
        *,
        part: str = "kubelet",
        mode: int = 0o644,
        name: str = "",
        **more: Any,
    ) -> None:
        """Make a file that held `before` hold `after` (None: absent), its mode and owner kept.

        Raises JournalError where it holds something else by now: the plan was made for another file.
        """
        found = entries.look(path)
        expected = None if before is None else entries.digest(before)
        if (found or {}).get("sha256") != expected:
            raise JournalError(f"{path} has changed since it was read", "run the same command again")
        owner = found or {"mode": mode, "uid": os.geteuid(), "gid": os.getegid()}
        entry = None if after is None else entries.described(after, owner["mode"], owner["uid"], owner["gid"])
        self.put(path, entry, after or b"", part=part, name=name, **more)

    def put(
        self,
        path: Path,
        entry: Entry,
        content: bytes = b"",
        *,
        part: str,
        name: str = "",
        kind: str = "path",
        **more: Any,
    ) -> bool:
        """Make `path` be this entry; False where it is already. `more` goes into the step's data."""
        before = entries.look(path)
        if entries.equal(before, entry):
            return False
        if before is not None and "sha256" in before:
            self.keep(path.read_bytes())
        data = {"path": str(path), "before": before, "after": entry, **more}
        self.perform(Step(name or f"{path}", kind, part, data, lambda: entries.put(path, entry, content)))
        return True

    def keep(self, content: bytes) -> None:
        """Keep what a file was, before the step that changes it is written down."""
        self.store.keep(content)

    def complete(self) -> None:
        """The transaction has done all it had to; what is left is `commit` or `rollback`."""
        assert self.transaction is not None
        self.transaction["complete"] = True
        self.save()

    def commit(self) -> None:
        """Fold the transaction into the record."""
        assert self.transaction is not None
        self.document["steps"] = folded([*self.steps, *self.transaction["steps"]])
        kept = ("identity", "options", "owner")
        self.document["installed"] = {key: self.transaction[key] for key in kept} | {"since": _now()}
        self.document["transaction"] = None
        self.save()
        self.prune()

    def drop(self, step: dict[str, Any]) -> None:
        """Forget a step that was undone."""
        for steps in (self.transaction["steps"] if self.transaction else [], self.steps):
            for position in range(len(steps) - 1, -1, -1):
                if steps[position] is step:
                    del steps[position]
                    self.save()
                    return

    def close(self) -> None:
        """The transaction is undone whole."""
        self.document["transaction"] = None
        self.save()
        self.prune()

    def prune(self) -> None:
        """Drop the originals that no step names."""
        entries_named = [each["data"].get("before") for each in self.all_steps()]
        self.store.prune({each["sha256"] for each in entries_named if each and "sha256" in each})

    @property
    def is_empty(self) -> bool:
        """Whether nothing is recorded that would have to be undone."""
        document = self.document
        return not (document["installed"] or document["transaction"] or document["steps"] or document["placed"])

    def dissolve(self) -> None:
        """Remove the journal and what of podwire's is in its folder; the folder too, unless it was there before."""
        found = set(self.document["found"] or [])
        self.store.prune(set())
        for path in [self.places.pod_cidr, *self.places.lib.glob("*")]:
            if path.name not in found and path != self.places.lock and path.is_file():
                path.unlink(missing_ok=True)
        entries.draft(self.places.journal).unlink(missing_ok=True)
        self.document = _empty()


def describe(transaction: dict[str, Any]) -> str:
    """A transaction in words."""
    condition = "complete, not committed" if transaction["complete"] else "cut off"
    return f"{transaction['verb']} of {transaction['identity']}, begun {transaction['begun']}, {condition}"


def folded(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same way back in as few steps: of several on one thing, what was before the first and after the last."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for step in steps:
        if step["kind"] in TRANSIENT:
            continue
        key = (step["kind"], subject(step))
        earlier = found.get(key)
        if earlier is None:
            found[key] = {**step, "data": dict(step["data"])}
        elif "after" in step["data"]:
            earlier["data"] |= {name: step["data"][name] for name in ("after", "owner") if name in step["data"]}
    return [step for step in found.values() if not _is_void(step)]


def subject(step: dict[str, Any]) -> str:
    """What a step is about, within its kind."""
    data = step["data"]
    return str(data.get("path") or data.get("setting") or data.get("unit") or "")


def _is_void(step: dict[str, Any]) -> bool:
    data = step["data"]
    if step["kind"] not in ("path", "network", "sysctl"):
        return False
    if step["kind"] == "sysctl":
        return bool(data["before"] == data["after"])
    return entries.equal(data["before"], data["after"])


def _empty() -> dict[str, Any]:
    return {
        "about": _ABOUT,
        "schema": SCHEMA,
        "found": None,
        "installed": None,
        "removing": False,
        "steps": [],
        "placed": [],
        "transaction": None,
    }


def _check(document: Any) -> None:
    if not isinstance(document, dict) or document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']!r}, this version reads {SCHEMA}")
    for key, kind in (("steps", list), ("placed", list), ("installed", dict | None), ("transaction", dict | None)):
        if not isinstance(document[key], kind):
            raise TypeError(f"{key} is {type(document[key]).__name__}")
    transaction = document["transaction"] or {"steps": [], "complete": False}
    for step in [*document["steps"], *transaction["steps"]]:
        if not all(isinstance(step[key], str) for key in ("name", "kind", "part")) or not isinstance(
            step["data"], dict
        ):
            raise TypeError("a step is malformed")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
