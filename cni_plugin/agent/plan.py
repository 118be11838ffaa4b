"""Pure: from the list of nodes and what the kernel says of their addresses to the state that the node should have.

Nothing here reads or changes anything. What cannot be done for one node is a sentence among the plan's faults, and the
rest goes on. The order of judgement is that of names, so that two agents with one list come to one result.

The tunnel needs no word from the other nodes: a node's MAC is made from its underlay address, and its address in the
tunnel is the network address of its pod subnet, which the plugin never gives to a pod.
"""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from cni_plugin.agent.config import AUTO, HOST_GW, VXLAN
from cni_plugin.agent.peers import Nodes, Peer
from cni_plugin.agent.settings import Address, Network

# The outer IP, UDP and VXLAN headers, and the inner Ethernet header.
OVERHEAD = {4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14}
# IPv6 needs links of at least this (RFC 8200, section 5).
LEAST_MTU = 1280
# No pod has an address here, and a route there would break the node.
_NEVER = [
    ip_network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
] + [ip_network(text) for text in ("::/8", "fe80::/10", "ff00::/8")]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Local:
    """An address of this node: the number and MTU of its link."""

    link: int
    mtu: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What the configuration says of this node; empty where the list of nodes tells."""

    name: str
    pod_cidrs: tuple[Network, ...] = ()
    addresses: tuple[Address, ...] = ()
    cluster_cidrs: tuple[Network, ...] = ()
    mode: str = AUTO
    underlay: str = AUTO
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """What the kernel says: this node's addresses, and the link of every other node's address that needs no gateway."""

    local: Mapping[Address, Local] = field(default_factory=dict)
    on_link: Mapping[Address, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """A route to a node's pods. `link` 0 is the tunnel's."""

    destination: Network
    gateway: Address
    link: int = 0


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The VXLAN link, its addresses, and per other node a neighbour (address -> MAC) and an entry MAC -> underlay."""

    local: Address
    mac: str
    mtu: int
    addresses: tuple[Address, ...]
    neighbours: Mapping[Address, str] = field(default_factory=dict)
    fdb: Mapping[str, Address] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The state that the node should have. `families` are the IP versions of pods' addresses."""

    routes: tuple[Route, ...] = ()
    tunnel: Tunnel | None = None
    no_masquerade: tuple[Network, ...] = ()
    families: frozenset[int] = frozenset()
    peers: int = 0
    modes: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def mac_of(address: Address) -> str:
    """The MAC of a node's end of the tunnel: a hash of its underlay address, marked as locally administered."""
    digest = bytearray(hashlib.sha256(b"podwire vxlan " + address.packed).digest()[:6])
    digest[0] = digest[0] & 0xFC | 0x02
    return digest.hex(":")


def tunnel_address(subnets: Iterable[Network], version: int) -> Address | None:
    """A node's address in the tunnel: the network address of its first pod subnet of this IP version."""
    return next((each.network_address for each in subnets if each.version == version), None)


def underlay_address(addresses: Iterable[Address], underlay: str) -> Address | None:
    """The address that carries the tunnel: the first, or the first of the family that is asked for."""
    version = {"ipv4": 4, "ipv6": 6}.get(underlay, 0)
    return next((each for each in addresses if version in (0, each.version)), None)


def make(identity: Identity, nodes: Nodes, scene: Scene) -> Plan:
    """The plan for this node."""
    return _Planner(identity, nodes, scene).plan()


