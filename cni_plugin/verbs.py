"""The story of ADD and DEL. Each step of ADD has its undo beside it; DEL needs nothing but its arguments."""

import errno
import posix

from cni_plugin import allocation, claims, ipam, netns, nftables, node, removal, result, rtnetlink, wiring
from cni_plugin.attachment import Address, Attachment, derived_mac, link_index
from cni_plugin.call import Call
from cni_plugin.config import Network
from cni_plugin.journal import Journal
from cni_plugin.netlink import Refusal
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
    own = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
    _refuse_own(call, own, sandbox)
    host = rtnetlink.Socket()
    ledger = claims.Ledger(network.state_dir, netns.cookie(host.raw))
    with ledger.attachment_lock(call.container_id, call.ifname):
        _clear_leftover(ledger, host, call, journal)
        journal.mark("open")
        nft = nftables.Nft() if node.needs_table(network) else None
        node.enable_forwarding(network, journal)
        if nft is not None:
            node.ensure_table(ledger, network, nft, call.search, journal)
        journal.mark("node")
        pod = netns.socket_in(sandbox, own)
        if pod.link(call.ifname) is not None:
            raise _interface_exists(call)
        attachment = Attachment(
            container_id=call.container_id,
            ifname=call.ifname,
            network=network.name,
            pod=call.pod,
            netns=call.netns,
            netns_cookie=netns.cookie(pod.raw),
            host_link=removal.free_name(host, call.container_id, call.ifname),
            group=nftables.GROUP_MASQUERADE if network.ip_masq else nftables.GROUP_PLAIN,
            mtu=network.mtu or node.way_out_mtu(host, network),
            mac=network.mac,
            addresses=[],
            routes=[],
            table=0,
            host_ports=network.host_ports,
            sticky=network.sticky,
            created=claims.boot_time(),
        )
        if wiring.has_default_route(pod, network.widths()):
            attachment.table = link_index(attachment.lease, 0)
        journal.mark("netns")

        def choose() -> None:
            found = allocation.choose(ledger, network, lambda address: _is_foreign(host, address))
            _settle_addresses(attachment, network, found)

        ledger.reserve(attachment, choose)
        journal.fields["addresses"] = attachment.texts
        journal.mark("claims")
        try:
            _wire(attachment, host, pod, (sandbox, own), journal)
            journal.mark("wiring")
            if nft is not None and attachment.host_ports:
                add_elements(ledger, network, nft, attachment, call.search, journal)
                journal.mark("nft")
            ledger.complete(attachment)
        except BaseException as fault:
            _undo(ledger, host, attachment, journal)
            if isinstance(fault, Refusal):
                raise _refused(attachment, fault) from None
            raise
        journal.mark("record")
    return result.of_attachment(attachment, network.cni_version, network.dns)


def _refuse_own(call: Call, own: int, sandbox: int) -> None:
    mine, theirs = posix.fstat(own), posix.fstat(sandbox)
    # Both are open, so equal inodes are the same namespace.
    if (mine.st_dev, mine.st_ino) == (theirs.st_dev, theirs.st_ino):
        raise CniError(
            INVALID_NETNS,
            f"CNI_NETNS {call.netns!r} is the node's own network namespace",
            "a pod with host networking needs no CNI call",
        )


def _settle_addresses(attachment: Attachment, network: Network, found: "list[bytes]") -> None:
    # Range sets are in the order of the addresses: each gives one.
    attachment.addresses = [
        Address(address, one.gateway_of(address)) for address, one in zip(found, network.range_sets, strict=True)
    ]
    attachment.mac = network.mac or derived_mac(min(found, key=len))
    attachment.routes = []
    for route in network.routes:
        wide = ":" in route["dst"]
        gateway = next(each.gateway for each in attachment.addresses if (len(each.packed) == 16) == wide)
        attachment.routes.append({"dst": route["dst"], "gw": ipam.format_address(gateway), **route})


def add_elements(
    ledger: claims.Ledger, network: Network, nft: "nftables.Nft", attachment: Attachment, search: str, journal: Journal
) -> None:
    """Put the hostPorts of an attachment into the table, and forget connections that would not see them."""
    try:
        nft.add(attachment.elements())
    except Refusal as fault:
        if fault.errno != errno.ENOENT:
            raise
        # The ruleset was flushed a moment ago.
        node.ensure_table(ledger, network, nft, search, journal)
        nft.add(attachment.elements())
    datagrams = removal.datagram_ports(attachment)
    if datagrams:
        from cni_plugin import conntrack

        try:
            _, complete = conntrack.flush([], datagrams)
        except (OSError, Refusal) as fault:
            complete = False
            journal.note(f"conntrack: {fault}")
        if not complete:
            journal.note("not all older conversations with the UDP hostPorts were forgotten; they end by their timeout")


def _undo(ledger: claims.Ledger, host: "rtnetlink.Socket", attachment: Attachment, journal: Journal) -> None:
    try:
        removal.dismantle(ledger, host, "pending", attachment)
    except (CniError, OSError, Refusal) as fault:
        # The first failure is the answer; what is left is recorded, and DEL or the next ADD takes it away.
        journal.note(f"undoing failed: {fault}")


