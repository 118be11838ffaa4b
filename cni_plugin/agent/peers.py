"""Nodes as the agent sees them: a name, addresses, pod subnets. Whatever a source says is checked here.

`Peer` is a node that passed; `Nodes` is a whole list with its age and with what was wrong in it. A list is kept in a
file, so that an agent that starts while its source is away goes on with the last one.
"""

import ipaddress
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni_plugin.agent import settings
from cni_plugin.agent.settings import Address, Network

_SHOWN = 80
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Peer:
    """A node. Addresses are in its own order: the first of a family is the one that counts."""

    name: str
    addresses: tuple[Address, ...]
    pod_cidrs: tuple[Network, ...]

    def address(self, version: int) -> Address | None:
        """Its first address of this IP version."""
        return next((each for each in self.addresses if each.version == version), None)


@dataclass(frozen=True, slots=True)
class Nodes:
    """A list of nodes, by name. `faults` are sentences about what was passed over; `saved`: read from the file."""

    peers: tuple[Peer, ...] = ()
    faults: tuple[str, ...] = ()
    saved: bool = False


def shown(value: object) -> str:
    """A value that somebody else gave, for a message: quoted, without control characters, and not too long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def parse(name: object, addresses: Iterable[object], pod_cidrs: Iterable[object], faults: list[str]) -> Peer | None:
    """The node that these make, or None where the name is none; adds to `faults` what was left out, and why."""
    if not isinstance(name, str) or not settings.is_node_name(name):
        faults.append(f"node {shown(name)} was passed over: its name is no name of a node")
        return None
    found: list[Address] = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(_text(text))
        except ValueError:
            faults.append(f"node {name}: address {shown(text)} was passed over: it is no IP address")
            continue
        if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
            faults.append(f"node {name}: address {address} was passed over: no other node can reach it")
        else:
            found.append(address)
    subnets: list[Network] = []
    for text in pod_cidrs:
        try:
            subnets.append(settings.subnet(_text(text)))
        except ValueError as fault:
            faults.append(f"node {name}: pod CIDR {shown(text)} was passed over: it is no subnet ({_why(fault)})")
    return Peer(name, tuple(dict.fromkeys(found)), tuple(dict.fromkeys(subnets)))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"it is no string but {type(value).__name__}")
    return value


def _why(fault: ValueError) -> str:
    text = str(fault)
    return "host bits are set" if "host bits" in text else "not ADDRESS/PREFIX"


def listed(peers: Iterable[Peer], faults: Iterable[str]) -> Nodes:
    """A list of nodes out of peers in any order; of two with one name the first counts."""
    by_name: dict[str, Peer] = {}
    complaints = list(faults)
    for peer in peers:
        if peer.name in by_name:
            complaints.append(f"node {peer.name} stands in the list twice; its first entry counts")
        else:
            by_name[peer.name] = peer
    return Nodes(tuple(by_name[name] for name in sorted(by_name)), tuple(dict.fromkeys(complaints)))


def save(path: Path, nodes: Nodes) -> None:
    """Keep a list in a file, replaced as a whole. Raises OSError."""
    document = {
        "version": _VERSION,
        "saved": round(time.time()),
        "nodes": [
            {
                "name": peer.name,
                "addresses": [str(each) for each in peer.addresses],
                "pod_cidrs": [str(each) for each in peer.pod_cidrs],
            }
            for peer in nodes.peers
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with open(draft, "w", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as stream:
        json.dump(document, stream, indent=1)
        stream.write("\n")
        stream.flush()
        # Read after a power cut too: without it the rename may come before the content.
        os.fsync(stream.fileno())
    os.replace(draft, path)


def load(path: Path) -> Nodes | None:
    """The list that was kept, or None where there is none that can be read."""
    try:
        document: Any = json.loads(path.read_bytes())
        entries = document["nodes"] if document["version"] == _VERSION else None
        if not isinstance(entries, list):
            return None
        faults: list[str] = []
        found = [parse(each["name"], each["addresses"], each["pod_cidrs"], faults) for each in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    kept = listed([each for each in found if each], faults)
    return Nodes(kept.peers, kept.faults, saved=True)
