"""The network configuration on standard input to one value; the only place that judges it.

Every fault of a configuration is reported at once. Sources: the specification's section 1 and CONVENTIONS.md.
"""

from cni_plugin import ipam, jsontext, ports
from cni_plugin.call import Call, valid_name
from cni_plugin.spec import (
    CURRENT_VERSION,
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIGURATION,
    SUPPORTED_VERSIONS,
    UNSUPPORTED_FIELD,
    VERB_SINCE,
    CniError,
    parse_version,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni_plugin.attachment import HostPort

STATE_DIR = "/run/podwire"
COOLDOWN_SECONDS = 30
COOLDOWN_LIMIT = 3600
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
CAPABILITIES = ("portMappings", "ips", "mac", "ipRanges", "dns", ANNOTATIONS)

# What the specification and CONVENTIONS.md give to every plugin.
_COMMON_KEYS = (
    "cniVersion", "cniVersions", "name", "type", "args", "capabilities", "dns", "ipam", "prevResult",
    "runtimeConfig", "disableCheck", "disableGC", "loadOnlyInlinedPlugins",
)  # fmt: skip
_OWN_KEYS = ("ipMasq", "noMasquerade", "mtu", "stateDir", "log", "chained")
_IPAM_KEYS = ("type", "ranges", "exclude", "routes", "cooldownSeconds")
_RANGE_KEYS = ("subnet", "rangeStart", "rangeEnd", "gateway")
_ROUTE_KEYS = ("dst", "gw", "mtu", "advmss", "priority", "table", "scope")
_DEFAULT_ROUTES = {4: "0.0.0.0/0", 16: "::/0"}
_RT_SCOPE_LINK = 253


class Network:
    """A network configuration, checked. `range_sets` is empty where the verb, role or type needs none."""

    __slots__ = (
        "chained", "cni_version", "cooldown", "dns", "host_ports", "ip_masq", "log", "mac", "mtu", "name",
        "no_masquerade", "prev_result", "range_sets", "requested", "routes", "state_dir", "sticky", "type",
        "wants_host_ports",
    )  # fmt: skip

    cni_version: str
    name: str
    type: str
    range_sets: "list[ipam.RangeSet]"
    cooldown: int
    routes: "list[dict[str, Any]]"
    ip_masq: bool
    no_masquerade: "list[str]"
    mtu: int
    state_dir: str
    log: str
    dns: "dict[str, Any]"
    prev_result: "dict[str, Any] | None"
    host_ports: "list[HostPort]"
    wants_host_ports: bool
    chained: "list[str]"
    requested: "list[bytes]"
    mac: bytes
    sticky: "tuple[str, int] | None"

    def widths(self) -> "list[int]":
        """The families that an attachment gets addresses of, as widths in bytes (4, 16)."""
        return sorted({each.width for each in self.range_sets})


def decode(raw: bytes) -> "dict[str, Any]":
    """Standard input to a JSON object. Raises CniError 6."""
    try:
        document = jsontext.loads(raw)
    except ValueError as fault:
        raise CniError(DECODING_FAILURE, f"the network configuration on stdin is not JSON: {fault}") from None
    if not isinstance(document, dict):
        raise CniError(DECODING_FAILURE, "the network configuration on stdin is no JSON object")
    return document


def version_of(document: "dict[str, Any]") -> str:
    """The configuration's version; absent means 0.1.0. Raises CniError 1 or 6."""
    version = document.get("cniVersion", "0.1.0")
    if not isinstance(version, str):
        raise CniError(DECODING_FAILURE, f"cniVersion {version!r} is no string")
    version = version or "0.1.0"
    if version not in SUPPORTED_VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion {version!r} is not supported",
            f"this plugin supports {', '.join(SUPPORTED_VERSIONS)}",
        )
    return version


def echo_version(document: "dict[str, Any]") -> str:
    """The version to put into an error document, whatever the configuration looks like."""
    version = document.get("cniVersion")
    return version if isinstance(version, str) and version in SUPPORTED_VERSIONS else CURRENT_VERSION


