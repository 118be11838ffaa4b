"""The environment of one call (specification, section 2) to one value; the only place that judges it."""

from cni_plugin.spec import INVALID_ENVIRONMENT, VERB_SINCE, CniError

_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_FIRST | frozenset("_.-")
# Long enough for every runtime, short enough for a link's alias of 255 bytes.
_NAME_LIMIT = 200

# CNI_ARGS that mean something here, beside the pod that Kubernetes runtimes name (see `requests`).
_KNOWN_ARGS = ("IgnoreUnknown", "IP", "MAC")

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
        unknown = [key for key in pairs if key not in _KNOWN_ARGS and not key.startswith("K8S_POD_")]
        if unknown:
            faults.append(f"CNI_ARGS holds unknown {', '.join(unknown)} (IgnoreUnknown=1 lets them by)")
    return pairs
