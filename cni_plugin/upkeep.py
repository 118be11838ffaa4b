"""CHECK, GC and STATUS: whether an attachment is as ADD left it, what may go, whether ADD would work."""

import posix

from cni_plugin import claims, ipam, netns, nftables, node, removal, rtnetlink
from cni_plugin.attachment import GATEWAY, HOST_MAC, Attachment
from cni_plugin.config import Call, Network
from cni_plugin.journal import Journal
from cni_plugin.result import format_mac
from cni_plugin.spec import CHECK_MISMATCH, INTERNAL, INVALID_CONFIGURATION, NOT_AVAILABLE, UNKNOWN_CONTAINER, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def check(call: Call, network: Network) -> None:
    """Compare node and pod with the record and prevResult. Raises CniError 108 that names every difference.

    What a later plugin of the list may change (MTU, routes it added) is compared with prevResult alone.
    """
    previous = network.prev_result or {}
    for key in ("interfaces", "ips"):
        entries = previous.get(key) or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise CniError(INVALID_CONFIGURATION, f"prevResult.{key} is no list of objects", "pass on ADD's result")
    host = rtnetlink.Socket()
    cookie = netns.cookie(host.raw)
    found = None
    if claims.exists(network.state_dir, cookie):
        ledger = claims.Ledger(network.state_dir, cookie)
        found = ledger.find(call.container_id, call.ifname)
    if found is None or found[0] != "attachments":
        raise CniError(
            UNKNOWN_CONTAINER if found is None else CHECK_MISMATCH,
            f"container {call.container_id} has no finished attachment {call.ifname} on this node",
            "ADD was never called, failed, or DEL has begun",
        )
    attachment = found[1]
    faults = [f"claim {claim} is not held" for claim in ledger.missing_claims(attachment)]
    faults += _host_faults(attachment, host)
    if node.needs_table(network) or attachment.host_ports:
        faults += _table_faults(attachment, nftables.Nft())
    sandbox = netns.open_netns(call.netns)
    netns.enter(sandbox)
    posix.close(sandbox)
    faults += _pod_faults(attachment, rtnetlink.Socket(), previous)
    if faults:
        raise CniError(
            CHECK_MISMATCH,
            f"{call.container_id}/{call.ifname}: {'; '.join(faults)}",
            "delete the pod, so that its next sandbox is wired anew",
        )


def _host_faults(attachment: Attachment, host: "rtnetlink.Socket") -> "list[str]":
    name = attachment.host_link
    link = host.link(name)
    if link is None:
        return [f"host link {name} is missing"]
    faults = []
    if not link.flags & rtnetlink.IFF_UP:
        faults.append(f"host link {name} is down")
    if link.group != attachment.group:
        faults.append(f"host link {name} is in group {link.group}, not {attachment.group}")
    if link.mac != HOST_MAC:
        faults.append(f"host link {name} has MAC {format_mac(link.mac)}, not {format_mac(HOST_MAC)}")
    address = ipam.format_address(attachment.address)
    route = host.route(attachment.address)
    if route is None or route[:2] != (32, link.index):
        faults.append(f"route {address}/32 over {name} is missing")
    if host.neighbour(link.index, attachment.address) != attachment.mac:
        faults.append(f"neighbour {address} on {name} is not {format_mac(attachment.mac)}")
    return faults


def _table_faults(attachment: Attachment, nft: "nftables.Nft") -> "list[str]":
    if not nft.table_exists():
        return [f"nft table inet {nftables.TABLE} is missing (the next ADD makes it again)"]
    return [f"nft element {each.set} {each.text} is missing" for each in attachment.elements() if not nft.has(each)]


