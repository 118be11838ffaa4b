"""Who holds which address and hostPort on this node: records, claims and locks, as files.

    STATE_DIR/BOOT_ID-COOKIE/       the node's own network namespace, in this boot
        lock                        one file, byte ranges of which are locked; never removed
        pending/LEASE               an attachment whose ADD has not finished (or was killed)
        attachments/LEASE           a finished one
        deleting/LEASE              one whose DEL has begun
        addresses/10.244.0.5        a claim: a hard link to its holder's record
        ports/tcp-8080-0.0.0.0      a claim of a hostPort, likewise
        cooling/10.244.0.5          a symbolic link: boot time (ms) of the release, then seconds and key if sticky
        sticky/HASH                 a symbolic link: the addresses that the next pod with this key gets
        foreign/10.244.0.9          a symbolic link to the file of another plugin that holds the address
        cursors/FIRST-LAST          the address handed out last
        networks/NAME               what the network's configuration last asked of the nft table; @peers: the agent
        absent/LEASE                a symbolic link: the list that missed this attachment (see `collect`)

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
from cni_plugin.spec import HOST_PORT_CLAIMED, STATE_FAILURE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATES = ("attachments", "pending", "deleting")
FOLDERS = (*STATES, "addresses", "ports", "cooling", "sticky", "foreign", "cursors", "networks", "absent")

# A byte of the lock file for the node, and one for each possible lease: bytes that do not exist can be locked too.
_HOST = 0
# Below the size from which malloc maps and unmaps; a record is smaller.
_CHUNK = 1 << 16
_MOST_BYTES = 1 << 20
_SWEEP_EVERY = 64
_CLOCK_BOOTTIME = 7
_WRITE = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK


def boot_time() -> float:
    """Seconds since boot, suspend included; no clock change moves it."""
    return time.clock_gettime(_CLOCK_BOOTTIME)


def is_sweep_due() -> bool:
    """Whether this release is the one of many that also sweeps: cheap on average, and no folder grows for ever."""
    return int(boot_time() * 1000) % _SWEEP_EVERY == 0


def node_folder(state_dir: str, cookie: int) -> str:
    """The folder of the node namespace with this cookie, in this boot."""
    return f"{state_dir}/{read('/proc/sys/kernel/random/boot_id').decode().strip()}-{cookie}"


def exists(state_dir: str, cookie: int) -> bool:
    """Whether this node has claims at all; lets DEL, GC and CHECK leave no folder where ADD never was."""
    return posix.access(node_folder(state_dir, cookie), posix.F_OK)


def read(path: str) -> bytes:
    """A file's content, of at most a mebibyte. Never follows a link, never waits for a FIFO. Raises OSError."""
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK)
    try:
        data = posix.read(descriptor, _CHUNK)
        while len(data) % _CHUNK == 0 and len(data) < _MOST_BYTES and (more := posix.read(descriptor, _CHUNK)):
            data += more
    finally:
        posix.close(descriptor)
    return data


def write(path: str, data: bytes) -> None:
    """Write a file whole. Raises OSError."""
    # A short write (a full disk) must not pass for a whole file.
    descriptor = posix.open(path, _WRITE, 0o600)
    try:
        if posix.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, posix.strerror(errno.ENOSPC), path)
    finally:
        posix.close(descriptor)


