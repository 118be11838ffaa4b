"""Addresses that other plugins' pods hold on this node, as libcni and host-local left them on disk.

    /var/lib/cni/results/NET-CONTAINER-IFNAME   libcni's cache: JSON of kind cniCacheV1, removed after DEL
    /var/lib/cni/networks/NET/ADDRESS           host-local: the container's id, CR LF, the interface's name
    /run/cni-ipam-state/NET/ADDRESS             the same, where kindnet keeps it

Neither is ours, and either may hold leftovers of a crash or an earlier boot, or anything at all: reads are bounded,
what is malformed is passed over, and below these folders no symbolic link is followed.
"""

import posix
import time
from _socket import AF_INET, AF_INET6, inet_pton

from cni_plugin import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

RESULTS = "/var/lib/cni/results"
NETWORKS = ("/var/lib/cni/networks", "/run/cni-ipam-state")

_MOST_FILES = 20_000
_LONGEST_RESULT, _LONGEST_LEASE = 1 << 16, 1 << 12
_READ = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK
_FOLDER = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_DIRECTORY
_FILE_TYPE, _REGULAR = 0o170000, 0o100000
_CLOCK_BOOTTIME = 7


def survey(results: str = RESULTS, networks: "tuple[str, ...]" = NETWORKS) -> "dict[bytes, str]":
    """The addresses (packed) of pods that live, each with the file that will be gone when its pod is.

    A cached result counts while the namespace it names is one; if it names none, when it is of this boot. A file of
    host-local counts if a cached result of the same container does, or without any such result if it is of this
    boot. Where both tell of an address the result is given: libcni removes it whatever DEL did.
    """
    boot = time.time() - time.clock_gettime(_CLOCK_BOOTTIME)
    taken: dict[bytes, str] = {}
    lives: dict[str, bool] = {}
    for path, content, written in _files(results, _LONGEST_RESULT):
        entry = _cache_entry(content)
        if entry is None:
            continue
        container_id = entry["containerId"]
        alive = _is_alive(entry, written >= boot)
        lives[container_id] = lives.get(container_id, False) or alive
        if alive:
            taken |= dict.fromkeys(_result_addresses(entry["result"]), path)
    for base in networks:
        for network in _names(base):
            for path, content, written in _files(f"{base}/{network}", _LONGEST_LEASE, posix.O_NOFOLLOW):
                address = _packed(path.rpartition("/")[2])
                if address and address not in taken and lives.get(_lease_holder(content), written >= boot):
                    taken[address] = path
    return taken


def released_by(links: str, container_id: str) -> "list[str]":
    """The names in the folder `links` whose targets, as `survey` gave them, are files of this container.

    A missing folder, a target that is gone or unreadable, and what is no symbolic link give no name.
    """
    names = []
    for name in _names(links):
        try:
            target = posix.readlink(f"{links}/{name}")
        except OSError:
            continue
        found = _read(target, _LONGEST_RESULT)
        if found is not None and _holder(found[0]) == container_id:
            names.append(name)
    return names


def _holder(content: bytes) -> str:
    entry = _cache_entry(content) if content[:1] == b"{" else None
    return str(entry["containerId"]) if entry else _lease_holder(content)


def _lease_holder(content: bytes) -> str:
    return content.partition(b"\n")[0].strip().decode(errors="replace")


def _names(folder: str) -> "list[str]":
    try:
        return sorted(posix.listdir(folder))[:_MOST_FILES]
    except OSError:
        return []


def _files(folder: str, longest: int, flags: int = 0) -> "Iterator[tuple[str, bytes, float]]":
    """Path, content and time of writing of the regular files in a folder."""
    try:
        descriptor = posix.open(folder, _FOLDER | flags)
    except OSError:
        return
    try:
        for name in sorted(posix.listdir(descriptor))[:_MOST_FILES]:
            read = _read(name, longest, descriptor)
            if read is not None:
                yield f"{folder}/{name}", *read
    finally:
        posix.close(descriptor)


def _read(path: str, longest: int, folder: "int | None" = None) -> "tuple[bytes, float] | None":
    """Content and time of writing of a regular file no longer than `longest`, or None."""
    try:
        descriptor = posix.open(path, _READ, dir_fd=folder)
    except (OSError, ValueError):
        return None
    try:
        state = posix.fstat(descriptor)
        if state.st_mode & _FILE_TYPE != _REGULAR or state.st_size > longest:
            return None
        return posix.read(descriptor, longest), state.st_mtime
    except OSError:
        return None
    finally:
        posix.close(descriptor)


def _cache_entry(content: bytes) -> "dict[str, Any] | None":
    """What libcni keeps of an ADD: containerId (text), result (an object), netns since libcni 1.2; or None."""
    try:
        entry = jsontext.loads(content)
    except ValueError:
        return None
    if not isinstance(entry, dict) or entry.get("kind") != "cniCacheV1":
        return None
    well_formed = isinstance(entry.get("containerId"), str) and isinstance(entry.get("result"), dict)
    return entry if well_formed else None


def _is_alive(entry: "dict[str, Any]", of_this_boot: bool) -> bool:
    paths = [entry.get("netns")] + [each.get("sandbox") for each in _objects(entry["result"].get("interfaces"))]
    named = [path for path in paths if path and isinstance(path, str)]
    return any(map(_is_namespace, named)) if named else of_this_boot


def _is_namespace(path: str) -> bool:
    # All namespaces are on one nsfs; where a mount is gone, an empty file may be left at its place.
    try:
        return posix.stat(path).st_dev == posix.stat("/proc/self/ns/net").st_dev
    except (OSError, ValueError):
        return False


def _result_addresses(result: "dict[str, Any]") -> "list[bytes]":
    """The addresses of a CNI result of any version, without those of loopback interfaces."""
    texts = [each.get("address") for each in _objects(result.get("ips"))]
    texts += [each.get("ip") for each in _objects([result.get("ip4"), result.get("ip6")])]
    packed = [_packed(text.partition("/")[0]) for text in texts if isinstance(text, str)]
    return [address for address in packed if address and address[0] != 127 and any(address[:-1])]


def _objects(value: object) -> "list[dict[str, Any]]":
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _packed(text: str) -> bytes:
    """An address as 4 or 16 bytes; empty for anything else."""
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        return b""
