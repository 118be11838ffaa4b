"""What the state folder says, read without changing it: the only module here that knows the ledger's layout.

`cni_plugin.claims` explains the folders. Nothing is locked while reading, so that a running ADD or DEL may be seen
half done: `in_progress` tells whether somebody is at work on an attachment.
"""

import errno
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cni_plugin import claims, jsontext, netns, rtnetlink
from cni_plugin.attachment import SCHEMA, Attachment, parse
from cni_plugin.locks import Lock

_LEASE = re.compile(r"\.?(pw[0-9a-v]{13})\Z")
_NODE_FOLDER = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-(\d+)\Z")


@dataclass(frozen=True)
class Record:
    """A readable record: its state (the folder it is in), its file, and the attachment it describes."""

    state: str
    path: Path
    attachment: Attachment

    @property
    def key(self) -> tuple[str, str]:
        """What names the attachment: container id and interface."""
        return self.attachment.container_id, self.attachment.ifname

    @property
    def lease(self) -> str:
        """The name of record and lock."""
        return self.attachment.lease

    @property
    def addresses(self) -> list[str]:
        """The attachment's addresses in text."""
        return self.attachment.texts

    @property
    def claimed(self) -> list[str]:
        """Those that podwire gave: none behind another plugin, which made link and addresses."""
        return self.attachment.own_addresses()

    @property
    def host_ports(self) -> list[str]:
        """Each hostPort as `tcp/0.0.0.0:8080->80`."""
        return [f"{port}->{port.container_port}" for port in self.attachment.host_ports]

    @property
    def owner(self) -> str:
        """The pod where it is known, else the container, for messages."""
        return self.attachment.pod or f"container {self.attachment.container_id[:13]}"


@dataclass(frozen=True)
class Claim:
    """A file of `addresses` or `ports`. `holder` is None when `fault` says why it cannot be read."""

    path: Path
    holder: Attachment | None
    fault: str = ""


@dataclass(frozen=True)
class Unreadable:
    """A file that should be readable and is not. `newer` is a record of a later version of podwire."""

    path: Path
    fault: str
    newer: bool = False

    @property
    def inode(self) -> int:
        """The file's number, 0 when it went."""
        try:
            return self.path.lstat().st_ino
        except OSError:
            return 0

    @property
    def lease(self) -> str:
        """The lease that the file's name is, or empty."""
        matched = _LEASE.match(self.path.name)
        return matched[1] if matched else ""


@dataclass(frozen=True)
class Mark:
    """When an address was released (seconds since boot), and for how many seconds it is kept for its pod."""

    released: float
    kept: int


@dataclass
class State:
    """The whole folder of one node namespace; empty where the plugin was never called."""

    state_dir: Path
    folder: Path
    records: list[Record] = field(default_factory=list)
    addresses: dict[str, Claim] = field(default_factory=dict)
    ports: dict[str, Claim] = field(default_factory=dict)
    cooling: dict[str, Mark] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    networks: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    drafts: list[Path] = field(default_factory=list)
    absent: list[Path] = field(default_factory=list)

    @property
    def exists(self) -> bool:
        """Whether the plugin has ever made a claim here in this boot."""
        return claims.exists(str(self.state_dir), int(self.folder.name.rpartition("-")[2]))

    def by_key(self) -> dict[tuple[str, str], Record]:
        """The records by container id and interface."""
        return {record.key: record for record in self.records}

    def by_lease(self) -> dict[str, Record]:
        """The records by lease id."""
        return {record.lease: record for record in self.records}


def own_cookie() -> int:
    """The cookie of the namespace that this process is in. Raises CniError on kernels without cookies."""
    socket = rtnetlink.Socket()
    try:
        return netns.cookie(socket.raw)
    finally:
        socket.close()


