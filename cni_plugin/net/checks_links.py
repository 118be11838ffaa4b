"""Checks of forwarding: sysctls, other programs' firewalls, MTU and IPv6."""

from collections.abc import Iterator
from pathlib import Path

from cni_plugin import nftables
from cni_plugin.net import firewall, kernel
from cni_plugin.net.findings import ERROR, NOTE, WARNING
from cni_plugin.net.node import Node, number
from cni_plugin.net.registry import Complaint, check

# Addresses that exist in no real network (TEST-NET-2, 2001:db8::/32): somewhere outside.
_OUTSIDE = {4: "198.51.100.1", 6: "2001:db8::1"}
_SOME_POD_LINK = "pw0000000000000"


@check("forwarding", "net.ipv4.ip_forward, and IPv6 forwarding where pods have IPv6")
def forwarding(node: Node) -> Iterator[Complaint]:
    if number("net/ipv4/ip_forward") == 0:
        used = bool(node.state.records)
        what = "net.ipv4.ip_forward is 0: no pod reaches anything beyond the node"
        if not used:
            what = "net.ipv4.ip_forward is 0 (the first ADD sets it to 1)"
        yield ERROR if used else NOTE, what, "sysctl -w net.ipv4.ip_forward=1"
    if node.wants_ipv6 and number("net/ipv6/conf/all/forwarding") == 0:
        used = any(":" in address for address in node.pod_addresses)
        what = "net.ipv6.conf.all.forwarding is 0, and pods get IPv6 addresses"
        yield ERROR if used else NOTE, what, "sysctl -w net.ipv6.conf.all.forwarding=1"


@check("firewall", "FORWARD chains of every nft table and of iptables-legacy that would drop pod traffic")
def foreign_firewall(node: Node) -> Iterator[Complaint]:
    rulesets = [firewall.of_nft(node.ruleset), *_legacy()]
    packets = _probes(node)
    for ruleset in rulesets:
        for drop in firewall.drops(ruleset, packets):
            chain = drop.chain
            place = f"{chain.program} chain {chain.family} {chain.table} {chain.name}"
            why = f"by {drop.rule!r}" if drop.rule else f"by its policy {chain.policy}"
            who, fix = _owner(node, ruleset, chain)
            yield ERROR, f"{place}{f' ({who})' if who else ''} drops {drop.packet.what} {why}", fix


def _legacy() -> Iterator[firewall.Ruleset]:
    # Asking the program where nobody uses the legacy tables would load its kernel modules.
    for names, family, program in (
        ("ip_tables_names", "ip", "iptables-legacy"),
        ("ip6_tables_names", "ip6", "ip6tables-legacy"),
    ):
        try:
            used = "filter" in Path("/proc/net", names).read_text().split()
        except OSError:
            continue
        if used:
            yield firewall.of_legacy(kernel.run([program, "-S"]), family)


def _probes(node: Node) -> list[firewall.Packet]:
    """Packets that pods need: out, in, between two, of each family."""
    link = next((each for each in node.pod_links if each.up), None)
    name, group = (link.name, link.group) if link else (_SOME_POD_LINK, nftables.GROUP_MASQUERADE)
    packets = []
    for family in (4, 6):
        if family == 6 and not node.wants_ipv6:
            continue
        pod = next((each for each in node.pod_addresses if (":" in each) == (family == 6)), "")
        uplink = node.kernel.way_out(2 if family == 4 else 10)
        out, outside = uplink.name if uplink else "eth0", _OUTSIDE[family]
        packets += [
            firewall.Packet(f"pod traffic to the outside (IPv{family})", family, name, out, group, 0, pod, outside),
            firewall.Packet(f"traffic from outside to pods (IPv{family})", family, out, name, 0, group, outside, pod),
            firewall.Packet(f"pod to pod traffic (IPv{family})", family, name, name, group, group, pod, pod),
        ]
    return packets


def _owner(node: Node, ruleset: firewall.Ruleset, chain: firewall.Chain) -> tuple[str, str]:
    """Whose chain it is, and what lets pods through."""
    names = {name for family, table, name in ruleset if (family, table) == (chain.family, chain.table)}
    tool = {"nft": {"ip": "iptables", "ip6": "ip6tables"}.get(chain.family, ""), "": ""}.get(
        chain.program, chain.program
    )
    if chain.table == "firewalld":
        subnets = [each.subnet for one in node.networks for ranged in one.range_sets for each in ranged.ranges]
        sources = " ".join(f"--add-source={subnet}" for subnet in subnets or ["POD_CIDR"])
        return "firewalld", f"firewall-cmd --permanent --zone=trusted {sources} && firewall-cmd --reload"
    if any(name.startswith(("ufw-", "ufw6-")) for name in names):
        return "ufw", "ufw default allow routed"
    if chain.name == "FORWARD" and tool:
        target, who = ("DOCKER-USER", "Docker") if "DOCKER-USER" in names else ("FORWARD", "")
        return who, f"{tool} -I {target} -i pw+ -j ACCEPT && {tool} -I {target} -o pw+ -j ACCEPT"
    insert = f"nft insert rule {chain.family} {chain.table} {chain.name}"
    return "", f"""{insert} iifname '"pw*"' accept && {insert} oifname '"pw*"' accept"""