def network(document: "dict[str, Any]", call: Call) -> Network:
    """The configuration for a verb. Raises CniError 1, 2, 6 or 7 with every fault found.

    DEL judges only what it needs to find the records, so that no later edit of a configuration can keep it
    from cleaning up.
    """
    checked = Network()
    command = call.command
    checked.cni_version = version_of(document)
    if parse_version(checked.cni_version) < VERB_SINCE[command]:
        since = ".".join(map(str, VERB_SINCE[command]))
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"{command} came with CNI {since}, the configuration says {checked.cni_version}",
            f"set cniVersion to {since} or later",
        )
    faults: list[str] = []
    name = document.get("name")
    if not isinstance(name, str) or not valid_name(name):
        faults.append(f"name {name!r} must begin with a letter or digit and hold only letters, digits, '_', '.', '-'")
        name = ""
    checked.name = name
    checked.type = document.get("type", "")
    if not isinstance(checked.type, str) or not checked.type:
        faults.append("type is missing")
    checked.state_dir = _path(document, "stateDir", STATE_DIR, (), faults)
    _own_keys(document, checked, [] if command == "DEL" else faults)
    prev_result = document.get("prevResult")
    checked.prev_result = prev_result if isinstance(prev_result, dict) else None
    checked.host_ports, checked.range_sets, checked.routes = [], [], []
    checked.requested, checked.mac, checked.sticky, checked.cooldown = [], b"", None, COOLDOWN_SECONDS
    if command != "DEL" and checked.type != "loopback":
        _unknown_keys(document, _COMMON_KEYS + _OWN_KEYS, "")
        if not checked.chained:
            _ipam(document, call, checked, faults)
            if command == "ADD" and prev_result is not None:
                faults.append(
                    "prevResult is given: podwire makes the interface itself and comes first in a list; behind "
                    'another plugin say what it is to do there, as in "chained": ["portMappings"]'
                )
        elif command == "ADD":
            _behind_another(document, checked, faults)
        if command == "CHECK" and checked.prev_result is None:
            faults.append("prevResult is missing: CHECK compares with it")
    if faults:
        raise CniError(
            INVALID_CONFIGURATION,
            f"network configuration {name!r}: {'; '.join(faults)}",
            "correct the conflist; the keys are explained in conf/10-podwire.conflist and docs/configuration.md",
        )
    return checked


def _own_keys(document: "dict[str, Any]", checked: Network, faults: "list[str]") -> None:
    checked.ip_masq = typed(document, "ipMasq", bool, False, faults)
    checked.mtu = typed(document, "mtu", int, 0, faults)
    if checked.mtu and not 68 <= checked.mtu <= 65535:
        faults.append(f"mtu {checked.mtu} is neither 0 (as the routes out of the node) nor 68-65535")
    checked.dns = typed(document, "dns", dict, {}, faults)
    checked.log = _path(document, "log", "syslog", ("syslog", "none"), faults)
    checked.no_masquerade = []
    for text in typed(document, "noMasquerade", list, [], faults):
        try:
            ipam.parse_exclusion(text)
            checked.no_masquerade.append(text)
        except ValueError as fault:
            faults.append(f"noMasquerade: {fault}")
    capabilities = typed(document, "capabilities", dict, {}, faults)
    checked.wants_host_ports = bool(capabilities.get("portMappings"))
    for name, wanted in capabilities.items():
        if wanted and name not in CAPABILITIES:
            faults.append(f"capabilities.{name} asks for what podwire does not do (it does {', '.join(CAPABILITIES)})")
    checked.chained = typed(document, "chained", list, [], faults)
    if checked.chained and checked.chained != ["portMappings"]:
        faults.append(f'chained {jsontext.dumps(checked.chained)[:80]}: it can be ["portMappings"]')