def read(state_dir: Path) -> State:
    """Everything about the node namespace that this process is in. Raises OSError and CniError."""
    state = State(state_dir, Path(claims.node_folder(str(state_dir), own_cookie())))
    for name in claims.STATES:
        for path in _entries(state.folder / name):
            if path.name.startswith("."):
                state.drafts.append(path)
                continue
            holder, fault, newer = _parse(path)
            if holder is not None:
                state.records.append(Record(name, path, holder))
            elif fault:
                state.unreadable.append(Unreadable(path, fault, newer))
    for name, claimed in (("addresses", state.addresses), ("ports", state.ports)):
        for path in _entries(state.folder / name):
            holder, fault, newer = _parse(path)
            if holder is None and not fault:
                continue
            claimed[path.name] = Claim(path, holder, fault)
            if holder is None:
                state.unreadable.append(Unreadable(path, fault, newer))
    _read_marks(state)
    return state


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _parse(path: Path) -> tuple[Attachment | None, str, bool]:
    """A record's attachment, or why there is none; both empty when the file went meanwhile."""
    try:
        # Neither a FIFO nor a link in a place where records lie may make anybody wait or look elsewhere.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None, "", False
    except OSError as fault:
        return None, os.strerror(fault.errno or 0), False
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None, "it is no regular file", False
        raw = file.read(1 << 20)
    try:
        return parse(raw), "", False
    except ValueError as fault:
        return None, str(fault), _is_newer(raw)


def _is_newer(raw: bytes) -> bool:
    try:
        schema = jsontext.loads(raw)["schema"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(schema, int) and schema > SCHEMA


def _read_marks(state: State) -> None:
    for path in _entries(state.folder / "cooling"):
        try:
            words = os.readlink(path).split()
            state.cooling[path.name] = Mark(int(words[0]) / 1000, int(words[1]) if len(words) == 3 else 0)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, IndexError) as fault:
            state.unreadable.append(Unreadable(path, f"no time of release: {fault}"))
    for path in _entries(state.folder / "foreign"):
        # A dangling link: that plugin has let the address go.
        if path.is_symlink() and path.exists():
            state.foreign[path.name] = os.readlink(path)
    # "@peers" is the agent's; drafts begin with a dot.
    named = [path.name for path in _entries(state.folder / "networks")]
    state.networks = [name for name in named if not name.startswith((".", "@"))]
    state.absent = _entries(state.folder / "absent")


def folders_of_other_boots(state_dir: Path) -> list[Path]:
    """Node folders that an earlier boot left."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    matched = [(path, _NODE_FOLDER.match(path.name)) for path in _entries(state_dir)]
    return [path for path, match in matched if match and match[1] != boot and path.is_dir() and not path.is_symlink()]


class LockProbe:
    """Asks whether a call of the plugin is at work on an attachment; never holds a lock longer than the question."""

    def __init__(self, state: State) -> None:
        try:
            self._descriptor: int | None = os.open(state.folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError as fault:
            if fault.errno not in (errno.ENOENT, errno.EROFS, errno.EACCES):
                raise
            self._descriptor = None

    def in_progress(self, lease: str) -> bool:
        """Whether somebody holds the lock of this lease."""
        if self._descriptor is None or not is_lease(lease):
            return False
        lock = lease_lock(self._descriptor, lease, "")
        if not lock.try_acquire():
            return True
        lock.release()
        return False

    def close(self) -> None:
        """Give the file back; twice is fine."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_lease(text: str) -> bool:
    """Whether this is a lease id; a comment of somebody else's need not be."""
    return bool(_LEASE.match(text)) and not text.startswith(".")


def lease_lock(descriptor: int, lease: str, path: str) -> Lock:
    """The lock that `Ledger.attachment_lock` takes, found from the lease alone: the lease is the number in base 32."""
    number = int(lease[2:], 32)
    return Lock(descriptor, 1 + (number >> 2), f"lease {lease}", path)


def try_locks(ledger: claims.Ledger, leases: list[str]) -> list[tuple[str, Lock]]:
    """Those of these leases' locks that are free, taken; the caller releases them."""
    taken = []
    for lease in dict.fromkeys(filter(is_lease, leases)):
        lock = lease_lock(ledger.descriptor, lease, ledger.lock_path)
        if lock.try_acquire():
            taken.append((lease, lock))
    return taken
