"""The story of ADD and DEL. Each step of ADD has its undo beside it; DEL needs nothing but its arguments."""

import errno
import posix

from cni_plugin import claims, netns, nftables, node, removal, result, rtnetlink, wiring
from cni_plugin.attachment import Attachment, link_index
from cni_plugin.config import Call, Network
from cni_plugin.journal import Journal
from cni_plugin.spec import (
    ALREADY_ATTACHED,
    INTERFACE_EXISTS,
    INVALID_NETNS,
    KERNEL_REFUSED,
    CniError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INDEX_ATTEMPTS = 8


def add(call: Call, network: Network, journal: Journal) -> "dict[str, Any]":
    """Attach the pod, or fail and leave nothing behind. Returns the CNI result."""
    sandbox = netns.open_netns(call.netns)
    own = posix.stat("/proc/self/ns/net")
    theirs = posix.fstat(sandbox)
    # Both are open, so equal inodes are the same namespace.
    if (own.st_dev, own.st_ino) == (theirs.st_dev, theirs.st_ino):
        raise CniError(
            INVALID_NETNS,
            f"CNI_NETNS {call.netns!r} is the node's own network namespace",
            "a pod with host networking needs no CNI call",
        )
    host = rtnetlink.Socket()
    ledger = claims.Ledger(network.state_dir, netns.cookie(host.raw))
    with ledger.attachment_lock(call.container_id, call.ifname):
        _clear_leftover(ledger, host, call, journal)
        journal.mark("open")
        nft = nftables.Nft() if node.needs_table(network) else None
        node.enable_forwarding(journal)
        if nft is not None:
            node.ensure_table(ledger, network, nft, call.search, journal)
        journal.mark("node")
        mtu = network.mtu or node.way_out_mtu(host)
        host_link = removal.free_name(host, call.container_id, call.ifname)
        own_netns = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
        netns.enter(sandbox)
        pod = rtnetlink.Socket()
        if pod.link(call.ifname) is not None:
            raise _interface_exists(call)
        journal.mark("netns")
        attachment = Attachment(
            call.container_id,
            call.ifname,
            network.name,
            call.pod,
            call.netns,
            netns.cookie(pod.raw),
            host_link,
            nftables.GROUP_MASQUERADE if network.ip_masq else nftables.GROUP_PLAIN,
            mtu,
            b"",
            network.routes,
            network.host_ports,
            claims.boot_time(),
        )
        ledger.reserve(attachment, network.range_set, network.cooldown, lambda address: _is_foreign(host, address))
        journal.fields["addresses"] = [".".join(map(str, attachment.address))]
        journal.mark("claims")
        try:
            _wire(attachment, host, pod, sandbox)
            journal.mark("wiring")
            if nft is not None and attachment.host_ports:
                try:
                    nft.add(attachment.elements())
                except rtnetlink.Refusal as fault:
                    if fault.errno != errno.ENOENT:
                        raise
                    # The ruleset was flushed a moment ago; making the table takes the node's namespace.
                    netns.enter(own_netns)
                    node.ensure_table(ledger, network, nft, call.search, journal)
                    nft.add(attachment.elements())
                journal.mark("nft")
            ledger.complete(attachment)
        except BaseException as fault:
            # Back to the node first: a netfilter socket belongs to the namespace it is opened in.
            netns.enter(own_netns)
            _undo(ledger, host, attachment, journal)
            if isinstance(fault, rtnetlink.Refusal):
                raise _refused(attachment, fault) from None
            raise
        journal.mark("record")
    return result.of_attachment(attachment, network.cni_version, network.dns)


def _undo(ledger: claims.Ledger, host: "rtnetlink.Socket", attachment: Attachment, journal: Journal) -> None:
    try:
        removal.dismantle(ledger, host, "pending", attachment)
    except CniError as fault:
        # The first failure is the answer; what is left is recorded, and DEL or the next ADD takes it away.
        journal.note(f"undoing failed: {fault.message}")


def _clear_leftover(ledger: claims.Ledger, host: "rtnetlink.Socket", call: Call, journal: Journal) -> None:
    """Take away what a killed call, or a pod that died without DEL, left of this very attachment."""
    found = ledger.find(call.container_id, call.ifname)
    link = removal.find_link(host, call.container_id, call.ifname)
    if found is None:
        if link is not None:
            journal.note(f"removed the unrecorded link {link.name}")
            removal.remove_now(host, call.container_id, call.ifname, [])
        return
    state, attachment = found
    if state == "attachments" and link is not None:
        raise CniError(
            ALREADY_ATTACHED,
            f"container {call.container_id} has {call.ifname} already, with {'.'.join(map(str, attachment.address))}",
            "the specification wants DEL before another ADD of the same container id and interface",
        )
    journal.note(f"removed what an earlier call left in {state}")
    removal.dismantle(ledger, host, state, attachment)


def _is_foreign(host: "rtnetlink.Socket", address: bytes) -> bool:
    route = host.route(address)
    return route is not None and route[0] == 32


def _wire(attachment: Attachment, host: "rtnetlink.Socket", pod: "rtnetlink.Socket", sandbox: int) -> None:
    for attempt in range(_INDEX_ATTEMPTS):
        index = link_index(attachment.lease, attempt)
        try:
            host.batch(wiring.host_messages(attachment, index, sandbox))
            break
        except rtnetlink.Refusal as fault:
            # Position 0 is the pair itself: its index, or a name, is taken in one of the two namespaces.
            if fault.position or fault.errno not in (errno.EEXIST, errno.EBUSY) or attempt == _INDEX_ATTEMPTS - 1:
                raise
            if pod.link(attachment.ifname) is not None or host.link(attachment.host_link) is not None:
                raise
    pod.batch(wiring.pod_messages(attachment, index))


def _interface_exists(call: Call) -> CniError:
    return CniError(
        INTERFACE_EXISTS,
        f"interface {call.ifname} exists already in {call.netns}",
        "another plugin of the list, or an earlier ADD, made it; choose another name or delete it",
    )


def _refused(attachment: Attachment, fault: "rtnetlink.Refusal") -> CniError:
    return CniError(
        KERNEL_REFUSED,
        f"wiring {attachment.ifname} of {attachment.container_id} with {'.'.join(map(str, attachment.address))}: "
        f"the kernel says {fault}",
        "everything was undone; if it persists compare `ip link`, `ip route` and `nft list ruleset` on the node",
    )


def delete(call: Call, network: Network, journal: Journal) -> None:
    """Remove the attachment. What is gone already, or never was, is success."""
    host = rtnetlink.Socket()
    cookie = netns.cookie(host.raw)
    if not claims.exists(network.state_dir, cookie):
        removal.remove_soon(host, call.container_id, call.ifname, [], ())
        return
    ledger = claims.Ledger(network.state_dir, cookie)
    with ledger.attachment_lock(call.container_id, call.ifname):
        try:
            found = ledger.find(call.container_id, call.ifname)
        except CniError as unreadable:
            # The link goes all the same: a broken record must not keep a pod from ending.
            removal.remove_soon(host, call.container_id, call.ifname, [], (ledger.descriptor,))
            raise unreadable from None
        journal.mark("open")
        if found is None:
            removal.remove_soon(host, call.container_id, call.ifname, [], (ledger.descriptor,))
            journal.mark("wiring")
            return
        state, attachment = found
        journal.fields["pod"] = attachment.pod
        journal.fields["addresses"] = [".".join(map(str, attachment.address))]
        journal.fields["hostPorts"] = [str(port) for port in attachment.host_ports]
        elements = attachment.elements()
        if elements:
            ledger.begin_delete(attachment, state)
        removal.remove_soon(host, call.container_id, call.ifname, elements, (ledger.descriptor,))
        journal.mark("wiring")
        ledger.release(attachment)
        journal.mark("record")
