"""What the tests of this package begin with: a configuration, an environment, an attachment."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import strategies as st

from cni_plugin import claims, config, ipam
from cni_plugin.attachment import Address, Attachment, HostPort, derived_mac, lease_id
from cni_plugin.call import Call
from cni_plugin.spec import CniError

COOKIE = 4242


def _is_unmapped(address: IPv4Address | IPv6Address) -> bool:
    return address.version == 4 or address.ipv4_mapped is None


# Of both families, without ::ffff:0:0/96, whose addresses are IPv4 in other clothes.
ADDRESSES = st.ip_addresses().filter(_is_unmapped)


def configuration(**changes: Any) -> dict[str, Any]:
    """A configuration that is right; a change to None takes the key away."""
    document: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "name": "pods",
        "type": "podwire",
        "ipam": {"ranges": [[{"subnet": "10.1.0.0/24"}]]},
    }
    document.update(changes)
    return {key: value for key, value in document.items() if value is not None}


def ipam_with(**changes: Any) -> dict[str, Any]:
    """The key `ipam` with changes, None taking a key away; an argument for `configuration`."""
    section: dict[str, Any] = {"ranges": [[{"subnet": "10.1.0.0/24"}]], **changes}
    return {"ipam": {key: value for key, value in section.items() if value is not None}}


def environment(command: str = "ADD", **changes: str) -> dict[str, str]:
    """The variables of a call; a change to the empty string leaves one out."""
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    variables.update(changes)
    return {key: value for key, value in variables.items() if value}


def network(command: str = "ADD", variables: dict[str, str] | None = None, **changes: Any) -> config.Network:
    """What a call of `command` takes its configuration for."""
    return config.network(configuration(**changes), Call(environment(command, **(variables or {}))))


def attachment(
    container_id: str = "c1",
    ifname: str = "eth0",
    *texts: str,
    ports: list[HostPort] | None = None,
    pod: str = "shop/cart",
    routes: list[dict[str, Any]] | None = None,
    table: int = 0,
    sticky: tuple[str, int] | None = None,
    host_link: str | None = None,
) -> Attachment:
    """An attachment as ADD makes it with the addresses in `texts`, each of which has a default route."""
    addresses = [Address(ipam.parse_address(text)) for text in texts]
    defaults = [
        {"dst": "0.0.0.0/0" if each.prefix == 32 else "::/0", "gw": ipam.format_address(each.gateway)}
        for each in addresses
    ]
    return Attachment(
        container_id=container_id,
        ifname=ifname,
        network="pods",
        pod=pod,
        netns=f"/run/netns/{container_id}",
        netns_cookie=77,
        host_link=lease_id(container_id, ifname) if host_link is None else host_link,
        group=0x7077,
        mtu=1500,
        mac=derived_mac(addresses[0].packed) if addresses else b"",
        addresses=addresses,
        routes=defaults if routes is None else routes,
        table=table,
        host_ports=ports or [],
        sticky=sticky,
        created=claims.boot_time(),
    )


def fails(code: int, *words: str) -> Any:
    """A context in which CniError `code` is raised, whose message and details hold all the words."""

    def matches(fault: CniError) -> bool:
        text = f"{fault.message} | {fault.details}"
        missing = [word for word in words if word not in text]
        assert not missing, f"{missing} not in {text!r}"
        assert fault.code == code, f"code {fault.code}: {text}"
        return True

    return pytest.raises(CniError, check=matches)