class _Planner:
    def __init__(self, identity: Identity, nodes: Nodes, scene: Scene) -> None:
        self.identity, self.scene = identity, scene
        self.faults = list(nodes.faults)
        self.own = next((peer for peer in nodes.peers if peer.name == identity.name), None)
        self.pod_cidrs = identity.pod_cidrs or (self.own.pod_cidrs if self.own else ())
        self.addresses = identity.addresses or (self.own.addresses if self.own else ())
        self.local = {*scene.local, *self.addresses}
        self.others = [peer for peer in nodes.peers if peer.name != identity.name]
        self.underlay, self.no_tunnel = self._underlay()
        self.routes: list[Route] = []
        self.neighbours: dict[Address, str] = {}
        self.fdb: dict[str, Address] = {}
        self.modes = {HOST_GW: 0, VXLAN: 0}
        self.wants_tunnel = identity.mode == VXLAN and bool(self.others)

    def plan(self) -> Plan:
        subnets = self._subnets()
        for peer in self.others:
            for subnet in subnets.get(peer.name, ()):
                self._reach(peer, subnet)
        tunnel = self._tunnel()
        reachable = [subnet for each in subnets.values() for subnet in each]
        return Plan(
            tuple(sorted(self.routes, key=lambda route: _span(route.destination))),
            tunnel,
            tuple(dict.fromkeys([*self.identity.cluster_cidrs, *reachable])),
            frozenset(each.version for each in [*self.pod_cidrs, *reachable]),
            len(self.others),
            self.modes,
            tuple(dict.fromkeys(self.faults)),
        )

    def _underlay(self) -> tuple[Address | None, str]:
        """This node's end of the tunnel, or None and why there is none."""
        if self.own is None and not (self.identity.addresses and self.identity.pod_cidrs):
            return None, (
                f"no tunnel can begin here: this node, {self.identity.name}, is not in the list of nodes; "
                "set node_name, or pod_cidrs and addresses"
            )
        found = underlay_address(self.addresses, self.identity.underlay)
        if found is None:
            family = f" {self.identity.underlay}" if self.identity.underlay != AUTO else ""
            return None, f"no tunnel can begin here: this node has no{family} address; set addresses"
        if found not in self.scene.local:
            return None, (
                f"no tunnel can begin here: this node's address {found} is on none of its links; "
                "correct the list of nodes, or set addresses"
            )
        if not self.pod_cidrs:
            return None, "no tunnel can begin here: this node has no pod CIDR yet; set pod_cidrs where nobody gives one"
        return found, ""

    def _subnets(self) -> dict[str, list[Network]]:
        """The pod subnets of the other nodes that can be routed, by node."""
        owners: list[tuple[int, int, int, str]] = []
        for subnet in self.pod_cidrs:
            insort(owners, (*_span(subnet), "this node"))
        holders = _numbers(each for peer in self.others for each in peer.addresses)
        mine = _numbers(self.local)
        found: dict[str, list[Network]] = {}
        for peer in self.others:
            if twins := self.local.intersection(peer.addresses):
                self.faults.append(
                    f"node {peer.name} has this node's own address {min(map(str, twins))} and was passed over; "
                    f"is node_name ({self.identity.name}) right?"
                )
                continue
            for subnet in peer.pod_cidrs:
                what = f"node {peer.name}: pod CIDR {subnet} was passed over: "
                if any(each.version == subnet.version and subnet.overlaps(each) for each in _NEVER):
                    self.faults.append(f"{what}pods cannot have such addresses")
                elif (owner := _overlapping(owners, subnet)) is not None:
                    self.faults.append(f"{what}it overlaps {_network(owner)} of {owner[3]}")
                elif _holds(subnet, mine):
                    self.faults.append(f"{what}an address of this node lies in it")
                elif _holds(subnet, holders):
                    self.faults.append(f"{what}the address of a node lies in it")
                else:
                    insort(owners, (*_span(subnet), f"node {peer.name}"))
                    found.setdefault(peer.name, []).append(subnet)
        return found

    def _reach(self, peer: Peer, subnet: Network) -> None:
        """Add the route to a subnet of a node, or a fault."""
        if self.identity.mode != VXLAN:
            for address in peer.addresses:
                link = self.scene.on_link.get(address, 0)
                if link and address.version == subnet.version:
                    self.routes.append(Route(subnet, address, link))
                    self.modes[HOST_GW] += 1
                    return
        what = f"node {peer.name}: pod CIDR {subnet} has no route: "
        if self.identity.mode == HOST_GW:
            having = ", ".join(str(each) for each in peer.addresses) or "none"
            self.faults.append(
                f"{what}none of its IPv{subnet.version} addresses is on a link of this node (it has {having}); "
                'set mode = "auto"'
            )
            return
        self.wants_tunnel = True
        if self.underlay is None:
            return  # one sentence for all of them
        carrier = peer.address(self.underlay.version)
        end = tunnel_address(peer.pod_cidrs, subnet.version)
        if carrier is None:
            self.faults.append(
                f"{what}IPv{self.underlay.version} carries the tunnel, and the node has no such address; "
                "set vxlan.underlay on all nodes"
            )
        elif tunnel_address(self.pod_cidrs, subnet.version) is None:
            self.faults.append(
                f"{what}this node has no IPv{subnet.version} pod CIDR, so no such address in the tunnel; set pod_cidrs"
            )
        elif end is None or self.neighbours.setdefault(end, mac_of(carrier)) != mac_of(carrier):
            self.faults.append(f"{what}{end}, its address in the tunnel, is another node's too")
        else:
            self.routes.append(Route(subnet, end))
            self.fdb[mac_of(carrier)] = carrier
            self.modes[VXLAN] += 1

    def _tunnel(self) -> Tunnel | None:
        if not self.wants_tunnel:
            return None
        if self.underlay is None:
            self.faults.append(self.no_tunnel)
            return None
        version = self.underlay.version
        mtu = self.identity.mtu or self.scene.local[self.underlay].mtu - OVERHEAD[version]
        if mtu < LEAST_MTU and any(subnet.version == 6 for subnet in self.pod_cidrs):
            self.faults.append(f"the tunnel's MTU {mtu} is less than the {LEAST_MTU} that IPv6 needs; raise the link's")
            mtu = LEAST_MTU
        ends = [tunnel_address(self.pod_cidrs, each) for each in (4, 6)]
        own = tuple(each for each in ends if each is not None)
        return Tunnel(self.underlay, mac_of(self.underlay), mtu, own, self.neighbours, self.fdb)


def _span(subnet: Network) -> tuple[int, int, int]:
    return subnet.version, int(subnet.network_address), int(subnet.broadcast_address)


def _network(owner: tuple[int, int, int, str]) -> Network:
    version, first, last, _ = owner
    length = (32 if version == 4 else 128) - (last - first).bit_length()
    return ip_network((first, length)) if version == 4 else ip_network((first.to_bytes(16, "big"), length))


def _overlapping(owners: list[tuple[int, int, int, str]], subnet: Network) -> tuple[int, int, int, str] | None:
    # The owners' subnets are disjoint: only the two beside the place where this one would stand can overlap it.
    version, first, last = _span(subnet)
    place = bisect_left(owners, (version, first, last, ""))
    for owner in owners[max(0, place - 1) : place + 1]:
        if owner[0] == version and owner[1] <= last and first <= owner[2]:
            return owner
    return None


def _numbers(addresses: Iterable[Address]) -> list[tuple[int, int]]:
    return sorted((int(each.version), int(each)) for each in addresses)


def _holds(subnet: Network, addresses: list[tuple[int, int]]) -> bool:
    version, first, last = _span(subnet)
    place = bisect_left(addresses, (version, first))
    return place < len(addresses) and addresses[place] <= (version, last)
