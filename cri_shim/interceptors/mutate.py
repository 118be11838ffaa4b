"""Adds to what pods and containers ask for; never changes or takes away what is there, but for ceilings and handlers.

What belongs to the pod is added to RunPodSandbox and to the pod's configuration that CreateContainer repeats
alike, so that the runtime reads the same twice; adding twice is adding once. kubelet finds its pods by labels
and annotations of its own, which no rule may name. The keys of `do` are in docs/interceptor-mutate.md.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cri_shim.capabilities import Setup
from cri_shim.errors import ConfigError
from cri_shim.interceptors.ruled import Matched, Ruled
from cri_shim.parts import LIFE_CYCLE, container_of, pod_of
from cri_shim.rules import Rule
from cri_shim.schema import RuntimeMessage, enum
from cri_shim.settings import Setting, boolean, choice, strings, table, take, text, type_name

UPDATE = "UpdateContainerResources"
# Of kubelet (k8s.io/kubelet/pkg/types, pkg/kubelet/kuberuntime/labels.go).
RESERVED = ("io.kubernetes.", "kubernetes.io/")
# Microseconds; the kernel's default, and kubelet's.
CPU_PERIOD = 100_000
UNLIMITED = -1
# resolv.conf(5): more are not asked.
DNS_SERVERS = 3


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a container may have at most; 0 is no ceiling."""

    memory: int = 0
    cpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Dns:
    """`servers` take the place of the pod's; the others are added."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Handlers:
    """Runtime handlers of pods that are privileged or share a namespace of the node, and of the others; None: as is."""

    host: str | None = None
    plain: str | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """A rule's `do`; the keys have the same names. Mounts and devices are fields of their messages."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    dns: Dns = Dns()
    runtime_handler: Handlers = Handlers()
    container_labels: Mapping[str, str] = field(default_factory=dict)
    container_annotations: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mapping[str, Any], ...] = ()
    devices: tuple[Mapping[str, Any], ...] = ()
    cdi_devices: tuple[str, ...] = ()
    ceilings: Ceilings = Ceilings()

    def says(self, *keys: str) -> list[str]:
        """Which of these keys ask for something, of all when none is named."""
        usual = Action()
        return [key for key in keys or self.__slots__ if getattr(self, key) != getattr(usual, key)]


REPEATED = ("labels", "annotations", "dns")
OF_POD = (*REPEATED, "runtime_handler")
OF_CONTAINER = tuple(key for key in Action.__slots__ if key not in OF_POD)


class Mutate(Ruled):
    """Adds labels, annotations, environment, mounts, devices, DNS; lowers limits; chooses the runtime handler."""

    name = "mutate"
    methods = (*LIFE_CYCLE, UPDATE)

    def __init__(self, setup: Setup) -> None:
        faults = [f"mutate.{key}: mutate has no settings" for key in setup.settings]
        faults += [fault for rule in setup.rules for fault in _narrow(rule)]
        try:
            super().__init__(setup)
        except ConfigError as several:
            faults += several.faults
        if faults:
            raise ConfigError(faults)

    @classmethod
    def parse(cls, do: Mapping[str, Any]) -> Action:
        action = Action(**take(KEYS, do))
        if not action.says():
            raise ValueError(f"says nothing to do; known are {', '.join(Action.__slots__)}")
        return action

    @classmethod
    def acts(cls, action: Action, method: str) -> bool:
        keys = {"RunPodSandbox": OF_POD, "CreateContainer": REPEATED + OF_CONTAINER, UPDATE: ("ceilings",)}
        return bool(action.says(*keys[method]))

    @classmethod
    def explain(cls, action: Action) -> str:
        said = []
        for key in action.says():
            value = getattr(action, key)
            told = ", ".join(value) if isinstance(value, Mapping) else ", ".join(_told(value))
            said.append(f"{key.replace('_', ' ')} {told}")
        return "; ".join(said)

    async def change_request(self, match: Matched, request: RuntimeMessage) -> None:
        action: Action = match.action
        if match.call.name == UPDATE:
            lower(request.linux, action.ceilings, unset=0)
            return
        container = container_of(request)
        if container is None or request.HasField("sandbox_config"):
            change_pod(action, pod_of(request))
        if container is not None:
            change_container(action, container)
        elif (handler := _handler(action.runtime_handler, request.config)) is not None:
            request.runtime_handler = handler


