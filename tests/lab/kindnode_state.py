"""What a kind-like node holds, file by file and object by object, so that before and after can be compared.

Everything is read from outside: taking a snapshot runs nothing in the node but `systemctl`.
"""

import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.lab import witness
from tests.lab.kindnode import Node
from tests.lab.witness import Snapshot

# /root and /usr/local are where commands are linked to; the rest is what an installation may touch.
FOLDERS = ("/etc", "/opt", "/root", "/usr/local", "/var/lib", "/var/spool")
# What belongs to the runtime and to systemd changes with every pod and every minute.
VOLATILE = ("/var/lib/containerd", "/var/lib/systemd", "/var/lib/dbus", "/var/lib/dpkg", "/var/lib/cni")
_RUN = ("/run/podwire", "/run/podwire-install", "/run/systemd/system")


def of_node(node: Node) -> Snapshot:
    """Files, kernel objects, units and mounts of a node."""
    process = node.proc
    enter = ["nsenter", f"--net={process}/ns/net"]

    def run(argv: list[str]) -> str:
        return subprocess.run([*enter, *argv], capture_output=True, text=True, timeout=20, check=True).stdout

    root = process / "root"
    return Snapshot(
        {
            **witness.network(run),
            "nft table": frozenset(run(["nft", "list", "tables"]).splitlines()),
            "file": frozenset(_files(root)),
            "cni result": frozenset(_cached_results(root)),
            "unit": frozenset(_units(node)),
            "mount": frozenset(_mounts(process)),
            "program": frozenset(_programs(node, process)),
            "sysctl": frozenset(_sysctls(node)),
        }
    )


def _files(root: Path) -> Iterator[str]:
    for folder in (*FOLDERS, *_RUN):
        yield from _below(root, folder)


def _below(root: Path, place: str) -> Iterator[str]:
    if place in VOLATILE:
        return
    path = root / place.lstrip("/")
    try:
        entry = path.lstat()
    except FileNotFoundError:
        return
    owner = f"{stat.filemode(entry.st_mode)} {entry.st_uid}:{entry.st_gid}"
    if stat.S_ISLNK(entry.st_mode):
        yield f"{place} -> {os.readlink(path)}"
    elif stat.S_ISREG(entry.st_mode):
        yield f"{place} {owner} {entry.st_size} bytes, {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    else:
        yield f"{place} {owner}"
    if stat.S_ISDIR(entry.st_mode):
        for name in sorted(os.listdir(path)):
            yield from _below(root, f"{place}/{name}")


def _cached_results(root: Path) -> Iterator[str]:
    """Files only: the folders are the runtime's and stay when the last pod has gone."""
    for folder, _, names in os.walk(root / "var/lib/cni"):
        for name in names:
            yield f"/{Path(folder, name).relative_to(root)}"


def _units(node: Node) -> Iterator[str]:
    listed = node.sh("systemctl list-units --all --plain --no-legend --type=service,timer,socket,path --output=json")
    for unit in json.loads(listed):
        # systemd forgets a finished one when it likes to.
        if unit["load"] == "loaded" and unit["active"] != "inactive":
            yield f"{unit['unit']} {unit['active']}"


def _mounts(process: Path) -> Iterator[str]:
    for line in (process / "mounts").read_text().splitlines():
        device, place, kind = line.split()[:3]
        # A socket that was called once leaves credentials; binfmt is mounted when somebody looks.
        if not place.startswith(("/run/credentials/", "/proc/sys/fs/binfmt_misc")):
            yield f"{device if kind != 'overlay' else 'overlay'} on {place} type {kind}"


def _programs(node: Node, process: Path) -> Iterator[str]:
    """The node's processes by their program; those of the payload run from /opt."""
    for entry in (process / "root/proc").iterdir():
        if entry.name.isdigit():
            try:
                program = os.readlink(entry / "exe")
            except OSError:
                continue
            if "/opt/" in program or program.endswith(("/pause", "/busybox", "containerd-shim-runc-v2")):
                yield f"{program} ({entry.name})"


def _sysctls(node: Node) -> Iterator[str]:
    names = "net.ipv4.ip_forward net.ipv4.conf.all.rp_filter net.ipv6.conf.all.forwarding net.ipv6.conf.eth0.accept_ra"
    yield from node.sh(
        f'for name in {names}; do echo "$name=$(cat /proc/sys/$(echo $name | tr . /))"; done'
    ).splitlines()
