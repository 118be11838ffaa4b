"""Standard input and environment of one call to one value; the only place that judges them.

Every fault of a configuration is reported at once. Sources: the specification's sections 1 (configuration) and
2 (parameters), CONVENTIONS.md for `runtimeConfig`, `args` and CNI_ARGS.
"""

from cni_plugin import ipam, jsontext, ports
from cni_plugin.attachment import HostPort
from cni_plugin.spec import (
    CURRENT_VERSION,
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIGURATION,
    INVALID_ENVIRONMENT,
    SUPPORTED_VERSIONS,
    UNSUPPORTED_FIELD,
    VERB_SINCE,
    CniError,
    parse_version,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATE_DIR = "/run/podwire"
COOLDOWN_SECONDS = 30

# What the specification and CONVENTIONS.md give to every plugin.
_COMMON_KEYS = (
    "cniVersion", "cniVersions", "name", "type", "args", "capabilities", "dns", "ipam", "prevResult",
    "runtimeConfig", "disableCheck", "disableGC", "loadOnlyInlinedPlugins",
)  # fmt: skip
_OWN_KEYS = ("ipMasq", "noMasquerade", "mtu", "stateDir", "log")
_IPAM_KEYS = ("type", "ranges", "exclude", "routes", "cooldownSeconds")
_RANGE_KEYS = ("subnet", "rangeStart", "rangeEnd", "gateway")

_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_FIRST | frozenset("_.-")
# Long enough for every runtime, short enough for a link's alias of 255 bytes.
_NAME_LIMIT = 200

# Which variables a verb needs (libcni's skel); DEL takes CNI_NETNS when there is one.
_NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
}


class Call:
    """The parameters of one call. `args` are the pairs of CNI_ARGS; `pod` is `namespace/name` where known."""

    __slots__ = ("args", "command", "container_id", "ifname", "netns", "search")

    def __init__(self, environment: "dict[str, str]") -> None:
        """Raises CniError 4, naming every variable that is missing or wrong."""
        self.command = environment["CNI_COMMAND"]
        if self.command not in VERB_SINCE:
            raise _environment(f"CNI_COMMAND {self.command!r} is none of {', '.join(VERB_SINCE)}")
        needed = _NEEDED.get(self.command, ())
        missing = [name for name in needed if not environment.get(name)]
        if missing:
            raise _environment(f"{self.command} needs {', '.join(missing)}, which is not set")
        self.container_id = environment.get("CNI_CONTAINERID", "")
        self.ifname = environment.get("CNI_IFNAME", "")
        self.netns = environment.get("CNI_NETNS", "")
        self.search = environment.get("PATH", "")
        faults = []
        if "CNI_CONTAINERID" in needed and not valid_name(self.container_id):
            faults.append(
                f"CNI_CONTAINERID {self.container_id[:_NAME_LIMIT]!r} must begin with a letter or digit and hold "
                f"only letters, digits, '_', '.', '-' (at most {_NAME_LIMIT})"
            )
        if "CNI_IFNAME" in needed:
            faults += _ifname_faults(self.ifname)
        self.args = _pairs(environment.get("CNI_ARGS", ""), faults) if self.command in ("ADD", "CHECK") else {}
        if faults:
            raise _environment("; ".join(faults))

    @property
    def pod(self) -> str:
        """The pod as Kubernetes runtimes name it in CNI_ARGS, or empty."""
        name = self.args.get("K8S_POD_NAME", "")
        return f"{self.args.get('K8S_POD_NAMESPACE', '')}/{name}" if name else ""


def _environment(message: str) -> CniError:
    return CniError(INVALID_ENVIRONMENT, message, "the runtime sets these variables; see the CNI specification, 2")


def valid_name(text: str) -> bool:
    """Whether `text` is a container id or network name by the specification, and short enough to be recorded."""
    return 0 < len(text) <= _NAME_LIMIT and text[0] in _NAME_FIRST and all(each in _NAME_REST for each in text)


