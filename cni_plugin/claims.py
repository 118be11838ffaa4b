"""Who holds which address and hostPort on this node: records, claims and locks, as files.

    STATE_DIR/BOOT_ID-COOKIE/       the node's own network namespace, in this boot
        lock                        one file, byte ranges of which are locked; never removed
        pending/LEASE               an attachment whose ADD has not finished (or was killed)
        attachments/LEASE           a finished one
        deleting/LEASE              one whose DEL has begun
        addresses/10.244.0.5        a claim: a hard link to its holder's record
        ports/tcp-8080-0.0.0.0      a claim of a hostPort, likewise
        cooling/10.244.0.5          a symbolic link whose target is the boot time (ms) of the release
        cursors/FIRST-LAST          the address handed out last
        networks/NAME               what the network's configuration last asked of the nft table

A record is written once and never changed: its state is the folder it is in, moved by rename(2), and a claim
made by link(2) appears with its whole content or not at all. Everything describes kernel objects and dies with
them, so nothing is fsynced: after a power cut the boot id is another one.
"""

import errno
import posix
import time

from cni_plugin import ipam
from cni_plugin.attachment import Attachment, HostPort, lease_id, lease_number, parse
from cni_plugin.locks import Lock
from cni_plugin.spec import (
    HOST_PORT_CLAIMED,
    POOL_EXHAUSTED,
    STATE_FAILURE,
    CniError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATES = ("attachments", "pending", "deleting")
_FOLDERS = (*STATES, "addresses", "ports", "cooling", "cursors", "networks")

# A byte of the lock file for the node, and one for each possible lease: bytes that do not exist can be locked too.
_HOST = 0
# Below the size from which malloc maps and unmaps; a record is smaller.
_CHUNK = 1 << 16
_CLOCK_BOOTTIME = 7


def boot_time() -> float:
    """Seconds since boot, suspend included; no clock change moves it."""
    return time.clock_gettime(_CLOCK_BOOTTIME)


def node_folder(state_dir: str, cookie: int) -> str:
    """The folder of the node namespace with this cookie, in this boot."""
    return f"{state_dir}/{_read('/proc/sys/kernel/random/boot_id').decode().strip()}-{cookie}"


def exists(state_dir: str, cookie: int) -> bool:
    """Whether this node has claims at all; lets DEL, GC and CHECK leave no folder where ADD never was."""
    return posix.access(f"{node_folder(state_dir, cookie)}/lock", posix.F_OK)


def _read(path: str) -> bytes:
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    try:
        data = posix.read(descriptor, _CHUNK)
        while len(data) % _CHUNK == 0 and (more := posix.read(descriptor, _CHUNK)):
            data += more
    finally:
        posix.close(descriptor)
    return data


def _write(path: str, data: bytes) -> None:
    # A short write (a full disk) must not pass for a whole file.
    descriptor = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o600)
    try:
        if posix.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, posix.strerror(errno.ENOSPC), path)
    finally:
        posix.close(descriptor)


def _unlink(path: str) -> None:
    try:
        posix.unlink(path)
    except FileNotFoundError:
        pass