def _pod_faults(attachment: Attachment, pod: "rtnetlink.Socket", previous: "dict[str, Any]") -> "list[str]":
    faults = []
    if netns.cookie(pod.raw) != attachment.netns_cookie:
        faults.append("CNI_NETNS is not the network namespace that ADD wired")
    link = pod.link(attachment.ifname)
    if link is None:
        return [*faults, f"interface {attachment.ifname} is missing in the pod"]
    if not link.flags & rtnetlink.IFF_UP:
        faults.append(f"interface {attachment.ifname} is down")
    if link.mac != attachment.mac:
        faults.append(f"interface {attachment.ifname} has MAC {format_mac(link.mac)}, not {format_mac(attachment.mac)}")
    faults += [
        f"interface {attachment.ifname} has MTU {link.mtu}, prevResult says {end['mtu']}"
        for end in previous.get("interfaces") or []
        if end.get("name") == attachment.ifname and end.get("sandbox") and end.get("mtu", link.mtu) != link.mtu
    ]
    address = ipam.format_address(attachment.address)
    if (attachment.address, 32) not in pod.addresses(link.index):
        faults.append(f"address {address}/32 is missing on {attachment.ifname}")
    stated = [str(entry.get("address", "")).partition("/")[0] for entry in previous.get("ips") or []]
    if stated and address not in stated:
        faults.append(f"prevResult names {', '.join(stated)}, the record {address}")
    faults += [
        f"route {text} through {ipam.format_address(GATEWAY)} is missing in the pod"
        for text in attachment.routes
        if not _has_route(pod, text, link.index)
    ]
    if pod.neighbour(link.index, GATEWAY) != HOST_MAC:
        faults.append(f"neighbour {ipam.format_address(GATEWAY)} in the pod is not {format_mac(HOST_MAC)}")
    return faults


def _has_route(pod: "rtnetlink.Socket", text: str, index: int) -> bool:
    destination, prefix = ipam.parse_subnet(text)
    return any(route == (destination if prefix else b"", prefix, index, GATEWAY) for route in pod.routes())


def collect(network: Network, journal: Journal) -> None:
    """GC: remove this network's attachments that the runtime's list does not name. Goes on after a failure.

    The runtime promises that no ADD or DEL runs meanwhile; that is not relied on: an attachment in the making
    holds its lock, and one made since this call began is younger than the list.
    """
    began = claims.boot_time()
    host = rtnetlink.Socket()
    cookie = netns.cookie(host.raw)
    if not claims.exists(network.state_dir, cookie):
        return
    ledger = claims.Ledger(network.state_dir, cookie)
    valid = network.valid_attachments or []
    removed, faults = 0, []
    for seen in list(ledger.records(*claims.STATES)):
        named = any(seen.container_id == container_id and ifname in ("", seen.ifname) for container_id, ifname in valid)
        if seen.network != network.name or named or seen.created >= began:
            continue
        lock = ledger.attachment_lock(seen.container_id, seen.ifname)
        if not lock.try_acquire():
            journal.note(f"kept {seen.container_id}/{seen.ifname}: another call holds it")
            continue
        try:
            found = ledger.find(seen.container_id, seen.ifname)
            if found is not None and found[1].created == seen.created:
                removal.dismantle(ledger, host, *found)
                removed += 1
        except CniError as fault:
            faults.append(fault.message)
        finally:
            lock.release()
    journal.note(f"removed {removed} attachments")
    if faults:
        raise CniError(
            INTERNAL,
            f"GC of {network.name} removed {removed} and failed at {len(faults)}: {'; '.join(faults)}",
        )


def status(call: Call, network: Network) -> None:
    """Raises CniError 50 when ADD could not work here. Changes nothing, takes no lock; a full pool is not asked."""
    folder = network.state_dir
    while folder and not posix.access(folder, posix.F_OK):
        folder = folder.rpartition("/")[0]
    if not posix.access(f"{folder}/.", posix.W_OK | posix.X_OK):
        raise CniError(
            NOT_AVAILABLE,
            f"the state folder {network.state_dir} cannot be written",
            "mount it read-write, or point the key stateDir elsewhere",
        )
    if node.needs_table(network) and not nftables.Nft().table_exists() and nftables.find_nft(call.search) is None:
        raise CniError(
            NOT_AVAILABLE,
            f"the nft table inet {nftables.TABLE} is missing, and so is nft to make it",
            "install the package nftables on this node",
        )