def _path(document: "dict[str, Any]", key: str, default: str, words: "tuple[str, ...]", faults: "list[str]") -> str:
    value: str = typed(document, key, str, default, faults)
    if value in words:
        return value
    if not value.startswith("/") or not value.isprintable():
        faults.append(f"{key} {value!r} is no absolute path{''.join(f', nor {word}' for word in words)}")
        return default
    return value.rstrip("/") or "/"


def typed(
    document: "dict[str, Any]", key: str, kind: type, default: "Any", faults: "list[str]", where: str = ""
) -> "Any":
    """The value of a key, or `default` where it is absent, null or, with a fault, of another type."""
    value = document.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        faults.append(f"{where}{key} {jsontext.dumps(value)[:80]} must be of type {kind.__name__}")
        return default
    return value


def _unknown_keys(found: "dict[str, Any]", known: "tuple[str, ...]", where: str) -> None:
    # A key with a slash belongs to somebody's domain (cni.dev/..., example.com/...): not ours to judge.
    for key, value in found.items():
        if key in known or "/" in key:
            continue
        from difflib import get_close_matches

        close = get_close_matches(key, known, 1)
        raise CniError(
            UNSUPPORTED_FIELD,
            f"unknown key {where}{key} with value {jsontext.dumps(value)[:80]}",
            f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}",
        )


def _ipam(document: "dict[str, Any]", call: Call, checked: Network, faults: "list[str]") -> None:
    section = document.get("ipam")
    if not isinstance(section, dict):
        faults.append('ipam is missing: give {"ranges": [[{"subnet": "10.244.0.0/24"}]]}')
        return
    _unknown_keys(section, _IPAM_KEYS, "ipam.")
    if section.get("type", "podwire") != "podwire":
        faults.append(f"ipam.type {section['type']!r}: podwire allocates addresses itself; leave ipam.type out")
    checked.cooldown = typed(section, "cooldownSeconds", int, COOLDOWN_SECONDS, faults)
    if not 0 <= checked.cooldown <= COOLDOWN_LIMIT:
        faults.append(f"ipam.cooldownSeconds {checked.cooldown} is not from 0 to {COOLDOWN_LIMIT}")
    excluded = []
    for text in typed(section, "exclude", list, [], faults):
        try:
            excluded.append(ipam.parse_exclusion(text))
        except ValueError as fault:
            faults.append(f"ipam.exclude: {fault}")
    runtime = document.get("runtimeConfig")
    if runtime is not None and not isinstance(runtime, dict):
        faults.append("runtimeConfig is no object")
        runtime = None
    sets = section.get("ranges")
    if runtime and runtime.get("ipRanges"):
        # As host-local: the runtime's sets come first, and there is an address out of each set of both.
        checked.range_sets = range_sets(runtime["ipRanges"], excluded, "runtimeConfig.ipRanges", faults)
    # A network may leave its ranges to the runtime, which passes them with ADD alone.
    left_to_runtime = call.command != "ADD" and typed(document, "capabilities", dict, {}, []).get("ipRanges")
    if sets is not None or not (checked.range_sets or left_to_runtime):
        checked.range_sets += range_sets(sets, excluded, "ipam.ranges", faults)
    _overlaps(checked.range_sets, faults)
    widths = [each.width for each in checked.range_sets]
    if parse_version(checked.cni_version) < (0, 3, 0) and len(widths) > len(set(widths)):
        faults.append(f"a result of CNI {checked.cni_version} holds one address of a family, the ranges give more")
    _routes(section, checked, faults)
    if call.command == "ADD" and runtime:
        checked.host_ports = ports.parse_mappings(runtime.get("portMappings"), widths, faults)
    if call.command == "ADD" and (runtime or "args" in document or "IP" in call.args or "MAC" in call.args):
        from cni_plugin import requests

        requests.apply(document, call, checked, faults)


