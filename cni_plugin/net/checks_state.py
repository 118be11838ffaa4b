"""Checks of what podwire itself keeps: the nft table, the state folder, the pools, and what belongs to nobody."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cni_plugin import nftables, nfttable
from cni_plugin.net import conflists, kernel
from cni_plugin.net.audit import audit
from cni_plugin.net.findings import ERROR, WARNING
from cni_plugin.net.node import Node
from cni_plugin.net.registry import Complaint, check

_REBUILD = f"nft delete table inet {nftables.TABLE}  # the next ADD makes it again, with the elements of every pod"
_FULL = 0.9
# File systems without link(2), or whose locks and links depend on a server.
_UNFIT = {"nfs", "nfs4", "cifs", "smb3", "9p", "vfat", "exfat", "ceph", "glusterfs"}
_LITTLE_BYTES, _FEW_INODES = 1 << 20, 256


@check("table", "the nft table: missing, or lacking chains, rules or pods' elements")
def table(node: Node) -> Iterator[Complaint]:
    if not node.needs_table or kernel.nft_program() is None:
        return
    listed = kernel.table()
    if listed is None:
        what = f"the nft table inet {nftables.TABLE} is missing: no masquerade, no hostPorts"
        yield ERROR, what, "start any pod: the next ADD makes it, with the elements of every pod"
        return
    script = nfttable.table_script([], [])
    table_name = re.escape(nftables.TABLE)
    there = {(kind, entry[kind]["name"]) for entry in listed for kind in ("chain", "set", "map") if kind in entry}
    for kind, name in re.findall(rf"^add (chain|set|map) inet {table_name} (\S+)", script, re.MULTILINE):
        if (kind, name) not in there:
            yield ERROR, f"{kind} {name} of the nft table inet {nftables.TABLE} is missing", _REBUILD
    wanted = Counter(re.findall(rf"^add rule inet {table_name} (\S+)", script, re.MULTILINE))
    found = Counter(entry["rule"]["chain"] for entry in listed if "rule" in entry)
    for chain, count in wanted.items():
        if found[chain] != count and ("chain", chain) in there:
            what = f"chain {chain} of inet {nftables.TABLE} has {found[chain]} rules, podwire made {count}"
            yield ERROR, what, _REBUILD
    held = {(each.set, each.key, each.comment) for each in kernel.elements(listed)}
    for record in node.state.records:
        missing = [
            f"{each.set} {{ {each.text} }}"
            for each in record.attachment.elements()
            if record.state == "attachments" and (each.set, each.text.partition(" : ")[0], each.comment) not in held
        ]
        if missing:
            yield ERROR, f"{record.owner}: nft elements are missing: {', '.join(missing)}", _REBUILD


@check("state-folder", "the state folder's file system, space, owner and mode")
def state_folder(node: Node) -> Iterator[Complaint]:
    folder = node.state_dir
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        yield ERROR, f"{there} is no folder, and the state lies in {folder}", f"mv {there} {there}.aside"
        return
    space = os.statvfs(there)
    if space.f_flag & os.ST_RDONLY or not os.access(there, os.W_OK | os.X_OK):
        yield (
            ERROR,
            f"the state folder {folder} cannot be written: no pod can start or end",
            f"mount -o remount,rw {_mount_of(there)[0]}",
        )
    # f_blocks is 0 where a file system does not count (a tmpfs without a limit).
    elif space.f_blocks and space.f_bavail * space.f_frsize < _LITTLE_BYTES:
        what = f"the file system of {folder} has {space.f_bavail * space.f_frsize >> 10} KiB left"
        yield ERROR, what, f"du -xsh {_mount_of(there)[0]}/* and make room"
    elif space.f_files and space.f_favail < _FEW_INODES:
        yield (
            ERROR,
            f"the file system of {folder} has {space.f_favail} inodes left",
            f"du -xs --inodes {_mount_of(there)[0]}/*",
        )
    place, kind = _mount_of(there)
    if kind in _UNFIT or kind.startswith("fuse"):
        what = f"{folder} lies on {kind} ({place}), which cannot be trusted with links and locks"
        yield ERROR, what, "point stateDir to a local file system, as /run/podwire"
    if folder.exists():
        yield from _owner(folder)
        if node.state.folder.exists():
            yield from _owner(node.state.folder)


def _owner(folder: Path) -> Iterator[Complaint]:
    status = folder.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode):
        yield WARNING, f"{folder} is no folder itself", f"ls -ld {folder}"
    elif status.st_uid != 0:
        yield (
            WARNING,
            f"{folder} belongs to uid {status.st_uid}: it could give any pod's address away",
            f"chown root {folder}",
        )
    elif mode & 0o022:
        yield WARNING, f"{folder} has mode {mode:04o}: others than root may write claims", f"chmod go-w {folder}"


def _mount_of(path: Path) -> tuple[str, str]:
    """The mount point and file system type that `path` lies on."""
    best = ("/", "")
    real = path.resolve()
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        _, place, kind, *_ = line.split(" ")
        # A later mount on the same place lies over the earlier.
        if real.is_relative_to(place) and len(place) >= len(best[0]):
            best = (place, kind)
    return best


@check("pool", "range sets of which more than 90 % is taken")
def pool(node: Node) -> Iterator[Complaint]:
    for each in conflists.pools(node.networks, node.state, set()):
        words = f"network {each.network}, {each.ranges}: {each.used} held, {each.foreign} foreign, of {each.size}"
        if each.free == 0:
            yield ERROR, f"the pool is exhausted: {words}", "delete pods, add a range, or see: podwire-net audit"
        elif each.pressure > _FULL:
            yield (
                WARNING,
                f"the pool is nearly full: {words}; {each.free} free",
                "add a range, or see: podwire-net leases",
            )


@check("leaks", "what belongs to no live pod, as `podwire-net audit` finds it")
def leaks(node: Node) -> Iterator[Complaint]:
    found = audit(node.state_dir)
    if found:
        worst = ERROR if any(each.severity == ERROR for each in found) else WARNING
        what = f"podwire-net audit finds {len(found)}; the first: {found[0].what}"
        yield worst, what, "podwire-net gc --yes  # podwire-net gc tells what it would remove"
