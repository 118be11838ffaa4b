"""What the node needs once, whoever the pod is: forwarding, the nft table, the MTU of the way out."""

import posix

from cni_plugin import ipam, jsontext, nftables, rtnetlink
from cni_plugin.claims import Ledger
from cni_plugin.config import Network
from cni_plugin.journal import Journal
from cni_plugin.spec import KERNEL_REFUSED, CniError

_IP_FORWARD = "/proc/sys/net/ipv4/ip_forward"
_DEFAULT_MTU = 1500
# An address of TEST-NET-2, which nobody routes specially: what it matches is the default route.
_FAR_AWAY = bytes((198, 51, 100, 1))
_MULTICAST = "224.0.0.0/4"


def needs_table(network: Network) -> bool:
    """Whether a network uses the nft table."""
    return network.ip_masq or network.wants_host_ports or bool(network.host_ports)


def enable_forwarding(journal: Journal) -> None:
    """Make the node forward IPv4, as every routed or bridged CNI plugin needs. Raises CniError 106."""
    try:
        descriptor = posix.open(_IP_FORWARD, posix.O_RDONLY | posix.O_CLOEXEC)
        forwarding = posix.read(descriptor, 8).strip() != b"0"
        posix.close(descriptor)
        if forwarding:
            return
        descriptor = posix.open(_IP_FORWARD, posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(descriptor, b"1")
        finally:
            posix.close(descriptor)
    except OSError as fault:
        raise CniError(
            KERNEL_REFUSED,
            f"enabling {_IP_FORWARD}: {fault}",
            "run `sysctl -w net.ipv4.ip_forward=1` on the node",
        ) from None
    journal.note("net.ipv4.ip_forward was 0 and is 1 now")


def ensure_table(ledger: Ledger, network: Network, nft: "nftables.Nft", search: str, journal: Journal) -> None:
    """Make the table where it is missing, with the elements of every recorded attachment, and keep the
    destinations that are never masqueraded as the networks' configurations say.

    Somebody's `nft flush ruleset` thus costs running pods their hostPorts only until the next ADD.
    """
    wanted = jsontext.dumps([*network.no_masquerade, *(each.subnet for each in network.range_set.ranges)])
    changed = ledger.network_setting(network.name) != wanted
    if not changed and nft.table_exists():
        return
    with ledger.host_lock():
        if changed:
            ledger.set_network_setting(network.name, wanted)
        destinations = _no_masquerade(ledger)
        if not nft.table_exists():
            attachments = ledger.records("attachments", "pending")
            elements = [element for each in attachments for element in each.elements()]
            nftables.run_script(nftables.table_script(destinations, elements), search)
            journal.note(f"made the table inet {nftables.TABLE} with {len(elements)} elements")
        elif changed:
            nftables.run_script(nftables.no_masquerade_script(destinations), search)
            journal.note(f"replaced the set nomasq4 of inet {nftables.TABLE}")


def _no_masquerade(ledger: Ledger) -> "list[str]":
    subnets = [_MULTICAST]
    for name, text in ledger.network_settings().items():
        if name.startswith("."):
            continue
        try:
            subnets += [subnet for subnet in jsontext.loads(text.encode()) if ipam.parse_exclusion(subnet)]
        except (ValueError, TypeError):
            continue  # garbage: its network writes it anew at its next ADD
    return ipam.merge_subnets(subnets)


def way_out_mtu(host: "rtnetlink.Socket") -> int:
    """The MTU of the link that the node's default route takes, else 1500."""
    route = host.route(_FAR_AWAY)
    link = host.link_at(route[1]) if route and route[1] else None
    return link.mtu if link else _DEFAULT_MTU