def _ifname_faults(name: str) -> "list[str]":
    # dev_valid_name of the kernel: 1-15 bytes, not "." or "..", no slash, colon or white space, to which it counts
    # the byte 0xa0; a percent sign makes the name a pattern.
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > 15:
        return [f"CNI_IFNAME {name!r} has {len(raw)} bytes, the kernel takes 15"]
    if raw.decode("utf-8", "replace") != name:
        return [f"CNI_IFNAME {raw!r} is not UTF-8"]
    if name in (".", "..") or b"\xa0" in raw or any(each in "/:%" or each.isspace() or each < " " for each in name):
        return [f"CNI_IFNAME {name!r} must not be '.' or '..' nor hold '/', ':', '%', white space or the byte 0xa0"]
    return []


def _pairs(text: str, faults: "list[str]") -> "dict[str, str]":
    pairs = {}
    for part in text.split(";") if text else ():
        if part.count("=") != 1:
            faults.append(f"CNI_ARGS holds {part!r}, which is not KEY=VALUE")
            continue
        key, value = part.split("=")
        pairs[key] = value
    if pairs.get("IgnoreUnknown", "").lower() not in ("1", "true"):
        unknown = [key for key in pairs if key != "IgnoreUnknown" and not key.startswith("K8S_POD_")]
        if unknown:
            faults.append(f"CNI_ARGS holds unknown {', '.join(unknown)} (IgnoreUnknown=1 lets them by)")
    return pairs


class Network:
    """A network configuration, checked. `range_set` is None where the verb or the type needs none."""

    __slots__ = (
        "cni_version", "cooldown", "dns", "excluded", "host_ports", "ip_masq", "log", "mtu", "name",
        "no_masquerade", "prev_result", "range_set", "routes", "state_dir", "type", "valid_attachments",
        "wants_host_ports",
    )  # fmt: skip

    cni_version: str
    name: str
    type: str
    range_set: "ipam.RangeSet"
    cooldown: int
    routes: "list[str]"
    ip_masq: bool
    no_masquerade: "list[str]"
    mtu: int
    state_dir: str
    log: str
    dns: "dict[str, Any]"
    prev_result: "dict[str, Any] | None"
    host_ports: "list[HostPort]"
    wants_host_ports: bool
    valid_attachments: "list[tuple[str, str]] | None"


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


def network(document: "dict[str, Any]", command: str) -> Network:
    """The configuration for a verb. Raises CniError 1, 2, 6 or 7 with every fault found.

    DEL judges only what it needs to find the records, so that no later edit of a configuration can keep it
    from cleaning up.
    """
    checked = Network()
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
    checked.valid_attachments = _valid_attachments(document, faults) if command == "GC" else None
    prev_result = document.get("prevResult")
    checked.prev_result = prev_result if isinstance(prev_result, dict) else None
    checked.host_ports = []
    if command != "DEL" and checked.type != "loopback":
        _unknown_keys(document, _COMMON_KEYS + _OWN_KEYS, "")
        _ipam(document.get("ipam"), checked, faults)
        if command == "ADD":
            checked.host_ports = ports.parse_mappings(document.get("runtimeConfig"), faults)
            if checked.prev_result is not None:
                faults.append("prevResult is given: podwire makes the interface itself and comes first in a list")
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
    checked.ip_masq = _typed(document, "ipMasq", bool, False, faults)
    checked.mtu = _typed(document, "mtu", int, 0, faults)
    if checked.mtu and not 68 <= checked.mtu <= 65535:
        faults.append(f"mtu {checked.mtu} is neither 0 (as the route out of the node) nor 68-65535")
    checked.dns = _typed(document, "dns", dict, {}, faults)
    checked.log = _path(document, "log", "syslog", ("syslog", "none"), faults)
    checked.no_masquerade = []
    for text in _typed(document, "noMasquerade", list, [], faults):
        try:
            ipam.parse_exclusion(text)
            checked.no_masquerade.append(text)
        except ValueError as fault:
            faults.append(f"noMasquerade: {fault}")
    capabilities = _typed(document, "capabilities", dict, {}, faults)
    checked.wants_host_ports = bool(capabilities.get("portMappings"))
    for name, wanted in capabilities.items():
        if wanted and name != "portMappings":
            faults.append(f"capabilities.{name} asks for what this version does not do (it does portMappings)")