def change_pod(action: Action, pod: RuntimeMessage) -> None:
    """What is the same in RunPodSandbox and in CreateContainer's sandbox_config."""
    _add(pod.labels, action.labels)
    _add(pod.annotations, action.annotations)
    wanted = action.dns
    dns = pod.dns_config
    if wanted.servers and tuple(dns.servers) != wanted.servers:
        dns.servers[:] = wanted.servers
    # Without a server the pod gets the node's resolv.conf; a search list alone would replace that.
    if dns.servers:
        dns.searches.extend(one for one in wanted.searches if one not in dns.searches)
        named = {_option(one) for one in dns.options}
        dns.options.extend(one for one in wanted.options if _option(one) not in named)


def change_container(action: Action, container: RuntimeMessage) -> None:
    """What is the container's own."""
    _add(container.labels, action.container_labels)
    _add(container.annotations, action.container_annotations)
    named = {one.key for one in container.envs}
    for key, value in action.environment.items():
        if key not in named:
            container.envs.add(key=key, value=value.encode())
    for field_name, wanted in (("mounts", action.mounts), ("devices", action.devices)):
        present = getattr(container, field_name)
        taken = {posixpath.normpath(one.container_path) for one in present}
        for one in wanted:
            if posixpath.normpath(one["container_path"]) not in taken:
                present.add(**one)
    cdi = {one.name for one in container.CDI_devices}
    for name in action.cdi_devices:
        if name not in cdi:
            container.CDI_devices.add(name=name)
    if action.says("ceilings"):
        lower(container.linux.resources, action.ceilings, unset=UNLIMITED)


def lower(resources: RuntimeMessage, ceilings: Ceilings, unset: int) -> None:
    """Bring limits down to the ceilings. `unset` is what 0 means: UNLIMITED when creating; 0, as is, in an update."""
    asked = resources.memory_limit_in_bytes or unset
    if ceilings.memory and (asked < 0 or asked > ceilings.memory):
        # Memory and swap together: what of it is swap stays.
        together = resources.memory_swap_limit_in_bytes
        if together > 0:
            swap = max(0, together - asked) if asked > 0 else together
            resources.memory_swap_limit_in_bytes = min(together, ceilings.memory + swap)
        resources.memory_limit_in_bytes = ceilings.memory
    period = resources.cpu_period or CPU_PERIOD
    most = round(ceilings.cpus * period)
    quota = resources.cpu_quota or unset
    if most and (quota < 0 or quota > most):
        resources.cpu_period, resources.cpu_quota = period, most


def _handler(handlers: Handlers, pod: RuntimeMessage) -> str | None:
    context = pod.linux.security_context
    options = context.namespace_options
    node = enum("NamespaceMode")["NODE"]
    host = context.privileged or node in (options.network, options.pid, options.ipc)
    return handlers.host if host else handlers.plain


def _add(present: Any, wanted: Mapping[str, str]) -> None:
    for key, value in wanted.items():
        if key not in present:
            present[key] = value


def _option(option: str) -> str:
    return option.partition(":")[0]


def _narrow(rule: Rule) -> Iterator[str]:
    """Faults of a rule that would meet a pod's RunPodSandbox but not all of its CreateContainer, or the reverse."""
    asked = [key for key in OF_POD if key in rule.do]
    for name, match in (("match", rule.match), ("unless", rule.unless)):
        narrow = [key for key in ("methods", "containers", "images") if match is not None and getattr(match, key)]
        if asked and narrow:
            yield (
                f"rule {rule.name}: {', '.join(asked)} belong to the whole pod; take {', '.join(narrow)} out of {name} "
                "or move the rest to a rule of its own"
            )


def _told(value: Any) -> Iterator[str]:
    if isinstance(value, tuple):
        yield from (one if isinstance(one, str) else one["container_path"] for one in value)
    else:
        for key in value.__slots__:
            one = getattr(value, key)
            if one not in (0, None, ()):
                yield f"{key} {', '.join(one) if isinstance(one, tuple) else one or repr(one)}"