def unlink(path: str) -> None:
    """Remove a file; one that is not there is success. Raises OSError."""
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
        flags = posix.O_RDWR | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK
        try:
            try:
                self.descriptor = posix.open(self.lock_path, flags)
            except FileNotFoundError:
                from cni_plugin import first_run

                first_run.make(state_dir, self.path)
                self.descriptor = posix.open(self.lock_path, flags)
        except OSError as fault:
            raise self.failure(fault) from None

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
            return parse(read(path))
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

    def orphans(self) -> "Iterator[Attachment]":
        """The holders of claims whose record is gone; a claim has its content still."""
        seen = set()
        for folder in ("addresses", "ports"):
            for name in posix.listdir(f"{self.path}/{folder}"):
                try:
                    found = parse(read(f"{self.path}/{folder}/{name}"))
                except (OSError, ValueError):
                    continue
                paths = [f"{self.path}/{state}/{found.lease}" for state in STATES]
                if found.lease not in seen and not any(posix.access(path, posix.F_OK) for path in paths):
                    seen.add(found.lease)
                    yield found

    def reserve(self, attachment: Attachment, choose: "Callable[[], None]") -> None:
        """Let `choose` fill in the addresses, write the pending record and make its claims, all under the node's lock.

        Raises CniError 109 (hostPort), 11 (lock), 104 (state), and what `choose` raises; then nothing is left.
        """
        with self.host_lock():
            try:
                for port in attachment.host_ports:
                    self._check_port(port)
                choose()
                self._claim(attachment)
            except OSError as fault:
                try:
                    self._unclaim(attachment)
                except OSError:
                    pass  # the folder lets nothing be removed either; the first failure tells why
                raise self.failure(fault) from None

    def _claim(self, attachment: Attachment) -> None:
        draft, record = f"{self.path}/pending/.{attachment.lease}", f"{self.path}/pending/{attachment.lease}"
        write(draft, attachment.text().encode())
        posix.rename(draft, record)
        for claim in self.claims_of(attachment):
            posix.link(record, f"{self.path}/{claim}")
        for text in attachment.texts:
            unlink(f"{self.path}/cooling/{text}")

    def claims_of(self, attachment: Attachment) -> "list[str]":
        """The claims that belong to an attachment, as `addresses/...` and `ports/...`."""
        own = attachment.own_addresses()
        return [f"addresses/{text}" for text in own] + [f"ports/{port_name(port)}" for port in attachment.host_ports]

    def _check_port(self, port: HostPort) -> None:
        # A wildcard and a single address clash, though they live in two nft maps that would take both.
        prefix = f"{port.protocol}-{port.host_port}-"
        if any(port.host):
            names = [port_name(port), prefix + ipam.format_address(bytes(len(port.host)))]
            taken = [name for name in names if posix.access(f"{self.path}/ports/{name}", posix.F_OK)]
        else:
            names = [name for name in posix.listdir(f"{self.path}/ports") if name.startswith(prefix)]
            taken = [name for name in names if (":" in name) == (len(port.host) == 16)]
        if not taken:
            return
        try:
            holder = parse(read(f"{self.path}/ports/{taken[0]}"))
            who = f"{holder.pod or holder.container_id} ({', '.join(holder.texts)})"
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

    def forget_draft(self, container_id: str, ifname: str) -> None:
        """Remove what a call left that was killed before its record was one."""
        try:
            unlink(f"{self.path}/pending/.{lease_id(container_id, ifname)}")
        except OSError as fault:
            raise self.failure(fault) from None

    def _unclaim(self, attachment: Attachment) -> None:
        # Addresses last: while one is held, so are (as far as they were not freed) the hostPorts that lead to it.
        for port in attachment.host_ports:
            if self._owns(attachment, f"ports/{port_name(port)}"):
                unlink(f"{self.path}/ports/{port_name(port)}")
        if attachment.sticky:
            self._remember(attachment)
        for text in attachment.own_addresses():
            if self._owns(attachment, f"addresses/{text}"):
                self.begin_to_cool(text, attachment.sticky)
                unlink(f"{self.path}/addresses/{text}")
        for state in STATES:
            unlink(f"{self.path}/{state}/{attachment.lease}")
        unlink(f"{self.path}/pending/.{attachment.lease}")
        unlink(f"{self.path}/absent/{attachment.lease}")

    def trim(self, attachment: Attachment, state: str) -> None:
        """Take out of an attachment what a killed release freed and another has by now.

        What is free is taken back, so that nobody gets it before this attachment's traces are gone.
        """
        if not self.missing_claims(attachment):
            return
        with self.host_lock():
            lost = {claim for claim in self.missing_claims(attachment) if not self._take_back(attachment, state, claim)}
        attachment.host_ports = [port for port in attachment.host_ports if f"ports/{port_name(port)}" not in lost]
        attachment.addresses = [each for each in attachment.addresses if f"addresses/{each}" not in lost]

    def _take_back(self, attachment: Attachment, state: str, claim: str) -> bool:
        path = f"{self.path}/{claim}"
        try:
            parse(read(path))
        except FileNotFoundError:
            try:
                posix.link(f"{self.path}/{state}/{attachment.lease}", path)
            except OSError:
                pass  # a full or read-only folder, or no record: it is free all the same
        except (OSError, ValueError):
            pass  # what stands there is nobody's, and nobody can claim it
        else:
            return False
        return True

    def begin_to_cool(self, text: str, sticky: "tuple[str, int] | None") -> None:
        """Mark an address as released now. Never fails."""
        mark = f"{self.path}/cooling/{text}"
        target = str(int(boot_time() * 1000))
        try:
            unlink(mark)
            posix.symlink(f"{target} {sticky[1]} {sticky_name(sticky[0])}" if sticky else target, mark)
        except OSError:
            pass  # a full or read-only folder must not keep an address from being freed

    def _remember(self, attachment: Attachment) -> None:
        path = f"{self.path}/sticky/{sticky_name(attachment.sticky[0])}" if attachment.sticky else ""
        try:
            if set(attachment.texts) <= set(posix.readlink(path).split(",")):
                return  # told already, by a release that was killed
        except OSError:
            pass
        try:
            unlink(path)
            posix.symlink(",".join(attachment.texts), path)
        except OSError:
            pass  # as above

    def _owns(self, attachment: Attachment, claim: str) -> bool:
        try:
            holder = parse(read(f"{self.path}/{claim}"))
        except (OSError, ValueError):
            return False  # gone, or something else stands there
        return (holder.container_id, holder.ifname) == (attachment.container_id, attachment.ifname)

    def missing_claims(self, attachment: Attachment) -> "list[str]":
        """The claims that this attachment should hold and does not."""
        return [claim for claim in self.claims_of(attachment) if not self._owns(attachment, claim)]


def port_name(port: HostPort) -> str:
    """The file name of a hostPort's claim."""
    return f"{port.protocol}-{port.host_port}-{ipam.format_address(port.host)}"


def sticky_name(key: str) -> str:
    """The file name of a sticky reservation: a hash, since the key holds names of others."""
    return lease_id(key, "")
