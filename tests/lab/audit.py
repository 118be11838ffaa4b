"""An independent reading of what a node holds: pyroute2, nft's own JSON, a walk over files, /proc.

Nothing here knows the plugin's code. `network` and `processes` read the namespace of the calling thread.
"""

import json
import os
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

# What may differ between two times at which nobody is attached.
_PASSING = ("cooling", "cursors")
# The pool's own networks: configuration, made with the table.
_CONFIGURED_SETS = ("nomasq4", "nomasq6")


def network() -> frozenset[str]:
    """Links, addresses, routes of all tables, neighbours, rules and nft objects of this thread's namespace."""
    lines: set[str] = set()
    with IPRoute() as kernel:
        names = {}
        for link in kernel.get_links():
            held = dict(link["attrs"])
            names[link["index"]] = held["IFLA_IFNAME"]
            lines.add(f"link {held['IFLA_IFNAME']}")
        for address in kernel.get_addr():
            held = dict(address["attrs"])
            lines.add(f"address {held['IFA_ADDRESS']}/{address['prefixlen']} {names.get(address['index'])}")
        for route in kernel.get_routes():
            held = dict(route["attrs"])
            place = f"{held.get('RTA_DST', 'default')}/{route['dst_len']}"
            lines.add(f"route {place} {names.get(held.get('RTA_OIF'))} table {held.get('RTA_TABLE')}")
        for neighbour in kernel.get_neighbours():
            held = dict(neighbour["attrs"])
            if neighbour["state"] & 0x80:
                lines.add(f"neighbour {held.get('NDA_DST')} {names.get(neighbour['ifindex'])}")
        for family in (2, 10):
            for rule in kernel.get_rules(family=family):
                held = dict(rule["attrs"])
                lines.add(f"rule {family} {held.get('FRA_PRIORITY')} {held.get('FRA_TABLE')} {held.get('FRA_SRC')}")
    # The kernel gives each link a link-local address by itself, a second or two after it is up.
    lines = {line for line in lines if not line.split()[1].startswith(("fe80::", "ff00::"))}
    return frozenset(lines) | frozenset(_nft())


def _nft() -> Iterator[str]:
    done = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, text=True, check=True, timeout=20)
    for entry in json.loads(done.stdout)["nftables"]:
        for kind, value in entry.items():
            if kind == "metainfo":
                continue
            name = f"nft {value['family']} {value.get('table', '')} {kind} {value.get('name', '')}"
            if kind == "rule":
                yield f"{name} {value['chain']} {json.dumps(_stable(value['expr']))}"
                continue
            yield name
            if value.get("name") not in _CONFIGURED_SETS:
                yield from (f"{name} element {json.dumps(each)}" for each in value.get("elem", []))


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: None if key == "counter" else _stable(each) for key, each in value.items()}
    return [_stable(each) for each in value] if isinstance(value, list) else value


def files(state_dir: Path) -> frozenset[str]:
    """Files and folders below the state folder, without what cools and the hints for the next search."""
    found = set()
    for folder, folders, names in os.walk(state_dir):
        for name in (*folders, *names):
            path = Path(folder, name).relative_to(state_dir)
            if len(path.parts) < 3 or path.parts[1] not in _PASSING:
                found.add(f"file {path}")
    return frozenset(found)


def processes(places: Collection[tuple[int, int]]) -> list[str]:
    """Living processes whose network namespace (device, inode) is among `places`; this process is none of them."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            there = (entry / "ns/net").stat()
            if (there.st_dev, there.st_ino) in places:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                    found.append(f"{entry.name} {command}")
        except OSError:
            continue
    return found


def locks(state_dir: Path) -> list[str]:
    """Lines of /proc/locks about files below the state folder."""
    held = {}
    for path in state_dir.glob("**/*"):
        if path.is_file():
            held[path.stat().st_ino] = path
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [" ".join(line) for line in lines if int(line[-3].rpartition(":")[2]) in held]


def difference(before: Collection[str], after: Collection[str]) -> list[str]:
    """What is new, as `+ ...`, and what is missing, as `- ...`."""
    new, gone = set(after) - set(before), set(before) - set(after)
    return [f"+ {each}" for each in sorted(new)] + [f"- {each}" for each in sorted(gone)]