def _pairs(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(key and isinstance(one, str) for key, one in value.items()):
        raise ValueError(f'must be a table of key = "value", not {type_name(value)}')
    if reserved := [key for key in value if key.startswith(RESERVED)]:
        raise ValueError(f"{', '.join(reserved)}: keys that begin with {' or '.join(RESERVED)} are kubelet's own")
    return dict(value)


def _environment(value: Any) -> Mapping[str, str]:
    pairs = _pairs(value)
    if odd := [key for key in pairs if "=" in key or "\0" in key + pairs[key]]:
        raise ValueError(f"{odd[0]!r} is no environment variable: no '=' in its name, no zero byte")
    return pairs


def _absolute(value: Any) -> str:
    path = text(value)
    if not path.startswith("/"):
        raise ValueError(f"must be an absolute path, not {path!r}")
    return path


def _permissions(value: Any) -> str:
    if not re.fullmatch("r?w?m?", text(value)) or not value:
        raise ValueError(f"must be of r, w and m in this order, not {value!r}")
    return str(value)


def _propagation(value: Any) -> int:
    words = {name.removeprefix("PROPAGATION_").lower(): number for name, number in enum("MountPropagation").items()}
    return words[choice(*words)(value)]


def _list_of(rows: Sequence[Setting], usual: Mapping[str, Any]) -> Any:
    def parse(value: Any) -> tuple[Mapping[str, Any], ...]:
        if not isinstance(value, list):
            raise ValueError(f"must be a list of tables, not {type_name(value)}")
        found = []
        for number, one in enumerate(value, 1):
            taken = take(rows, table(one), str(number))
            if "host_path" not in taken:
                raise ValueError(f"{number}.host_path is missing")
            found.append({"container_path": taken["host_path"], **usual, **taken})
        return tuple(found)

    return parse


def _addresses(value: Any) -> tuple[str, ...]:
    servers = strings('addresses such as ["169.254.20.10"]')(value)
    for one in servers:
        ipaddress.ip_address(one)
    if len(servers) > DNS_SERVERS:
        raise ValueError(f"holds {len(servers)} servers; resolvers ask the first {DNS_SERVERS} only")
    return servers


def _dns(value: Any) -> Dns:
    return Dns(**take(DNS_KEYS, table(value)))


def _handlers(value: Any) -> Handlers:
    if isinstance(value, str):
        return Handlers(value, value)
    return replace(Handlers(), **take(HANDLER_KEYS, table(value)))


def _ceilings(value: Any) -> Ceilings:
    return Ceilings(**take(CEILING_KEYS, table(value)))


def _bytes(value: Any) -> int:
    found = re.fullmatch(r"(\d{1,15})(Ki|Mi|Gi)?", str(value)) if not isinstance(value, bool) else None
    if found is None or int(found[1]) == 0:
        raise ValueError(f'must be a number of bytes or such as "512Mi" (Ki, Mi, Gi), not {value!r}')
    return int(found[1]) << {None: 0, "Ki": 10, "Mi": 20, "Gi": 30}[found[2]]


def _cpus(value: Any) -> float:
    # The kernel takes no quota below 1 ms.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 <= value <= 4096:
        raise ValueError(f"must be a number of processors from 0.01 to 4096, not {value!r}")
    return float(value)


PATHS = (Setting("container_path", "container_path", _absolute), Setting("host_path", "host_path", _absolute))
MOUNT_KEYS = (*PATHS, Setting("readonly", "readonly", boolean), Setting("propagation", "propagation", _propagation))
DEVICE_KEYS = (*PATHS, Setting("permissions", "permissions", _permissions))
DNS_KEYS = (
    Setting("servers", "servers", _addresses),
    Setting("searches", "searches", strings('domains such as ["svc.example"]')),
    Setting("options", "options", strings('options such as ["ndots:2"]')),
)
HANDLER_KEYS = (Setting("host", "host", text), Setting("plain", "plain", text))
CEILING_KEYS = (Setting("memory", "memory", _bytes), Setting("cpus", "cpus", _cpus))
KEYS = (
    *(Setting(name, name, _pairs) for name in ("labels", "annotations", "container_labels", "container_annotations")),
    Setting("dns", "dns", _dns),
    Setting("runtime_handler", "runtime_handler", _handlers),
    Setting("environment", "environment", _environment),
    Setting("mounts", "mounts", _list_of(MOUNT_KEYS, {"readonly": True})),
    Setting("devices", "devices", _list_of(DEVICE_KEYS, {"permissions": "rw"})),
    Setting("cdi_devices", "cdi_devices", strings('devices such as ["vendor.example/gpu=all"]')),
    Setting("ceilings", "ceilings", _ceilings),
)
