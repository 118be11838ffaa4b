"""An attachment as the result that the configuration's version asks for (specification, section 5)."""

from cni_plugin import ipam
from cni_plugin.attachment import HOST_MAC, Attachment
from cni_plugin.spec import parse_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def format_mac(mac: bytes) -> str:
    """Six bytes as `0a:58:0a:f4:00:05`."""
    return mac.hex(":")


def of_attachment(attachment: Attachment, cni_version: str, dns: "dict[str, Any]") -> "dict[str, Any]":
    """The result of ADD."""
    version = parse_version(cni_version)
    answer: dict[str, Any] = {"cniVersion": cni_version}
    if version < (0, 3, 0):
        # At most one address of each family; config.network has seen to that.
        for each in attachment.addresses:
            width = len(each.packed)
            answer["ip4" if width == 4 else "ip6"] = {
                "ip": f"{each}/{each.prefix}",
                "gateway": ipam.format_address(each.gateway),
                "routes": [_route(route) for route in attachment.routes if (":" in route["dst"]) == (width == 16)],
            }
    else:
        ends: list[dict[str, Any]] = [
            {"name": attachment.host_link, "mac": format_mac(HOST_MAC)},
            {"name": attachment.ifname, "mac": format_mac(attachment.mac), "sandbox": attachment.netns},
        ]
        if version >= (1, 1, 0):
            for end in ends:
                end["mtu"] = attachment.mtu
        answer["interfaces"] = ends
        answer["ips"] = [
            {"address": f"{each}/{each.prefix}", "gateway": ipam.format_address(each.gateway), "interface": 1}
            | ({"version": "4" if len(each.packed) == 4 else "6"} if version < (1, 0, 0) else {})
            for each in attachment.addresses
        ]
        answer["routes"] = attachment.routes if version >= (1, 1, 0) else list(map(_route, attachment.routes))
    if dns:
        answer["dns"] = dns
    return answer


def _route(route: "dict[str, Any]") -> "dict[str, Any]":
    # mtu, advmss, priority, table and scope came with 1.1.0.
    return {"dst": route["dst"], "gw": route["gw"]}
