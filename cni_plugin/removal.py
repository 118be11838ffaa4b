"""Taking an attachment's kernel objects away: the link, with all that hangs on it, and its nft elements.

RTM_DELLINK unlists a link within a millisecond or two and then waits 20-30 ms for a grace period, as does the
removal of nft elements. DEL lets children wait: the parent answers as soon as link, route and elements are gone.
"""

import _socket
import errno
import fcntl
import posix
import time

from cni_plugin import nftables, rtnetlink
from cni_plugin.attachment import Attachment, alias_of, lease_id
from cni_plugin.claims import Ledger
from cni_plugin.netlink import Refusal
from cni_plugin.spec import KERNEL_REFUSED, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SALTS = 4
_SIOCGIFINDEX = 0x8933
# A link alone is unlisted after a millisecond or two; many at once wait for each other, and must not do it busily.
_POLL_SECONDS, _POLL_LONGEST_SECONDS, _POLL_SHARE = 0.0002, 0.05, 1 / 16
# The kernel takes one link away after the other: 200 pods that end at once wait for each other for many seconds.
_GONE_WITHIN_SECONDS = 60.0


def free_name(host: "rtnetlink.Socket", container_id: str, ifname: str) -> str:
    """A host link name that is not taken: the lease id, or a salted one where a foreign link bears it."""
    for salt in range(_SALTS):
        name = lease_id(container_id, ifname, salt)
        if host.link(name) is None:
            return name
    raise CniError(
        KERNEL_REFUSED,
        f"links named {', '.join(lease_id(container_id, ifname, salt) for salt in range(_SALTS))} exist already",
        "they are not podwire's; remove or rename them",
    )


def find_link(host: "rtnetlink.Socket", container_id: str, ifname: str) -> "rtnetlink.Link | None":
    """The host link of an attachment by name and alias, whether recorded or not; a foreign one is never it."""
    owner = alias_of(container_id, ifname)
    for salt in range(_SALTS):
        link = host.link(lease_id(container_id, ifname, salt))
        if link is None:
            return None
        if (link.alias + " ").startswith(owner + " "):
            return link
        if not link.alias and link.group in (nftables.GROUP_MASQUERADE, nftables.GROUP_PLAIN):
            return link  # ADD was killed between making the link and describing it
    return None


def remove_now(
    host: "rtnetlink.Socket", container_id: str, ifname: str, attachment: "Attachment | None" = None
) -> None:
    """Remove and wait for the kernel: for undoing, clearing leftovers and GC. Raises CniError 106."""
    try:
        elements = attachment.elements() if attachment else []
        if elements:
            nft = nftables.Nft()
            nft.remove(elements)
            nft.close()
        link = find_link(host, container_id, ifname)
        if link is not None:
            _delete_link(host, link.index)
        if attachment is not None:
            _forget(attachment)
    except Refusal as fault:
        raise _refused(container_id, ifname, str(fault)) from None


def _forget(attachment: Attachment) -> None:
    """What is not the link's: connections of the addresses and hostPorts, and rules in a pod that lives on."""
    from cni_plugin import conntrack

    # What a hostPort led here bears the pod's address too. Behind another plugin the address is not ours to forget.
    if attachment.host_link:
        conntrack.flush([each.packed for each in attachment.addresses], [])
    else:
        conntrack.flush([], datagram_ports(attachment))
    if attachment.table:
        from cni_plugin import secondary

        secondary.remove_rules(attachment)


def datagram_ports(attachment: Attachment) -> "list[tuple[int, bytes, int]]":
    """The UDP hostPorts as conntrack looks for them: their conversations have no end of their own."""
    return [
        (nftables.PROTOCOLS[each.protocol], each.host, each.host_port)
        for each in attachment.host_ports
        if each.protocol == "udp"
    ]


def _delete_link(host: "rtnetlink.Socket", index: int) -> None:
    try:
        host.batch([rtnetlink.delete_link(index)])
    except Refusal as fault:
        if fault.errno != errno.ENODEV:
            raise


def _refused(container_id: str, ifname: str, why: str) -> CniError:
    return CniError(
        KERNEL_REFUSED,
        f"removing {container_id}/{ifname}: {why}",
        "the claims are kept; DEL can be repeated",
    )


def remove_soon(
    host: "rtnetlink.Socket",
    container_id: str,
    ifname: str,
    attachment: "Attachment | None" = None,
) -> bool:
    """Remove, and return when nothing is visible any more; children of this process wait for the kernel.

    The children share the caller's locks: should it be killed, they hold them until their work is done. Returns
    whether there was a link. Raises CniError 106.
    """
    link = find_link(host, container_id, ifname)
    children = []
    pending: list[Callable[[], bool]] = []
    elements = attachment.elements() if attachment else []
    if elements:
        nft = nftables.Nft()
        if not any(nft.has(each) for each in elements):
            elements = []
    if elements:
        children.append(_in_child(lambda: nftables.Nft().remove(elements)))
        pending.append(lambda: not any(nft.has(each) for each in elements))
    if link is not None:
        index = link.index
        children.append(_in_child(lambda: _delete_link(rtnetlink.Socket(), index)))
        pending.append(_unlisted(link.name))
    if attachment is not None:
        from cni_plugin import conntrack  # noqa: F401 - read while the children work
    began = time.monotonic()
    while not all(gone() for gone in pending):
        for child in tuple(children):
            finished, status = posix.waitpid(child, posix.WNOHANG)
            if finished and status:
                code = posix.waitstatus_to_exitcode(status)
                raise _refused(
                    container_id, ifname, posix.strerror(code) if code > 0 else f"a child got signal {-code}"
                )
            if finished:
                children.remove(child)
        waited = time.monotonic() - began
        if waited > _GONE_WITHIN_SECONDS:
            raise _refused(container_id, ifname, f"still there after {_GONE_WITHIN_SECONDS:g} s")
        time.sleep(max(_POLL_SECONDS, min(waited * _POLL_SHARE, _POLL_LONGEST_SECONDS)))
    if attachment is not None:
        _forget(attachment)
    return link is not None


def _in_child(work: "Callable[[], object]") -> int:
    child = posix.fork()
    if child:
        return child
    try:
        # Runtimes wait until every copy of the plugin's pipes is closed.
        for descriptor in (0, 1, 2):
            posix.close(descriptor)
        posix.open("/dev/null", posix.O_RDWR)
        posix.open("/dev/null", posix.O_RDWR)
        posix.open("/dev/null", posix.O_RDWR)
        work()
    except Refusal as fault:
        posix._exit(fault.errno)
    except BaseException:  # noqa: BLE001 - nothing may run on in a second copy of the plugin
        posix._exit(errno.EIO)
    posix._exit(0)


def _unlisted(name: str) -> "Callable[[], bool]":
    # SIOCGIFINDEX takes no lock; RTM_GETLINK would wait for the very grace period that the child waits for.
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    request = name.encode().ljust(40, b"\0")

    def gone() -> bool:
        try:
            fcntl.ioctl(probe.fileno(), _SIOCGIFINDEX, request)
        except OSError:
            return True
        return False

    return gone


def dismantle(ledger: Ledger, host: "rtnetlink.Socket", state: str, attachment: Attachment) -> None:
    """Remove an attachment, kernel first and claims last, and wait for it. Raises CniError 104 or 106."""
    ledger.trim(attachment, state)
    if attachment.host_ports:
        ledger.begin_delete(attachment, state)
    remove_now(host, attachment.container_id, attachment.ifname, attachment)
    ledger.release(attachment)
