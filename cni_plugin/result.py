"""An attachment as the result that the configuration's version asks for (specification, section 5)."""

from cni_plugin import ipam
from cni_plugin.attachment import GATEWAY, HOST_MAC, Attachment
from cni_plugin.spec import parse_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def format_mac(mac: bytes) -> str:
    """Six bytes as `0a:58:0a:f4:00:05`."""
    return mac.hex(":")


def of_attachment(attachment: Attachment, cni_version: str, dns: "dict[str, Any]") -> "dict[str, Any]":
    """The result of ADD."""
    address, gateway = ipam.format_address(attachment.address), ipam.format_address(GATEWAY)
    routes = [{"dst": route, "gw": gateway} for route in attachment.routes]
    version = parse_version(cni_version)
    if version < (0, 3, 0):
        answer: dict[str, Any] = {
            "cniVersion": cni_version,
            "ip4": {"ip": f"{address}/32", "gateway": gateway, "routes": routes},
        }
    else:
        ends: list[dict[str, Any]] = [
            {"name": attachment.host_link, "mac": format_mac(HOST_MAC)},
            {"name": attachment.ifname, "mac": format_mac(attachment.mac), "sandbox": attachment.netns},
        ]
        if version >= (1, 1, 0):
            for end in ends:
                end["mtu"] = attachment.mtu
        ip: dict[str, Any] = {"address": f"{address}/32", "gateway": gateway, "interface": 1}
        if version < (1, 0, 0):
            ip["version"] = "4"
        answer = {"cniVersion": cni_version, "interfaces": ends, "ips": [ip], "routes": routes}
    if dns:
        answer["dns"] = dns
    return answer