@check("rp-filter", "net.ipv4.conf.all.rp_filter and that of each pod link, which the larger of the two rules")
def reverse_path(node: Node) -> Iterator[Complaint]:
    everywhere = number("net/ipv4/conf/all/rp_filter") or 0
    if everywhere == 2:
        what = "net.ipv4.conf.all.rp_filter is 2 (loose), which outdoes the 1 of pod links: pods can forge their source"
        yield WARNING, what, "sysctl -w net.ipv4.conf.all.rp_filter=0"
    elif everywhere == 1:
        uplinks = sorted({name for address, name, _ in node.kernel.addresses if ":" not in address and name != "lo"})
        if len(uplinks) > 1:
            what = f"net.ipv4.conf.all.rp_filter is 1: {', '.join(uplinks)} drop answers that come by another of them"
            yield NOTE, what, "where routes are asymmetric: sysctl -w net.ipv4.conf.all.rp_filter=0"
    for link in node.pod_links:
        own = number(f"net/ipv4/conf/{link.name}/rp_filter")
        if own is not None and own != 1:
            what = f"net.ipv4.conf.{link.name}.rp_filter is {own}, podwire made it 1: its pod can forge its source"
            yield WARNING, what, f"sysctl -w net.ipv4.conf.{link.name}.rp_filter=1"


@check("route-localnet", "net.ipv4.conf.all.route_localnet without the chain that guards the node's 127.0.0.0/8")
def route_localnet(node: Node) -> Iterator[Complaint]:
    if number("net/ipv4/conf/all/route_localnet") != 1:
        return
    guarded = any(
        entry["chain"]["table"] == nftables.TABLE and entry["chain"]["name"] == "guard"
        for entry in node.ruleset
        if "chain" in entry
    )
    if guarded:
        what = f"net.ipv4.conf.all.route_localnet is 1; chain guard of inet {nftables.TABLE} keeps podwire's pods out"
        yield NOTE, what, "if kube-proxy does not need it: sysctl -w net.ipv4.conf.all.route_localnet=0"
    else:
        what = "net.ipv4.conf.all.route_localnet is 1: pods reach services that listen on the node's 127.0.0.1"
        yield ERROR, what, "sysctl -w net.ipv4.conf.all.route_localnet=0"


@check("mtu", "pod links with a larger MTU than the way out of the node")
def mtu(node: Node) -> Iterator[Complaint]:
    uplink = node.kernel.way_out(2) or node.kernel.way_out(10)
    if uplink is None:
        return
    larger = [link for link in node.pod_links if link.mtu > uplink.mtu]
    if larger:
        names = ", ".join(f"{link.name} ({link.mtu})" for link in larger[:3])
        more = f" and {len(larger) - 3} more" if len(larger) > 3 else ""
        what = f"{len(larger)} pod links have a larger MTU than {uplink.name} ({uplink.mtu}): {names}{more}"
        yield WARNING, what, f"set mtu to 0 or {uplink.mtu} in the conflist and restart these pods"


@check("ipv6", "IPv6 switched off while pods should get it, and routers' advertisements that forwarding switches off")
def ipv6(node: Node) -> Iterator[Complaint]:
    if node.wants_ipv6:
        for name in ("all", "default", "lo"):
            if number(f"net/ipv6/conf/{name}/disable_ipv6") == 1:
                what = f"net.ipv6.conf.{name}.disable_ipv6 is 1, and a network has an IPv6 range"
                yield ERROR, what, f"sysctl -w net.ipv6.conf.{name}.disable_ipv6=0"
        if number("net/ipv6/conf/all/forwarding") is None:
            yield ERROR, "this kernel has no IPv6, and a network has an IPv6 range", "boot without ipv6.disable=1"
    if not number("net/ipv6/conf/all/forwarding"):
        return
    lost = node.wants_ipv6 and node.kernel.way_out(10) is None
    for link in node.kernel.links:
        if link.ours or not link.up or link.name == "lo" or number(f"net/ipv6/conf/{link.name}/accept_ra") != 1:
            continue
        if lost or kernel.learned_by_ra(node.kernel, link.name):
            what = f"net.ipv6.conf.{link.name}.accept_ra is 1 and forwarding is on: its routes by RA will expire"
            yield WARNING, what, f"sysctl -w net.ipv6.conf.{link.name}.accept_ra=2"
