"""CHECK: whether node and pod are as ADD left them (specification, section 2)."""

import posix

from cni_plugin import claims, ipam, netns, nftables, node, prevresult, rtdump, rtnetlink, wiring
from cni_plugin.attachment import HOST_MAC, Attachment
from cni_plugin.call import Call
from cni_plugin.config import Network
from cni_plugin.result import format_mac
from cni_plugin.spec import CHECK_MISMATCH, INVALID_CONFIGURATION, UNKNOWN_CONTAINER, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def check(call: Call, network: Network) -> None:
    """Compare node and pod with the record and prevResult. Raises CniError 108 that names every difference.

    What a later plugin of the list may change (MTU, routes and addresses that it added) is compared with prevResult
    alone.
    """
    previous = network.prev_result or {}
    try:
        stated, ends = [address for address, _ in prevresult.addresses(previous)], prevresult.interfaces(previous)
    except ValueError as fault:
        raise CniError(INVALID_CONFIGURATION, f"prevResult: {fault}", "pass on ADD's result") from None
    host = rtnetlink.Socket()
    ledger, attachment = _recorded(call, network, host)
    faults = [f"claim {claim} is not held" for claim in ledger.missing_claims(attachment)]
    if attachment.host_link:
        faults += _host_faults(attachment, host)
    if node.needs_table(network) or attachment.host_ports:
        faults += _table_faults(attachment, nftables.Nft())
    faults += _node_faults(attachment)
    missing = [
        text for text, each in zip(attachment.texts, attachment.addresses, strict=True) if each.packed not in stated
    ]
    if stated and missing:
        names = ", ".join(map(ipam.format_address, stated))
        faults.append(f"prevResult names {names}, the record {', '.join(attachment.texts)}")
    sandbox = netns.open_netns(call.netns)
    netns.enter(sandbox)
    posix.close(sandbox)
    pod = rtnetlink.Socket()
    if netns.cookie(pod.raw) != attachment.netns_cookie:
        faults.append("CNI_NETNS is not the network namespace that ADD wired")
    if attachment.host_link:
        faults += _pod_faults(attachment, pod, ends)
    if faults:
        raise CniError(
            CHECK_MISMATCH,
            f"{call.container_id}/{call.ifname}: {'; '.join(faults)}",
            "delete the pod, so that its next sandbox is wired anew; `podwire-net doctor` looks at the node",
        )


def _recorded(call: Call, network: Network, host: "rtnetlink.Socket") -> "tuple[claims.Ledger, Attachment]":
    cookie = netns.cookie(host.raw)
    found = None
    if claims.exists(network.state_dir, cookie):
        ledger = claims.Ledger(network.state_dir, cookie)
        found = ledger.find(call.container_id, call.ifname)
        if found is not None and found[0] == "attachments":
            return ledger, found[1]
    raise CniError(
        UNKNOWN_CONTAINER if found is None else CHECK_MISMATCH,
        f"container {call.container_id} has no finished attachment {call.ifname} on this node",
        "ADD was never called, failed, or DEL has begun",
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
    for each in attachment.addresses:
        route = host.route(each.packed)
        if route is None or (route.prefix, route.index) != (each.prefix, link.index):
            faults.append(f"route {each}/{each.prefix} over {name} is missing")
        if rtdump.neighbour(host, link.index, each.packed) != attachment.mac:
            faults.append(f"neighbour {each} on {name} is not {format_mac(attachment.mac)}")
    return faults


def _table_faults(attachment: Attachment, nft: "nftables.Nft") -> "list[str]":
    if not nft.table_exists():
        return [f"nft table inet {nftables.TABLE} is missing (the next ADD makes it again)"]
    return [f"nft element {each.set} {each.text} is missing" for each in attachment.elements() if not nft.has(each)]


def _node_faults(attachment: Attachment) -> "list[str]":
    """What keeps the node from forwarding the pod's packets."""
    from cni_plugin import firewall

    faults = []
    for width, name in ((4, "ipv4/ip_forward"), (16, "ipv6/conf/all/forwarding")):
        if any(len(each.packed) == width for each in attachment.addresses):
            if node.read_setting(f"/proc/sys/net/{name}") == "0":
                faults.append(f"net.{name.replace('/', '.')} is 0")
            faults += firewall.forward_drops(rtnetlink.AF_INET if width == 4 else rtnetlink.AF_INET6)
    return faults


def _pod_faults(attachment: Attachment, pod: "rtnetlink.Socket", ends: "list[dict[str, Any]]") -> "list[str]":
    link = pod.link(attachment.ifname)
    if link is None:
        return [f"interface {attachment.ifname} is missing in the pod"]
    faults = []
    if not link.flags & rtnetlink.IFF_UP:
        faults.append(f"interface {attachment.ifname} is down")
    if link.mac != attachment.mac:
        faults.append(f"interface {attachment.ifname} has MAC {format_mac(link.mac)}, not {format_mac(attachment.mac)}")
    faults += [
        f"interface {attachment.ifname} has MTU {link.mtu}, prevResult says {end['mtu']}"
        for end in ends
        if end.get("name") == attachment.ifname and end.get("sandbox") and end.get("mtu", link.mtu) != link.mtu
    ]
    held = {(address, prefix) for address, prefix, _ in rtdump.addresses(pod, link.index)}
    faults += [
        f"address {each}/{each.prefix} is missing on {attachment.ifname}"
        for each in attachment.addresses
        if (each.packed, each.prefix) not in held
    ]
    faults += _route_faults(attachment, pod, link.index)
    faults += [
        f"neighbour {ipam.format_address(gateway)} in the pod is not {format_mac(HOST_MAC)}"
        for gateway in wiring.gateways(attachment)
        if rtdump.neighbour(pod, link.index, gateway) != HOST_MAC
    ]
    return faults


def _route_faults(attachment: Attachment, pod: "rtnetlink.Socket", index: int) -> "list[str]":
    held = set()
    for family in (rtnetlink.AF_INET, rtnetlink.AF_INET6):
        for each in rtdump.routes(pod, family):
            if each.index == index:
                held.add((each.destination, each.prefix, each.gateway, each.table))
    faults = []
    for route in wiring.pod_routes(attachment):
        destination = route.destination if route.prefix else b""
        if (destination, route.prefix, route.gateway, route.table) not in held:
            text = f"{ipam.format_address(route.destination)}/{route.prefix}"
            faults.append(f"route {text} through {ipam.format_address(route.gateway)} is missing in the pod")
    if attachment.table:
        families = (rtnetlink.AF_INET, rtnetlink.AF_INET6)
        rules = {rule for family in families for rule in rtdump.source_rules(pod, family)}
        faults += [
            f"rule from {each} lookup {attachment.table} is missing in the pod"
            for each in attachment.addresses
            if (each.packed, attachment.table) not in rules
        ]
    return faults
