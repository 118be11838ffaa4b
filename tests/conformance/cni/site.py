"""The node on which a plugin runs: namespaces of its own, with an uplink to a namespace `outside`.

    outside 192.0.2.1, 2001:db8:ff::1 ---- 192.0.2.2, 2001:db8:ff::2 node ---- what the plugin makes ---- pods

Plugins write to fixed places (/run, /var/lib/cni), so the node has mounts of its own: an empty /run, an overlay over
/var/lib and a /sys that shows its links. The machine sees neither links nor files. Its sockets in /run are out of
reach as well: a plugin that needs a daemon of the machine cannot be tested like this.
"""

import fcntl
import json
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.lab import witness
from tests.lab.netns import Named, Namespace

NODE4, OUTSIDE4 = "192.0.2.2", "192.0.2.1"
NODE6, OUTSIDE6 = "2001:db8:ff::2", "2001:db8:ff::1"
UPLINK = "uplink"

_MOUNTS = """
set -e
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/.suite /run/netns
mount -t tmpfs tmpfs /run/.suite
mkdir /run/.suite/written /run/.suite/work
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/.suite/written,workdir=/run/.suite/work overlay /var/lib
# What the machine's own network plugins keep there is no business of this node.
rm -rf /var/lib/cni
"""
_UPLINK = f"""
link add {UPLINK} type veth peer name node netns %d
link set {UPLINK} addrgenmode none
address add {NODE4}/24 dev {UPLINK}
address add {NODE6}/64 dev {UPLINK} nodad
link set {UPLINK} up
"""
_OUTSIDE = f"""
link set node addrgenmode none
address add {OUTSIDE4}/24 dev node
address add {OUTSIDE6}/64 dev node nodad
link set node up
"""
_DEFAULT = f"""
route add default via {OUTSIDE4}
route add default via {OUTSIDE6}
"""

# What the kernel itself adds some time later: link-local addresses, and the routes of addresses that it has probed for.
_OF_THE_KERNEL = re.compile(r"\b(?:fe80|ff00)::|^type (?:local|anycast|multicast|broadcast) ")


class Site:
    """A node without pods. `boot_id` replaces the machine's, so that a reboot can be played."""

    def __init__(self, stack: ExitStack, boot_id: Path | None = None) -> None:
        self.stack = stack
        self.space = stack.enter_context(Namespace(mounts=True))
        self.outside = stack.enter_context(Namespace())
        self.space.run(["sh", "-c", _MOUNTS])
        self.space.run(["ip", "-batch", "-"], input=_UPLINK % self.outside.pid)
        self.outside.run(["ip", "-batch", "-"], input=_OUTSIDE)
        self.space.run(["ip", "-batch", "-"], input=_DEFAULT)
        if boot_id is not None:
            self.space.run(["mount", "--bind", boot_id, "/proc/sys/kernel/random/boot_id"])
        self._pods = 0

    def pods(self, count: int) -> list[Named]:
        """Fresh pods: network namespaces with a name in /run/netns, everything in them down."""
        first, self._pods = self._pods, self._pods + count
        made = Named.make(self.space, [f"cni-{number:04}" for number in range(first, first + count)])
        for pod in made:
            self.stack.callback(pod.close)
        return made

    def pod(self) -> Named:
        """One fresh pod."""
        return self.pods(1)[0]

    def path(self, inside: str) -> Path:
        """A file of the node, as this process reaches it."""
        return Path(f"/proc/{self.space.pid}/root{inside}")

    def links(self) -> dict[str, dict[str, Any]]:
        """Links of the node by name, without its own two."""
        return {name: link for name, link in links(self.space).items() if name not in ("lo", UPLINK)}

    def holdings(self, folder: str = "", kept: Sequence[str] = ()) -> witness.Snapshot:
        """Everything on the node that an attachment may hold: kernel objects, named namespaces apart, and files."""
        kinds = {
            kind: frozenset(line for line in lines if not _OF_THE_KERNEL.search(line))
            for kind, lines in witness.network(lambda argv: self.space.run(argv, check=False).stdout).items()
        }
        kinds["file"] = frozenset(self.files(folder, kept))
        return witness.Snapshot(kinds)

    def files(self, folder: str, kept: Sequence[str] = ()) -> list[str]:
        """Files below a folder of the node, relative to it, without those that match a pattern of `kept`."""
        root = self.path(folder)
        if not folder or not root.is_dir():
            return []
        found = []
        for place, _, names in os.walk(root):
            for name in names:
                relative = Path(place, name).relative_to(root)
                if not any(relative.match(pattern) for pattern in kept):
                    found.append(str(relative))
        return sorted(found)

    def locks_below(self, folder: str, patterns: Sequence[str]) -> "list[HeldLock]":
        """Take every lock of these files, in both ways that programs lock whole files with."""
        return [
            HeldLock(self.path(folder) / name)
            for name in self.files(folder)
            if any(Path(name).match(pattern) for pattern in patterns)
        ]


class HeldLock:
    """flock(2) and an open file description lock of all bytes, until `release()`."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDWR)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        # F_OFD_SETLK of an exclusive lock over the whole file; struct flock of 64-bit Linux.
        request = b"\x01\x00" + b"\0" * 30
        fcntl.fcntl(self._descriptor, 37, request)

    def release(self) -> None:
        """Give both back."""
        os.close(self._descriptor)


def links(place: Any) -> dict[str, dict[str, Any]]:
    """Links by name: `ip -d -j link`, with the addresses of `ip address`."""
    listed = json.loads(place.run(["ip", "-d", "-j", "address", "show"]).stdout or "[]")
    return {link["ifname"]: link for link in listed if link}


def shape(place: Any) -> dict[str, tuple[bool, str, int, list[str]]]:
    """Links by name: whether up, hardware address, MTU, addresses; without what the kernel changes by itself."""
    return {
        name: ("UP" in link["flags"], link.get("address", ""), link["mtu"], addresses(link))
        for name, link in links(place).items()
    }


def addresses(link: dict[str, Any]) -> list[str]:
    """Addresses with prefix lengths of one of these links; no link-local ones."""
    return [f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"] if each.get("scope") != "link"]


def addresses_inside(result: dict[str, Any]) -> set[str]:
    """Addresses of a result, from 0.3.0 on, that belong to the pod; SPEC.md section 5: others may be in it as well."""
    ends = result["interfaces"]
    return {entry["address"] for entry in result["ips"] if ends[entry["interface"]].get("sandbox")}


def routes(place: Any, family: int = 4, table: str = "main") -> list[dict[str, Any]]:
    """Routes of one family."""
    done = place.run(["ip", "-d", "-j", f"-{family}", "route", "show", "table", table], check=False)
    return [route for route in json.loads(done.stdout or "[]") if route]
