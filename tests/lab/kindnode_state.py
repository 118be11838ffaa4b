"""What a kind-like node holds, file by file and object by object, so that before and after can be compared.

Most is read from outside: taking a snapshot runs nothing in the node but `systemctl` and `nft`. What a start of the
node gives anew (its addresses, its machine-id, the ports of the engine's name server) is left out.
"""

import hashlib
import json
import os
import re
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
_ANEW = ("/etc/hosts", "/etc/machine-id", "/etc/resolv.conf")
_RUN = ("/run/podwire", "/run/podwire-install", "/run/systemd/system")


def of_node(node: Node) -> Snapshot:
    """Files, kernel objects, units and mounts of a node."""
    process = node.proc
    enter = ["nsenter", f"--net={process}/ns/net"]

    def run(argv: list[str]) -> str:
        if argv[0] == "nft":
            # The node's own: an older one cannot read what a newer one made.
            return node.exec(*argv).stdout
        return subprocess.run([*enter, *argv], capture_output=True, text=True, timeout=20, check=True).stdout

    root = process / "root"
    network = witness.network(run)
    network["nft"] = frozenset(line for line in network["nft"] if "DOCKER_" not in line)
    for kind in ("address", "route"):
        network[kind] = frozenset(_without_own(network[kind], run(["ip", "-j", "address", "show", "dev", "eth0"])))
    return Snapshot(
        {
            **network,
            "nft table": frozenset(run(["nft", "list", "tables"]).splitlines()),
            "file": frozenset(_files(root)),
            "cni result": frozenset(_cached_results(root)),
            "unit": frozenset(_units(node)),
            "mount": frozenset(_mounts(process)),
            "program": frozenset(_programs(node, process)),
            "sysctl": frozenset(_sysctls(node)),
        }
    )


def _without_own(lines: frozenset[str], said: str) -> Iterator[str]:
    own = [each["local"] for each in json.loads(said)[0]["addr_info"]]
    for line in lines:
        if not any(re.search(rf"(^| ){re.escape(address)}[/ ]", line) for address in own):
            yield line


def _files(root: Path) -> Iterator[str]:
    for folder in (*FOLDERS, *_RUN):
        yield from _below(root, folder)


def _below(root: Path, place: str) -> Iterator[str]:
    if place in VOLATILE or place in _ANEW:
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
    """Ours, those that an installation restarts, and what failed; of the others systemd forgets what has ended."""
    listed = node.sh("systemctl list-units --all --type=service,timer,socket,path --output=json")
    for unit in json.loads(listed):
        if unit["unit"].startswith(("podwire", "kubelet", "containerd")) or unit["active"] == "failed":
            yield f"{unit['unit']} {unit['load']} {unit['active']}"


def _mounts(process: Path) -> Iterator[str]:
    for line in (process / "mounts").read_text().splitlines():
        device, place, kind = line.split()[:3]
        # A socket that was called once leaves credentials; binfmt is mounted when somebody looks; `ip netns` makes its
        # folder a mount at its first use and leaves it so.
        if not place.startswith(("/run/credentials/", "/proc/sys/fs/binfmt_misc", "/run/netns")):
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
