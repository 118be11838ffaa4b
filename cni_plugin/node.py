"""What the node needs once, whoever the pod is: forwarding, the nft table, the MTU of the ways out."""

import posix

from cni_plugin import claims, ipam, jsontext, nftables, rtnetlink, wiring
from cni_plugin.claims import Ledger
from cni_plugin.config import Network
from cni_plugin.journal import Journal
from cni_plugin.spec import KERNEL_REFUSED, CniError

_IP_FORWARD = "/proc/sys/net/ipv4/ip_forward"
_IPV6 = "/proc/sys/net/ipv6/conf"
_DEFAULT_MTU = 1500
_MULTICAST = ["224.0.0.0/4", "ff00::/8"]


def needs_table(network: Network) -> bool:
    """Whether a network uses the nft table. With IPv6 always: its guard chain is what stops forged sources there."""
    return network.ip_masq or network.wants_host_ports or bool(network.host_ports) or 16 in network.widths()


def enable_forwarding(network: Network, journal: Journal) -> None:
    """Make the node forward what the network routes, as every CNI plugin needs. Raises CniError 106."""
    forward(network.widths(), journal)


def forward(widths: "list[int]", journal: Journal) -> None:
    """Make the node forward packets of these families. Raises CniError 106."""
    if 4 in widths and read_setting(_IP_FORWARD) == "0":
        write_setting(_IP_FORWARD, "1")
        journal.note("net.ipv4.ip_forward was 0 and is 1 now")
    if 16 in widths and read_setting(f"{_IPV6}/all/forwarding") == "0":
        # A router takes no router advertisements, unless told twice: the uplinks would lose their default route.
        for name in posix.listdir(_IPV6):
            if name not in ("all", "default", "lo") and read_setting(f"{_IPV6}/{name}/accept_ra") == "1":
                write_setting(f"{_IPV6}/{name}/accept_ra", "2")
                journal.note(f"net.ipv6.conf.{name}.accept_ra was 1 and is 2 now")
        write_setting(f"{_IPV6}/all/forwarding", "1")
        journal.note("net.ipv6.conf.all.forwarding was 0 and is 1 now")


def read_setting(path: str) -> str:
    """A sysctl of the namespace that the process is in. Raises CniError 106."""
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            return posix.read(descriptor, 64).decode().strip()
        finally:
            posix.close(descriptor)
    except OSError as fault:
        hint = "IPv6 is off in this kernel (ipv6.disable=1?): take the IPv6 range out, or switch it on"
        raise CniError(
            KERNEL_REFUSED, f"reading {path}: {fault}", hint if path.startswith(_IPV6) else "is /proc mounted?"
        ) from None


def write_setting(path: str, value: str) -> None:
    """Set a sysctl of the namespace that the process is in. Raises CniError 106."""
    try:
        descriptor = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(descriptor, value.encode())
        finally:
            posix.close(descriptor)
    except OSError as fault:
        name = path.removeprefix("/proc/sys/").replace("/", ".")
        raise CniError(
            KERNEL_REFUSED, f"setting {name} to {value}: {fault}", f"run `sysctl -w {name}={value}` on the node"
        ) from None


def enable_ipv6(link: str) -> None:
    """Let a link of the process's namespace have IPv6, whatever the namespace's default is. Raises CniError 106."""
    if read_setting(f"{_IPV6}/{link}/disable_ipv6") == "1":
        write_setting(f"{_IPV6}/{link}/disable_ipv6", "0")


def refuse_router_advertisements(link: str, journal: Journal) -> None:
    """Keep a pod from making itself the node's IPv6 router (CVE-2020-10749), also where pods have no IPv6."""
    try:
        descriptor = posix.open(f"{_IPV6}/{link}/accept_ra", posix.O_WRONLY | posix.O_CLOEXEC)
    except FileNotFoundError:
        return  # no IPv6 in this kernel
    except OSError as fault:
        journal.note(f"net.ipv6.conf.{link}.accept_ra stays as it is: {fault}")
        return
    posix.write(descriptor, b"0")
    posix.close(descriptor)