def range_sets(
    sets: object, excluded: "list[tuple[int, int, int]]", where: str, faults: "list[str]"
) -> "list[ipam.RangeSet]":
    """Range sets as host-local writes them: a list of sets, each a list of ranges of one family."""
    if not isinstance(sets, list) or not sets or not all(isinstance(each, list) and each for each in sets):
        faults.append(f'{where} must be a list of range sets, as [[{{"subnet": "10.244.0.0/24"}}]]')
        return []
    found = []
    for number, one in enumerate(sets):
        ranges: list[ipam.Range] = []
        for position, entry in enumerate(one):
            place = f"{where}[{number}][{position}]"
            if not isinstance(entry, dict):
                faults.append(f"{place} is no object")
                continue
            _unknown_keys(entry, _RANGE_KEYS, f"{place}.")
            try:
                each = ipam.Range(*(entry.get(key) for key in _RANGE_KEYS))
            except ValueError as fault:
                faults.append(f"{place}: {fault}")
                continue
            if ranges and each.width != ranges[0].width:
                faults.append(f"{place}: {each.subnet} is of another family than {ranges[0].subnet} in the same set")
                continue
            ranges.append(each)
        if ranges:
            found.append(ipam.RangeSet(ranges, excluded))
    return found


def _overlaps(sets: "list[ipam.RangeSet]", faults: "list[str]") -> None:
    ranges = [each for one in sets for each in one.ranges]
    for position, each in enumerate(ranges):
        for earlier in ranges[:position]:
            if each.overlaps(earlier):
                faults.append(f"the range of {each.subnet} overlaps that of {earlier.subnet}")


def _routes(section: "dict[str, Any]", checked: Network, faults: "list[str]") -> None:
    widths = checked.widths()
    seen = set()
    for position, route in enumerate(typed(section, "routes", list, [], faults)):
        where = f"ipam.routes[{position}]"
        if not isinstance(route, dict):
            faults.append(f"{where} is no object")
            continue
        _unknown_keys(route, _ROUTE_KEYS, f"{where}.")
        try:
            address, prefix = ipam.parse_network(route.get("dst"))
            stated: dict[str, Any] = {"dst": f"{ipam.format_address(ipam.mask(address, prefix))}/{prefix}"}
            gateway = ipam.parse_address(route["gw"]) if route.get("gw") else b""
        except ValueError as fault:
            faults.append(f"{where}: {fault}")
            continue
        if widths and len(address) not in widths:
            faults.append(f"{where}: dst {stated['dst']} is of a family that no range gives addresses of")
        if gateway:
            if len(gateway) != len(address):
                faults.append(f"{where}: gw {route['gw']} is of another family than dst {stated['dst']}")
            stated["gw"] = ipam.format_address(gateway)
        for key in _ROUTE_KEYS[2:]:
            value = typed(route, key, int, 0, faults, f"{where}.")
            if not 0 <= value < 1 << 32:
                faults.append(f"{where}: {key} {value} is out of range")
            elif value:
                stated[key] = value
        if stated.get("scope", 0) >= _RT_SCOPE_LINK:
            faults.append(f"{where}: scope {stated['scope']} is link or host, but pods reach everything by the node")
        identity = (stated["dst"], stated.get("table"), stated.get("priority"))
        if identity not in seen:
            seen.add(identity)
            checked.routes.append(stated)
    for width in widths:
        # A family that no route is given for has its default route.
        if not any((":" in route["dst"]) == (width == 16) for route in checked.routes):
            checked.routes.append({"dst": _DEFAULT_ROUTES[width]})


def _behind_another(document: "dict[str, Any]", checked: Network, faults: "list[str]") -> None:
    runtime = document.get("runtimeConfig")
    if checked.prev_result is None:
        faults.append("prevResult is missing: with the key chained, podwire works behind a plugin that made the link")
        return
    from cni_plugin import prevresult

    try:
        widths = [len(address) for address, _ in prevresult.addresses(checked.prev_result)]
    except ValueError as fault:
        faults.append(f"prevResult: {fault}")
        return
    if isinstance(runtime, dict):
        checked.host_ports = ports.parse_mappings(runtime.get("portMappings"), widths, faults)