def _path(document: "dict[str, Any]", key: str, default: str, words: "tuple[str, ...]", faults: "list[str]") -> str:
    value: str = _typed(document, key, str, default, faults)
    if value in words:
        return value
    if not value.startswith("/") or not value.isprintable():
        faults.append(f"{key} {value!r} is no absolute path{''.join(f', nor {word}' for word in words)}")
        return default
    return value.rstrip("/") or "/"


def _typed(document: "dict[str, Any]", key: str, kind: type, default: "Any", faults: "list[str]") -> "Any":
    value = document.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        faults.append(f"{key} {jsontext.dumps(value)[:80]} must be of type {kind.__name__}")
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


def _ipam(section: object, checked: Network, faults: "list[str]") -> None:
    if not isinstance(section, dict):
        faults.append('ipam is missing: give {"ranges": [[{"subnet": "10.244.0.0/24"}]]}')
        return
    _unknown_keys(section, _IPAM_KEYS, "ipam.")
    if section.get("type", "podwire") != "podwire":
        faults.append(f"ipam.type {section['type']!r}: podwire allocates addresses itself; leave ipam.type out")
    checked.cooldown = _typed(section, "cooldownSeconds", int, COOLDOWN_SECONDS, faults)
    if checked.cooldown < 0:
        faults.append(f"ipam.cooldownSeconds {checked.cooldown} is negative")
    excluded = []
    for text in _typed(section, "exclude", list, [], faults):
        try:
            excluded.append(ipam.parse_exclusion(text))
        except ValueError as fault:
            faults.append(f"ipam.exclude: {fault}")
    checked.range_set = ipam.RangeSet(_ranges(section.get("ranges"), faults), excluded)
    checked.routes = []
    for position, route in enumerate(_typed(section, "routes", list, [], faults)):
        if not isinstance(route, dict) or set(route) - {"dst"}:
            faults.append(f"ipam.routes[{position}] takes dst alone: every route leads to the node")
            continue
        try:
            ipam.parse_subnet(route.get("dst"))
            if route["dst"] not in checked.routes:
                checked.routes.append(route["dst"])
        except ValueError as fault:
            faults.append(f"ipam.routes[{position}].dst: {fault}")
    checked.routes = checked.routes or ["0.0.0.0/0"]


def _ranges(sets: object, faults: "list[str]") -> "list[ipam.Range]":
    if not isinstance(sets, list) or not sets or not all(isinstance(each, list) and each for each in sets):
        faults.append('ipam.ranges must be a list of range sets, as [[{"subnet": "10.244.0.0/24"}]]')
        return []
    if len(sets) > 1:
        faults.append(f"ipam.ranges holds {len(sets)} range sets; this version gives one IPv4 address, from one set")
    ranges: list[ipam.Range] = []
    for position, entry in enumerate(sets[0]):
        where = f"ipam.ranges[0][{position}]"
        if not isinstance(entry, dict):
            faults.append(f"{where} is no object")
            continue
        _unknown_keys(entry, _RANGE_KEYS, f"{where}.")
        try:
            one = ipam.Range(entry.get("subnet"), entry.get("rangeStart"), entry.get("rangeEnd"), entry.get("gateway"))
        except ValueError as fault:
            faults.append(f"{where}: {fault}")
            continue
        for earlier in ranges:
            if one.overlaps(earlier):
                faults.append(f"{where}: {one.subnet} overlaps {earlier.subnet}")
        ranges.append(one)
    return ranges


def _valid_attachments(document: "dict[str, Any]", faults: "list[str]") -> "list[tuple[str, str]]":
    # The specification names cni.dev/valid-attachments; libcni also sends the older cni.dev/attachments.
    keys = [key for key in ("cni.dev/valid-attachments", "cni.dev/attachments") if key in document]
    if not keys:
        faults.append("cni.dev/valid-attachments is missing: nothing was removed, since everything would have been")
    attachments = []
    for key in keys:
        for entry in _typed(document, key, list, [], faults):
            ifname = (entry.get("ifname") or "") if isinstance(entry, dict) else None
            if isinstance(ifname, str) and isinstance(entry.get("containerID"), str):
                attachments.append((entry["containerID"], ifname))
            else:
                faults.append(f"{key} holds {jsontext.dumps(entry)[:80]}, which is no containerID with its ifname")
    return attachments
