"""The tunnel's link, its addresses, neighbours and forwarding entries, brought to what the plan says.

The link is ours when it is a VXLAN in our link group, which it has from its birth. Nothing is learned: who is behind
which MAC is known, so a stranger cannot make himself a node, and nothing is ever flooded.
"""

import array
import contextlib
import errno
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from cni_plugin.agent.plan import Tunnel
from cni_plugin.agent.routes import reason
from cni_plugin.agent.scene import FAMILIES, held
from cni_plugin.agent.settings import Address

# Beside the groups of pods' links (cni_plugin.nftables): `ip link show group 28793`.
GROUP = 0x7079
_UP = 1
_PERMANENT = 0x80
_NODAD = 0x02
_GLOBAL = 0
_CONF = Path("/proc/sys/net")
_SIOCETHTOOL, _ETHTOOL_GTXCSUM, _ETHTOOL_STXCSUM = 0x8946, 0x16, 0x17


@dataclass(frozen=True, slots=True)
class Device:
    """What the configuration says of the link."""

    name: str
    vni: int
    port: int
    checksum_offload: bool = True


@dataclass(slots=True)
class Outcome:
    """What became of an application. `link` is the link's number, 0 where there is none."""

    link: int = 0
    made: bool = False
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find(ip: IPRoute, device: Device) -> int:
    """The number of our link, or 0."""
    return next((each["index"] for each in _ours(ip) if held(each)["IFLA_IFNAME"] == device.name), 0)


def _ours(ip: IPRoute) -> list[Any]:
    return [each for each in ip.get_links() if held(each).get("IFLA_GROUP") == GROUP and _kind(each) == "vxlan"]


def _kind(link: Any) -> str:
    info = held(link).get("IFLA_LINKINFO")
    return str(held(info).get("IFLA_INFO_KIND", "")) if info else ""


def prepare(ip: IPRoute, device: Device, tunnel: Tunnel | None, alive: Callable[[], None] = lambda: None) -> Outcome:
    """Make or correct the link, and add what is missing; what is too much stays until `trim`."""
    outcome = Outcome()
    for each in _ours(ip):
        name = held(each)["IFLA_IFNAME"]
        if tunnel is None or name != device.name or not _fits(each, device, tunnel):
            _try(_call(ip.link, "del", index=each["index"]), f"link {name} was not removed", outcome)
            outcome.notes.append(f"removed the link {name}")
    if tunnel is None:
        return outcome
    outcome.link = find(ip, device) or _make(ip, device, tunnel, outcome)
    if outcome.link:
        _correct(ip, device, tunnel, outcome)
        _add_entries(ip, tunnel, outcome, alive)
    return outcome


def _fits(link: Any, device: Device, tunnel: Tunnel) -> bool:
    data = held(held(held(link)["IFLA_LINKINFO"])["IFLA_INFO_DATA"])
    local = data.get("IFLA_VXLAN_LOCAL") or data.get("IFLA_VXLAN_LOCAL6")
    return (
        (data.get("IFLA_VXLAN_ID"), data.get("IFLA_VXLAN_PORT")) == (device.vni, device.port)
        and local is not None
        and ipaddress.ip_address(local) == tunnel.local
        and held(link)["IFLA_ADDRESS"] == tunnel.mac
        and not data.get("IFLA_VXLAN_LEARNING")
    )


def _make(ip: IPRoute, device: Device, tunnel: Tunnel, outcome: Outcome) -> int:
    if ip.link_lookup(ifname=device.name):
        outcome.faults.append(
            f"the tunnel cannot be made: a link {device.name} is there and not ours; remove it, or set vxlan.device"
        )
        return 0
    six = tunnel.local.version == 6
    try:
        ip.link(
            "add",
            ifname=device.name,
            kind="vxlan",
            address=tunnel.mac,
            mtu=tunnel.mtu,
            group=GROUP,
            vxlan_id=device.vni,
            vxlan_port=device.port,
            vxlan_learning=0,
            # The outer UDP checksum is zero over IPv4, as RFC 7348 recommends, and must not be over IPv6.
            vxlan_udp_csum=int(six),
            **{"vxlan_local6" if six else "vxlan_local": str(tunnel.local)},
        )
    except NetlinkError as fault:
        hint = "another VXLAN has this number and port; set vxlan.vni" if fault.code == errno.EEXIST else "see dmesg"
        outcome.faults.append(
            f"the tunnel {device.name} (number {device.vni}, port {device.port}, from {tunnel.local}) cannot be made: "
            f"{reason(fault)}; {hint}"
        )
        return 0
    outcome.made = True
    outcome.notes.append(f"made the link {device.name}: from {tunnel.local}, MTU {tunnel.mtu}")
    return find(ip, device)