def _clear_leftover(ledger: claims.Ledger, host: "rtnetlink.Socket", call: Call, journal: Journal) -> None:
    """Take away what a killed call, or a pod that died without DEL, left of this very attachment."""
    found = ledger.find(call.container_id, call.ifname)
    link = removal.find_link(host, call.container_id, call.ifname)
    if found is None:
        if link is not None:
            journal.note(f"removed the unrecorded link {link.name}")
            removal.remove_now(host, call.container_id, call.ifname)
        return
    state, attachment = found
    if state == "attachments" and (link is not None or not attachment.host_link):
        raise CniError(
            ALREADY_ATTACHED,
            f"container {call.container_id} has {call.ifname} already, with {', '.join(attachment.texts)}",
            "the specification wants DEL before another ADD of the same container id and interface",
        )
    journal.note(f"removed what an earlier call left in {state}")
    removal.dismantle(ledger, host, state, attachment)


def _is_foreign(host: "rtnetlink.Socket", address: bytes) -> bool:
    route = host.route(address)
    return route is not None and route.prefix == len(address) * 8


def _wire(
    attachment: Attachment,
    host: "rtnetlink.Socket",
    pod: "rtnetlink.Socket",
    namespaces: "tuple[int, int]",
    journal: Journal,
) -> None:
    sandbox, own = namespaces
    for attempt in range(_INDEX_ATTEMPTS):
        index = link_index(attachment.lease, attempt)
        messages = wiring.host_messages(attachment, index, sandbox)
        try:
            host.batch(messages[: wiring.LINK_MESSAGES])
            break
        except Refusal as fault:
            # Position 0 is the pair itself: its index, or a name, is taken in one of the two namespaces.
            if fault.position or fault.errno not in (errno.EEXIST, errno.EBUSY) or attempt == _INDEX_ATTEMPTS - 1:
                raise
            if pod.link(attachment.ifname) is not None or host.link(attachment.host_link) is not None:
                raise
    node.refuse_router_advertisements(attachment.host_link, journal)
    if attachment.has_ipv6():
        node.enable_ipv6(attachment.host_link)
        with netns.inside(sandbox, own):
            node.enable_ipv6(attachment.ifname)
    host.batch(messages[wiring.LINK_MESSAGES :])
    pod.batch(wiring.pod_messages(attachment, index))


def _interface_exists(call: Call) -> CniError:
    return CniError(
        INTERFACE_EXISTS,
        f"interface {call.ifname} exists already in {call.netns}",
        "another plugin of the list, or an earlier ADD, made it; choose another name or delete it",
    )


def _refused(attachment: Attachment, fault: Refusal) -> CniError:
    return CniError(
        KERNEL_REFUSED,
        f"wiring {attachment.ifname} of {attachment.container_id} with {', '.join(attachment.texts)}: "
        f"the kernel says {fault}",
        "everything was undone; if it persists compare `ip link`, `ip route` and `nft list ruleset` on the node",
    )


def delete(call: Call, network: Network, journal: Journal) -> None:
    """Remove the attachment. What is gone already, or never was, is success.

    Whatever the state folder's condition, the link goes; its failure is told after that.
    """
    host = rtnetlink.Socket()
    cookie = netns.cookie(host.raw)
    if not claims.exists(network.state_dir, cookie):
        removal.remove_soon(host, call.container_id, call.ifname)
        return
    try:
        ledger = claims.Ledger(network.state_dir, cookie)
    except CniError:
        removal.remove_soon(host, call.container_id, call.ifname)
        raise
    with ledger.attachment_lock(call.container_id, call.ifname):
        _delete_recorded(call, ledger, host, journal)
    if claims.is_sweep_due():
        from cni_plugin import sweep

        sweep.sweep(ledger)


def _delete_recorded(call: Call, ledger: claims.Ledger, host: "rtnetlink.Socket", journal: Journal) -> None:
    why = ""
    try:
        found = ledger.find(call.container_id, call.ifname)
    except CniError as unreadable:
        found, why = None, unreadable.message
    journal.mark("open")
    if found is None:
        had_link = removal.remove_soon(host, call.container_id, call.ifname)
        ledger.forget_draft(call.container_id, call.ifname)
        if why or had_link:
            from cni_plugin import salvage

            salvage.release(ledger, call, why or "the link had no record", journal)
        else:
            _release_foreign(ledger, call, journal)
        journal.mark("wiring")
        return
    state, attachment = found
    journal.fields["pod"] = attachment.pod
    journal.fields["addresses"] = attachment.texts
    journal.fields["hostPorts"] = [str(port) for port in attachment.host_ports]
    failure = None
    ledger.trim(attachment, state)
    if attachment.host_ports:
        try:
            ledger.begin_delete(attachment, state)
        except CniError as fault:
            failure = fault
    removal.remove_soon(host, call.container_id, call.ifname, attachment)
    journal.mark("wiring")
    if failure is not None:
        raise failure
    ledger.release(attachment)
    journal.mark("record")


def _release_foreign(ledger: claims.Ledger, call: Call, journal: Journal) -> None:
    folder = f"{ledger.path}/foreign"
    try:
        if not posix.listdir(folder):
            return
    except OSError:
        return
    from cni_plugin import foreign

    for text in foreign.released_by(folder, call.container_id):
        claims.unlink(f"{folder}/{text}")
        journal.note(f"{text}, which another plugin gave to {call.container_id}, is free again")
