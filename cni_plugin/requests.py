"""What one call asks for beyond the configuration: addresses, a MAC, DNS, stickiness.

Precedence, by CONVENTIONS.md: `runtimeConfig` (there `ips` and `mac` before the pod's annotations), then `args.cni`,
then CNI_ARGS. The first source that names something decides it alone.
"""

from cni_plugin import config, ipam
from cni_plugin.attachment import HOST_MAC
from cni_plugin.call import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_IPS, _MAC = "podwire.dev/ips", "podwire.dev/mac"
_STICKY, _STICKY_SECONDS = "podwire.dev/sticky", "podwire.dev/sticky-seconds"
STICKY_SECONDS = 300
_STICKY_LIMIT = 30 * 24 * 3600
# runtimeConfig.dns (CONVENTIONS.md) -> result (specification, section 5).
_DNS_KEYS = {"servers": "nameservers", "searches": "search", "options": "options"}


def apply(document: "dict[str, Any]", call: Call, network: "config.Network", faults: "list[str]") -> None:
    """Fill `requested`, `mac`, `dns` and `sticky` of the network; what is wrong is appended to `faults`."""
    runtime = document.get("runtimeConfig")
    runtime = runtime if isinstance(runtime, dict) else {}
    annotations = config.typed(runtime, config.ANNOTATIONS, dict, {}, faults)
    args = config.typed(config.typed(document, "args", dict, {}, faults), "cni", dict, {}, faults)
    ips = (
        config.typed(runtime, "ips", list, [], faults)
        or _split(annotations, _IPS, faults)
        or config.typed(args, "ips", list, [], faults)
        or _split(call.args, "IP", faults)
    )
    network.requested = _addresses(ips, network, faults)
    mac = runtime.get("mac") or annotations.get(_MAC) or args.get("mac") or call.args.get("MAC")
    if mac:
        network.mac = _mac(mac, faults)
    if runtime.get("dns") is not None:
        network.dns = network.dns | _dns(config.typed(runtime, "dns", dict, {}, faults), faults)
    network.sticky = _sticky(annotations, call, network, faults)


def _split(source: "dict[str, Any]", key: str, faults: "list[str]") -> "list[str]":
    text: str = config.typed(source, key, str, "", faults)
    return [part.strip() for part in text.split(",")] if text else []


def _addresses(ips: "list[Any]", network: "config.Network", faults: "list[str]") -> "list[bytes]":
    addresses: list[bytes] = []
    for text in ips:
        try:
            # A prefix length may follow; in a routed network it says nothing.
            slashed = isinstance(text, str) and "/" in text
            address = ipam.parse_network(text)[0] if slashed else ipam.parse_address(text)
        except ValueError as fault:
            faults.append(f"requested address: {fault}")
            continue
        if address in addresses:
            faults.append(f"requested address {text} is given twice")
        addresses.append(address)
    return addresses


def _mac(text: object, faults: "list[str]") -> bytes:
    try:
        if not isinstance(text, str) or len(text) != 17 or {text[at] for at in range(2, 17, 3)} not in ({":"}, {"-"}):
            raise ValueError
        # int() alone would take signs, spaces, underscores and the digits of other scripts.
        pairs = [text[at : at + 2] for at in range(0, 17, 3)]
        mac = bytes(int(each, 16) for each in pairs if each.isascii() and each.isalnum())
        if len(mac) != 6:
            raise ValueError
    except ValueError:
        faults.append(f"requested MAC {text!r} is not six bytes as in 0a:58:0a:f4:00:05")
        return b""
    if mac[0] & 1 or not any(mac) or mac == HOST_MAC:
        faults.append(f"requested MAC {text!r} is no single interface's: it is multicast, zero or the node's end")
    return mac


def _dns(stated: "dict[str, Any]", faults: "list[str]") -> "dict[str, Any]":
    found = {}
    for key, name in _DNS_KEYS.items():
        values = config.typed(stated, key, list, [], faults)
        if not all(isinstance(value, str) for value in values):
            faults.append(f"runtimeConfig.dns.{key} holds something that is no text")
        elif values:
            found[name] = values
    return found


def _sticky(
    annotations: "dict[str, Any]", call: Call, network: "config.Network", faults: "list[str]"
) -> "tuple[str, int] | None":
    kind = annotations.get(_STICKY)
    if kind in (None, "", "false"):
        return None
    owner = {"name": call.pod, "uid": call.args.get("K8S_POD_UID", "")}.get(str(kind))
    if owner is None:
        faults.append(f"annotation {_STICKY} is {kind!r}, neither 'name' nor 'uid'")
        return None
    if not owner:
        faults.append(f"annotation {_STICKY} is {kind!r}, but the runtime told no pod {kind} in CNI_ARGS")
    text = annotations.get(_STICKY_SECONDS, str(STICKY_SECONDS))
    # The length comes first: int() refuses thousands of digits with an error of its own.
    digits = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= len(str(_STICKY_LIMIT))
    if not digits or not 0 < int(text) <= _STICKY_LIMIT:
        faults.append(f"annotation {_STICKY_SECONDS} {text!r:.40} is no number of seconds from 1 to {_STICKY_LIMIT}")
        return None
    return f"{network.name}/{call.ifname}/{kind}/{owner}", int(text)