def _correct(ip: IPRoute, device: Device, tunnel: Tunnel, outcome: Outcome) -> None:
    """MTU, sysctls, addresses and state of the link."""
    link = next((each for each in ip.get_links() if each["index"] == outcome.link), None)
    if link is None:
        return
    index, what = outcome.link, f"the tunnel's link {device.name}"
    if held(link)["IFLA_MTU"] != tunnel.mtu:
        _try(lambda: ip.link("set", index=index, mtu=tunnel.mtu), f"{what}: MTU {tunnel.mtu} was not set", outcome)
        outcome.notes.append(f"{device.name} has MTU {tunnel.mtu}, it had {held(link)['IFLA_MTU']}")
    # Loose: the kernel takes the larger of this value and that of `all`, and strict (1) would drop what comes from a
    # node that reaches us through the tunnel while we reach it over a link.
    _set(f"ipv4/conf/{device.name}/rp_filter", "2", outcome)
    if any(address.version == 6 for address in tunnel.addresses):
        _set(f"ipv6/conf/{device.name}/disable_ipv6", "0", outcome)
        _set(f"ipv6/conf/{device.name}/accept_ra", "0", outcome)
        _set(f"ipv6/conf/{device.name}/addr_gen_mode", "1", outcome)
    if not device.checksum_offload and _offloads_checksums(device.name):
        _try(lambda: _checksums_off(device.name), f"{what}: checksum offload was not switched off", outcome)
    if not link["flags"] & _UP:
        _try(lambda: ip.link("set", index=index, state="up"), f"{what} was not set up", outcome)
    have = {
        (ipaddress.ip_address(held(each)["IFA_ADDRESS"]), each["prefixlen"])
        for family in FAMILIES
        for each in ip.get_addr(family=family, index=index)
        if each["index"] == index and each["scope"] == _GLOBAL
    }
    wanted = {(address, address.max_prefixlen) for address in tunnel.addresses}
    for address, length in sorted(wanted - have, key=str):
        flags = {"flags": _NODAD} if address.version == 6 else {}
        add = _call(ip.addr, "add", index=index, address=str(address), prefixlen=length, **flags)
        _try(add, f"{what}: address {address} was not added", outcome)
    for address, length in sorted(have - wanted, key=str):
        remove = _call(ip.addr, "del", index=index, address=str(address), prefixlen=length)
        _try(remove, f"{what}: address {address} was not removed", outcome)


def _add_entries(ip: IPRoute, tunnel: Tunnel, outcome: Outcome, alive: Callable[[], None]) -> None:
    entries, neighbours = _fdb(ip, outcome.link), _neighbours(ip, outcome.link)
    for mac, underlay in tunnel.fdb.items():
        for stray in [each for each in entries.get(mac, []) if each != underlay]:
            _remove_entry(ip, outcome, mac, stray)
        if underlay not in entries.get(mac, []):
            add = _call(ip.fdb, "add", ifindex=outcome.link, lladdr=mac, dst=str(underlay), state=_PERMANENT)
            _try(add, f"fdb entry {mac} dst {underlay} was not made", outcome)
        alive()
    for address, mac in tunnel.neighbours.items():
        if neighbours.get(address) != (mac, True):
            replace = _call(ip.neigh, "replace", ifindex=outcome.link, dst=str(address), lladdr=mac, state=_PERMANENT)
            _try(replace, f"neighbour {address} lladdr {mac} was not made", outcome)
        alive()


def trim(ip: IPRoute, tunnel: Tunnel, outcome: Outcome) -> None:
    """Remove the entries that no route needs any more: after the routes were changed."""
    for mac, dsts in _fdb(ip, outcome.link).items():
        if mac not in tunnel.fdb:
            for underlay in dsts:
                _remove_entry(ip, outcome, mac, underlay)
    for address, (mac, permanent) in _neighbours(ip, outcome.link).items():
        if permanent and address not in tunnel.neighbours:
            remove = _call(ip.neigh, "del", ifindex=outcome.link, dst=str(address))
            _try(remove, f"neighbour {address} lladdr {mac} was not removed", outcome)


def _remove_entry(ip: IPRoute, outcome: Outcome, mac: str, underlay: Address) -> None:
    remove = _call(ip.fdb, "del", ifindex=outcome.link, lladdr=mac, dst=str(underlay))
    _try(remove, f"fdb entry {mac} dst {underlay} was not removed", outcome)


def _fdb(ip: IPRoute, link: int) -> dict[str, list[Address]]:
    found: dict[str, list[Address]] = {}
    for each in ip.fdb("dump", ifindex=link):
        entry = held(each)
        if each["ifindex"] == link and "NDA_DST" in entry:
            found.setdefault(str(entry["NDA_LLADDR"]), []).append(ipaddress.ip_address(entry["NDA_DST"]))
    return found


def _neighbours(ip: IPRoute, link: int) -> dict[Address, tuple[str, bool]]:
    found: dict[Address, tuple[str, bool]] = {}
    for family in FAMILIES:
        for each in ip.get_neighbours(family=family, ifindex=link):
            entry = held(each)
            if each["ifindex"] == link and "NDA_DST" in entry:
                permanent = bool(each["state"] & _PERMANENT)
                found[ipaddress.ip_address(entry["NDA_DST"])] = (str(entry.get("NDA_LLADDR", "")), permanent)
    return found


def remove_all(ip: IPRoute, device: Device) -> Outcome:
    """Remove every link of ours."""
    return prepare(ip, device, None)


def _call(function: Callable[..., Any], *arguments: Any, **named: Any) -> Callable[[], Any]:
    return lambda: function(*arguments, **named)


def _try(do: Callable[[], Any], what: str, outcome: Outcome) -> None:
    try:
        do()
    except NetlinkError as fault:
        outcome.faults.append(f"{what}: {reason(fault)}")
    except OSError as fault:
        outcome.faults.append(f"{what}: {fault}")


def _set(name: str, value: str, outcome: Outcome) -> None:
    path = _CONF / name
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except FileNotFoundError:
        pass  # no IPv6 in this kernel, or the link is gone again
    except OSError as fault:
        outcome.faults.append(f"net.{name.replace('/', '.')} was not set to {value}: {fault}")


def _offloads_checksums(name: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(_ethtool(name, _ETHTOOL_GTXCSUM, 0))
    return False


def _checksums_off(name: str) -> None:
    _ethtool(name, _ETHTOOL_STXCSUM, 0)


def _ethtool(name: str, command: int, value: int) -> int:
    # struct ifreq with a pointer to struct ethtool_value (linux/ethtool.h).
    data = array.array("I", (command, value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sP16x", name.encode(), data.buffer_info()[0])
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
    return data[1]
