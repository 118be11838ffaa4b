"""The list of nodes from a TOML file that is the same on every node.

[[node]]
name = "kind-worker"
addresses = ["172.18.0.3"]        # or host names, resolved again at every turn
pod_cidrs = ["10.244.1.0/24"]
"""

import ipaddress
import re
import socket
import threading
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cni_plugin.agent import peers
from cni_plugin.agent.errors import SourceError
from cni_plugin.agent.peers import Nodes
from cni_plugin.agent.source import Source

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?\Z"
)
_KEYS = ("name", "addresses", "pod_cidrs")
# A file of a thousand nodes has about 100 KiB.
_MOST_BYTES = 16 << 20
_RETRY_SECONDS = 2.0

Resolver = Callable[[str], list[str]]


def resolve(name: str) -> list[str]:
    """The addresses of a host name in the resolver's order. Raises OSError; may take as long as name servers do."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class FileSource(Source):
    """Reads the file at each turn, and when `poke` is called because it changed."""

    kind = "file"

    def __init__(
        self,
        path: Path,
        changed: Callable[[], None],
        every: float = 60.0,
        resolve_seconds: float = 5.0,
        resolver: Resolver = resolve,
    ) -> None:
        super().__init__(changed)
        self._path, self._every = path, every
        self._names = _Names(resolver, resolve_seconds)

    def turn(self) -> float:
        """One reading."""
        self.publish(read(self._path, self._names.addresses))
        return self._every

    def retry_after(self) -> float:
        """A file that was half written is whole soon."""
        return min(_RETRY_SECONDS, self._every)


def read(path: Path, addresses: Callable[[Iterable[str], list[str]], dict[str, list[str]]]) -> Nodes:
    """The file's nodes, with what had to be passed over. Raises SourceError when it cannot be used at all."""
    keeps = "the last list stays in force"
    try:
        with path.open("rb") as stream:
            document: dict[str, Any] = tomllib.loads(stream.read(_MOST_BYTES).decode())
    except OSError as fault:
        raise SourceError(f"{path}: {fault.strerror}; write it, or set file.path; {keeps}") from None
    except ValueError as fault:
        raise SourceError(f"{path}: not valid TOML: {fault}; {keeps}") from None
    entries = document.get("node")
    if not isinstance(entries, list) or not entries:
        raise SourceError(f"{path}: it holds no [[node]]; {keeps}")
    faults = [f"{path}: unknown key {peers.shown(key)}; it holds [[node]] alone" for key in document if key != "node"]
    good = [each for number, each in enumerate(entries, 1) if _is_entry(each, f"{path}: node {number}", faults)]
    names = {text for each in good for text in each["addresses"] if isinstance(text, str) and _is_host_name(text)}
    resolved = addresses(sorted(names), faults)
    found = []
    for each in good:
        texts = [text for said in each["addresses"] for text in (resolved.get(said, []) if said in names else [said])]
        found.append(peers.parse(each.get("name"), texts, each["pod_cidrs"], faults))
    return peers.listed([each for each in found if each], faults)


def _is_entry(entry: object, what: str, faults: list[str]) -> bool:
    if not isinstance(entry, dict):
        faults.append(f"{what} was passed over: it is no table, written [[node]]")
        return False
    what = f"{what} ({peers.shown(entry.get('name'))})"
    faults += [
        f"{what}: unknown key {peers.shown(key)}; known are {', '.join(_KEYS)}" for key in entry if key not in _KEYS
    ]
    for key in ("addresses", "pod_cidrs"):
        if not isinstance(entry.setdefault(key, []), list):
            faults.append(f"{what} was passed over: {key} is no list of strings")
            return False
    return True


def _is_host_name(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # The last label of a name is never a number (RFC 3696, section 2): 10.0.0.256 is a slip, no name.
        return bool(_HOST_NAME.match(text)) and not text.rstrip(".").rpartition(".")[2].isdigit()
    return False


class _Names:
    """Resolves names side by side within a time, and remembers what each resolved to."""

    def __init__(self, resolver: Resolver, seconds: float) -> None:
        self._resolver, self._seconds = resolver, seconds
        self._known: dict[str, list[str]] = {}
        self._busy: dict[str, threading.Thread] = {}
        self._errors: dict[str, str] = {}

    def addresses(self, names: Iterable[str], faults: list[str]) -> dict[str, list[str]]:
        """The addresses of each name; one that fails has those it had, and a fault."""
        names = list(names)
        for name in names:
            # One that hangs since the last turn is not asked for twice.
            if name not in self._busy:
                self._busy[name] = threading.Thread(target=self._ask, args=(name,), daemon=True)
                self._busy[name].start()
        deadline = time.monotonic() + self._seconds
        for name in names:
            if (asking := self._busy.get(name)) is not None:
                asking.join(max(0.0, deadline - time.monotonic()))
                late = asking.is_alive()
            error = f"no answer within {self._seconds:g} s" if late else self._errors.pop(name, "")
            if not late:
                self._busy.pop(name, None)
            if error:
                kept = self._known.get(name)
                held = f"it keeps {', '.join(kept)}" if kept else "it has no address so far"
                faults.append(f"host name {name} was not resolved: {error}; {held}")
        return {name: self._known.get(name, []) for name in names}

    def _ask(self, name: str) -> None:
        try:
            self._known[name] = self._resolver(name)
        except OSError as fault:
            self._errors[name] = fault.strerror or str(fault)