class Ledger:
    """The claims of one node. Every OSError of the state folder surfaces as CniError 104."""

    def __init__(self, state_dir: str, cookie: int) -> None:
        """Opens the node's folder, and makes it where it is missing."""
        self.state_dir = state_dir
        self.path = node_folder(state_dir, cookie)
        self.lock_path = f"{self.path}/lock"
        flags = posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC
        try:
            try:
                self.descriptor = posix.open(self.lock_path, flags, 0o600)
            except FileNotFoundError:
                self._make()
                self.descriptor = posix.open(self.lock_path, flags, 0o600)
        except OSError as fault:
            raise self.failure(fault) from None

    def _make(self) -> None:
        parts = self.path.split("/")
        for depth in range(2, len(parts) + 1):
            _mkdir("/".join(parts[:depth]))
        for folder in _FOLDERS:
            _mkdir(f"{self.path}/{folder}")
        self._forget_other_boots()

    def _forget_other_boots(self) -> None:
        boot = self.path.rpartition("/")[2][:36]
        for name in posix.listdir(self.state_dir):
            shaped = len(name) > 37 and name[36] == "-" and name[37:].isdigit() and name.count("-") == 5
            if shaped and name[:36] != boot:
                _remove_tree(f"{self.state_dir}/{name}")

    def failure(self, fault: OSError) -> CniError:
        """A state folder's OSError as the error of the call."""
        return CniError(
            STATE_FAILURE,
            f"state folder {self.path}: {fault}",
            f"{self.state_dir} must be a writable folder with free space (key stateDir)",
        )

    def attachment_lock(self, container_id: str, ifname: str) -> Lock:
        """The lock of this attachment alone, held by ADD, DEL and GC for the whole verb."""
        position = 1 + (lease_number(container_id, ifname) >> 2)  # an off_t has 63 bits
        return Lock(self.descriptor, position, f"attachment {container_id}/{ifname}", self.lock_path)

    def host_lock(self) -> Lock:
        """The lock of the node's claims, held for microseconds around each claim and release."""
        return Lock(self.descriptor, _HOST, "the node's claims", self.lock_path)

    def find(self, container_id: str, ifname: str) -> "tuple[str, Attachment] | None":
        """The state and record of an attachment, or None. A record that cannot be read is CniError 104."""
        lease = lease_id(container_id, ifname)
        for state in STATES:
            found = self._load(state, lease)
            if found is not None:
                return state, found
        return None

    def _load(self, state: str, lease: str) -> "Attachment | None":
        path = f"{self.path}/{state}/{lease}"
        try:
            return parse(_read(path))
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise self.failure(fault) from None
        except ValueError as fault:
            raise CniError(
                STATE_FAILURE,
                f"record {path} cannot be read: {fault}",
                "move the file away once its pod is gone",
            ) from None

    def records(self, *states: str) -> "Iterator[Attachment]":
        """All readable records in these states; one that goes meanwhile, or is garbage, is passed over."""
        for state in states:
            try:
                names = posix.listdir(f"{self.path}/{state}")
            except OSError as fault:
                raise self.failure(fault) from None
            for name in names:
                if name.startswith("."):
                    continue
                try:
                    found = self._load(state, name)
                except CniError:
                    continue
                if found is not None:
                    yield found

    def reserve(
        self,
        attachment: Attachment,
        range_set: "ipam.RangeSet",
        cooldown: float,
        is_foreign: "Callable[[bytes], bool]",
    ) -> None:
        """Choose an address, fill it into `attachment`, write its pending record and make its claims.

        `is_foreign` tells whether the node knows an address as somebody else's (a route, an own address).
        Raises CniError 100 (pool), 109 (hostPort), 11 (lock), 104 (state); then nothing is left behind.
        """
        with self.host_lock():
            try:
                for port in attachment.host_ports:
                    self._check_port(port)
                attachment.address = self._choose(range_set, cooldown, is_foreign)
                self._claim(attachment)
            except OSError as fault:
                try:
                    self._unclaim(attachment)
                except OSError:
                    pass  # the folder lets nothing be removed either; the first failure tells why
                raise self.failure(fault) from None
            try:
                _write(f"{self.path}/cursors/{range_set.name()}", attachment.address)
            except OSError:
                pass  # a hint only: the next ADD begins elsewhere

    def _claim(self, attachment: Attachment) -> None:
        draft, record = f"{self.path}/pending/.{attachment.lease}", f"{self.path}/pending/{attachment.lease}"
        _write(draft, attachment.text().encode())
        posix.rename(draft, record)
        address = ipam.format_address(attachment.address)
        posix.link(record, f"{self.path}/addresses/{address}")
        for port in attachment.host_ports:
            posix.link(record, f"{self.path}/ports/{_port_name(port)}")
        _unlink(f"{self.path}/cooling/{address}")

    def _choose(self, range_set: "ipam.RangeSet", cooldown: float, is_foreign: "Callable[[bytes], bool]") -> bytes:
        now = boot_time()
        held = foreign = 0
        cooling: list[tuple[float, bytes]] = []
        for address in range_set.candidates(self._cursor(range_set)):
            text = ipam.format_address(address)
            if posix.access(f"{self.path}/addresses/{text}", posix.F_OK):
                held += 1
                continue
            released = self._released(text)
            if released is not None and now - released < cooldown:
                cooling.append((released, address))
                continue
            if is_foreign(address):
                foreign += 1
                continue
            return address
        for _, address in sorted(cooling):
            if not is_foreign(address):
                return address  # the pool is tight: the one released longest ago
        raise CniError(
            POOL_EXHAUSTED,
            f"no IP addresses available in range set: {range_set}: {range_set.size()} usable, {held} held, "
            f"{foreign} known to the node as somebody else's, {len(cooling)} cooling",
            f"`grep -H . {self.path}/addresses/*` shows the holders; delete pods or add a range",
        )

    def _cursor(self, range_set: "ipam.RangeSet") -> "bytes | None":
        try:
            data = _read(f"{self.path}/cursors/{range_set.name()}")
        except OSError:
            return None
        return data if len(data) == 4 else None

    def _released(self, address: str) -> "float | None":
        try:
            return int(posix.readlink(f"{self.path}/cooling/{address}")) / 1000
        except (OSError, ValueError):
            return None

    def _check_port(self, port: HostPort) -> None:
        # A wildcard and a single address clash, though they live in two nft maps that would take both.
        prefix = f"{port.protocol}-{port.host_port}-"
        if any(port.host):
            names = [_port_name(port), f"{prefix}0.0.0.0"]
            taken = [name for name in names if posix.access(f"{self.path}/ports/{name}", posix.F_OK)]
        else:
            taken = [name for name in posix.listdir(f"{self.path}/ports") if name.startswith(prefix)]
        if not taken:
            return
        try:
            holder = parse(_read(f"{self.path}/ports/{taken[0]}"))
            who = f"{holder.pod or holder.container_id} ({ipam.format_address(holder.address)})"
        except (OSError, ValueError):
            who = "an attachment without a readable record"
        raise CniError(
            HOST_PORT_CLAIMED,
            f"hostPort {port} is held by {who}",
            "choose another hostPort or hostIP, or delete that pod",
        )

    def complete(self, attachment: Attachment) -> None:
        """ADD is done: the record leaves `pending`."""
        self._move(attachment, "pending", "attachments")

    def begin_delete(self, attachment: Attachment, state: str) -> None:
        """From here on nobody rebuilds this attachment's nft elements."""
        if state != "deleting":
            with self.host_lock():
                self._move(attachment, state, "deleting")

    def _move(self, attachment: Attachment, source: str, target: str) -> None:
        try:
            posix.rename(f"{self.path}/{source}/{attachment.lease}", f"{self.path}/{target}/{attachment.lease}")
        except OSError as fault:
            raise self.failure(fault) from None

    def release(self, attachment: Attachment) -> None:
        """Give everything back that this attachment, and nobody else, holds; the address begins to cool."""
        with self.host_lock():
            try:
                self._unclaim(attachment)
            except OSError as fault:
                raise self.failure(fault) from None

    def _unclaim(self, attachment: Attachment) -> None:
        if attachment.address and self._owns(attachment, f"addresses/{ipam.format_address(attachment.address)}"):
            address = ipam.format_address(attachment.address)
            mark = f"{self.path}/cooling/{address}"
            _unlink(mark)
            try:
                posix.symlink(str(int(boot_time() * 1000)), mark)
            except OSError:
                pass  # a full or read-only folder must not keep an address from being freed
            _unlink(f"{self.path}/addresses/{address}")
        for port in attachment.host_ports:
            if self._owns(attachment, f"ports/{_port_name(port)}"):
                _unlink(f"{self.path}/ports/{_port_name(port)}")
        for state in STATES:
            _unlink(f"{self.path}/{state}/{attachment.lease}")
        _unlink(f"{self.path}/pending/.{attachment.lease}")

    def _owns(self, attachment: Attachment, claim: str) -> bool:
        try:
            holder = parse(_read(f"{self.path}/{claim}"))
        except (FileNotFoundError, ValueError):
            return False
        return (holder.container_id, holder.ifname) == (attachment.container_id, attachment.ifname)

    def missing_claims(self, attachment: Attachment) -> "list[str]":
        """The claims that this attachment should hold and does not, as `addresses/...` and `ports/...`."""
        claims = [f"addresses/{ipam.format_address(attachment.address)}"]
        claims += [f"ports/{_port_name(port)}" for port in attachment.host_ports]
        return [claim for claim in claims if not self._owns(attachment, claim)]

    def network_settings(self) -> "dict[str, str]":
        """What each network last asked of the nft table: name to text."""
        settings = {}
        try:
            names = posix.listdir(f"{self.path}/networks")
        except OSError as fault:
            raise self.failure(fault) from None
        for name in names:
            try:
                settings[name] = _read(f"{self.path}/networks/{name}").decode(errors="replace")
            except OSError:
                continue
        return settings

    def network_setting(self, name: str) -> "str | None":
        """What this network last asked of the nft table, or None."""
        try:
            return _read(f"{self.path}/networks/{name}").decode(errors="replace")
        except OSError:
            return None

    def set_network_setting(self, name: str, text: str) -> None:
        """Remember what this network asks of the nft table; the caller holds the host lock."""
        try:
            _write(f"{self.path}/networks/.{name}", text.encode())
            posix.rename(f"{self.path}/networks/.{name}", f"{self.path}/networks/{name}")
        except OSError as fault:
            raise self.failure(fault) from None


def _port_name(port: HostPort) -> str:
    return f"{port.protocol}-{port.host_port}-{ipam.format_address(port.host)}"


def _mkdir(path: str) -> None:
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        pass


def _remove_tree(path: str) -> None:
    try:
        if posix.lstat(path).st_mode & 0o170000 != 0o040000:
            _unlink(path)
            return
        for name in posix.listdir(path):
            _remove_tree(f"{path}/{name}")
        posix.rmdir(path)
    except OSError:
        pass  # another call may be doing the same