def ensure_table(ledger: Ledger, network: Network, nft: "nftables.Nft", search: str, journal: Journal) -> None:
    """Make the table where it is missing, with the elements of every recorded attachment, and keep the
    destinations that are never masqueraded as the networks' configurations say.

    Somebody's `nft flush ruleset` thus costs running pods their hostPorts only until the next ADD.
    """
    subnets = [each.subnet for one in network.range_sets for each in one.ranges]
    wanted = jsontext.dumps([*network.no_masquerade, *subnets])
    changed = bool(subnets) and setting(ledger, network.name) != wanted
    if not changed and nft.table_exists():
        return
    with ledger.host_lock():
        if changed:
            set_setting(ledger, network.name, wanted)
        settle_table(ledger, nft, search, journal, changed)


def settle_table(ledger: Ledger, nft: "nftables.Nft", search: str, journal: Journal, changed: bool) -> None:
    """Make the table where it is missing, whole; else, where they `changed`, replace the destinations that are never
    masqueraded. To be called under the node's lock.
    """
    from cni_plugin import nfttable

    destinations = _no_masquerade(ledger)
    if not nft.table_exists():
        attachments = ledger.records("attachments", "pending")
        elements = [element for each in attachments for element in each.elements()]
        nfttable.run_script(nfttable.table_script(destinations, elements), search)
        journal.note(f"made the table inet {nftables.TABLE} with {len(elements)} elements")
    elif changed:
        nfttable.run_script(nfttable.no_masquerade_script(destinations), search)
        journal.note(f"replaced the destinations without masquerade in inet {nftables.TABLE}")


def setting(ledger: Ledger, name: str) -> "str | None":
    """What a network, or the agent as "@peers", last asked of the table; None where it never did."""
    try:
        return claims.read(f"{ledger.path}/networks/{name}").decode(errors="replace")
    except OSError:
        return None


def set_setting(ledger: Ledger, name: str, text: str) -> None:
    """Record what a network asks of the table: a JSON list of subnets. Raises CniError 104."""
    try:
        claims.write(f"{ledger.path}/networks/.{name}", text.encode())
        posix.rename(f"{ledger.path}/networks/.{name}", f"{ledger.path}/networks/{name}")
    except OSError as fault:
        raise ledger.failure(fault) from None


def _no_masquerade(ledger: Ledger) -> "list[str]":
    subnets = list(_MULTICAST)
    try:
        names = posix.listdir(f"{ledger.path}/networks")
    except OSError as fault:
        raise ledger.failure(fault) from None
    for name in names:
        try:
            stated = jsontext.loads((setting(ledger, name) or "[]").encode()) if not name.startswith(".") else []
            subnets += [subnet for subnet in stated if ipam.parse_exclusion(subnet)]
        except (ValueError, TypeError):
            continue  # garbage: its network writes it anew at its next ADD
    return ipam.merge_subnets(subnets, 4) + ipam.merge_subnets(subnets, 16)


def way_out_mtu(host: "rtnetlink.Socket", network: Network) -> int:
    """The smallest MTU of the ways that pods' packets take from the node, else 1500.

    These are the default routes and those towards the neighbouring nodes' pods: the addresses beside the network's
    own subnets, where a destination without masquerade covers them. A tunnel's MTU is found that way.
    """
    probes = [wiring.FAR_AWAY[width] for width in network.widths()]
    wide = [ipam.parse_exclusion(text) for text in network.no_masquerade]
    if wide:
        for subnet in [each.subnet for one in network.range_sets for each in one.ranges]:
            for address in ipam.neighbours(subnet):
                number = int.from_bytes(address, "big")
                if any(width == len(address) and low <= number <= high for width, low, high in wide):
                    probes.append(address)
    found = []
    for probe in probes:
        route = host.route(probe)
        link = host.link_at(route.index) if route and route.index else None
        if route and link:
            found.append(min(route.mtu or link.mtu, link.mtu))
    return min(found, default=_DEFAULT_MTU)
