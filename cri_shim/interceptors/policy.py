"""Refuses what a pod may not ask of the node, or takes it out: privileges, host namespaces, host paths, sysctls.

A refusal is PERMISSION_DENIED and names everything its rule objects to, in the words of the pod's manifest,
with what to change; kubelet shows it in the pod's events. What may be done is said by rule (docs/interceptors.md).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from cri_shim.call import Code
from cri_shim.capabilities import Setup
from cri_shim.errors import ConfigError, RejectedError
from cri_shim.interceptors.ruled import Matched, Ruled
from cri_shim.parts import LIFE_CYCLE, container_of, pod_of
from cri_shim.schema import RuntimeMessage, enum
from cri_shim.settings import Setting, choice, strings, take, text

DENY, STRIP = "deny", "strip"
# Never StopContainer or a removal: a pod must be able to end.
REFUSABLE = (
    *("StartContainer", "Exec", "ExecSync", "Attach", "PortForward", "CheckpointContainer"),
    *("UpdateContainerResources", "UpdatePodSandboxResources", "PullImage"),
)
DEFAULTS: Mapping[str, Any] = {"kubelet_root": "/var/lib/kubelet"}
# Of one kind of fault, in a refusal: kubelet cuts an event's text at 1024 characters.
NAMED = 5


@dataclass(frozen=True, slots=True)
class Action:
    """A rule's `do`; the keys have the same names. Verdicts are "deny", "strip", or "" (not looked at)."""

    refuse: str = ""
    message: str = ""
    privileged: str = ""
    host_network: str = ""
    host_pid: str = ""
    host_ipc: str = ""
    capabilities: str = ""
    allowed_capabilities: tuple[str, ...] = ()
    host_paths: str = ""
    allowed_host_paths: tuple[str, ...] = ()
    allowed_read_only_host_paths: tuple[str, ...] = ()
    sysctls: str = ""
    allowed_sysctls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a rule objects to: what the manifest says, what it should say, and how to take it out."""

    verdict: str
    what: str
    fix: str
    strip: Callable[[], None]


class Policy(Ruled):
    """Denies or strips what pods ask of the node, and refuses calls."""

    name = "policy"
    methods = LIFE_CYCLE + REFUSABLE

    def __init__(self, setup: Setup) -> None:
        faults: list[str] = []
        self._kubelet_root = ""
        try:
            self._kubelet_root = take(SETTINGS, {**DEFAULTS, **setup.settings}, "policy")["kubelet_root"]
        except ConfigError as several:
            faults += several.faults
        for rule in setup.rules:
            if "refuse" in rule.do and not rule.match.methods:
                faults.append(f"rule {rule.name}: refuse needs `methods` in match: it would refuse every pod otherwise")
        try:
            super().__init__(setup)
        except ConfigError as several:
            faults += several.faults
        if faults:
            raise ConfigError(faults)

    @classmethod
    def parse(cls, do: Mapping[str, Any]) -> Action:
        action = Action(**take(KEYS, do))
        asked = [name for name in ("refuse", *VERDICTS) if getattr(action, name)]
        faults = []
        if not asked:
            faults.append(f"says nothing to do; known are refuse, {', '.join(VERDICTS)}")
        if "refuse" in asked and len(asked) > 1:
            faults.append(
                f"refuse ends the call whatever it asks for; move {', '.join(asked[1:])} to a rule of its own"
            )
        for allowed, verdict in ALLOWANCES.items():
            if getattr(action, allowed) and not getattr(action, verdict):
                faults.append(f'{allowed} needs {verdict} = "deny" or "strip"')
        if faults:
            raise ConfigError(faults)
        return action

    @classmethod
    def acts(cls, action: Action, method: str) -> bool:
        return bool(action.refuse) or method in LIFE_CYCLE

    @classmethod
    def explain(cls, action: Action) -> str:
        if action.refuse:
            return f"refuses the call: {action.refuse}"
        said = []
        for verdict, word in ((DENY, "denies"), (STRIP, "strips")):
            if names := [name for name in VERDICTS if getattr(action, name) == verdict]:
                said.append(f"{word} {', '.join(_explained(action, name) for name in names)}")
        return "; ".join(said)

    async def change_request(self, match: Matched, request: RuntimeMessage) -> None:
        action: Action = match.action
        if action.refuse:
            raise RejectedError(Code.PERMISSION_DENIED, _refusal(match, [action.refuse]))
        found = list(findings(action, request, self._kubelet_root))
        if denied := [one for one in found if one.verdict == DENY]:
            raise RejectedError(Code.PERMISSION_DENIED, _refusal(match, _sentences(denied)))
        for one in found:
            one.strip()
        if found and not match.rule.dry_run:
            self.services.event(
                "stripped",
                rule=match.rule.name,
                interceptor=self.name,
                method=match.call.method,
                what=list(dict.fromkeys(one.what for one in found)),
                **match.subject.names(),
            )


def findings(action: Action, request: RuntimeMessage, kubelet_root: str) -> Iterator[Finding]:
    """Everything in a RunPodSandbox or CreateContainer request that the action does not allow."""
    pod, container = pod_of(request), container_of(request)
    holders = [one for one in (pod, container) if one is not None]
    yield from _privileged(action, holders)
    yield from _namespaces(action, holders)
    yield from _sysctls(action, pod)
    if container is not None:
        yield from _capabilities(action, container)
        yield from _host_paths(action, container, posixpath.join(kubelet_root, "pods", pod.metadata.uid or "-"))


def _privileged(action: Action, holders: Iterable[RuntimeMessage]) -> Iterator[Finding]:
    for holder in holders if action.privileged else ():
        context = holder.linux.security_context
        if context.privileged:
            strip = partial(setattr, context, "privileged", False)
            yield Finding(action.privileged, "a privileged container", "set securityContext.privileged to false", strip)


def _namespaces(action: Action, holders: Iterable[RuntimeMessage]) -> Iterator[Finding]:
    node, pod, own = (enum("NamespaceMode")[mode] for mode in ("NODE", "POD", "CONTAINER"))
    # What kubelet asks for when the manifest says nothing.
    usual = {"network": pod, "pid": own, "ipc": pod}
    spelt = {"network": "hostNetwork", "pid": "hostPID", "ipc": "hostIPC"}
    for holder in holders:
        options = holder.linux.security_context.namespace_options
        for kind, mode in usual.items():
            verdict = getattr(action, f"host_{kind}")
            if verdict and getattr(options, kind) == node:
                strip = partial(setattr, options, kind, mode)
                yield Finding(verdict, f"{spelt[kind]}: true", f"remove {spelt[kind]}", strip)


def _sysctls(action: Action, pod: RuntimeMessage) -> Iterator[Finding]:
    sysctls = pod.linux.sysctls
    for name in sorted(sysctls) if action.sysctls else ():
        if not _matches(_dotted(name), action.allowed_sysctls):
            strip = partial(sysctls.__delitem__, name)
            yield Finding(action.sysctls, f"sysctl {name}", f"remove {name} from securityContext.sysctls", strip)


def _capabilities(action: Action, container: RuntimeMessage) -> Iterator[Finding]:
    asked = container.linux.security_context.capabilities
    lists = (asked.add_capabilities, asked.add_ambient_capabilities)
    extra = {name for one in lists for name in one if _capability(name) not in action.allowed_capabilities}
    # ALL among the allowed ones allows each of them.
    for name in sorted(extra) if action.capabilities and "ALL" not in action.allowed_capabilities else ():
        fix = f"remove {name} from securityContext.capabilities.add"
        yield Finding(action.capabilities, f"capability {name}", fix, partial(_remove, lists, name))


def _remove(lists: Iterable[Any], name: str) -> None:
    for one in lists:
        one[:] = [kept for kept in one if kept != name]


def _host_paths(action: Action, container: RuntimeMessage, own_folder: str) -> Iterator[Finding]:
    mounts = container.mounts
    for mount in list(mounts) if action.host_paths else ():
        path = _normal(mount.host_path)
        # Volumes, /etc/hosts and the termination log are kubelet's, below the pod's own folder.
        allowed = not path or path.startswith(f"{own_folder}/") or _matches(path, action.allowed_host_paths)
        if not allowed and not (mount.readonly and _matches(path, action.allowed_read_only_host_paths)):
            fix = f"remove the hostPath volume mounted at {mount.container_path}"
            if not mount.readonly and _matches(path, action.allowed_read_only_host_paths):
                fix = f"set readOnly on the volumeMount at {mount.container_path}"
            yield Finding(action.host_paths, f"hostPath {path}", fix, partial(mounts.remove, mount))


def _refusal(match: Matched, sentences: Iterable[str]) -> str:
    subject = match.subject
    who = f"pod {subject.pod_namespace}/{subject.pod_name}" if subject.pod_name else match.call.name
    if subject.container_name:
        who += f", container {subject.container_name}"
    action: Action = match.action
    ending = f" {action.message}" if action.message else ""
    return f"podwire-shim: {who}: rule {match.rule.name} does not allow this: {'; '.join(sentences)}.{ending}"


def _sentences(found: Iterable[Finding]) -> list[str]:
    said = list(dict.fromkeys(f"{one.what} ({one.fix})" for one in found))
    more = len(said) - NAMED
    return said if more <= 0 else [*said[:NAMED], f"and {more} more"]


def _explained(action: Action, name: str) -> str:
    lists = {key: getattr(action, key) for key, of in ALLOWANCES.items() if of == name}
    told = [f"{key.replace('_', ' ')} {', '.join(values)}" for key, values in lists.items() if values]
    return name.replace("_", " ") + (f" ({'; '.join(told)})" if told else "")


def _normal(path: str) -> str:
    # normpath keeps two slashes at the front, which mean nothing special to Linux.
    return posixpath.normpath(f"/{path.lstrip('/')}") if path else ""


def _matches(value: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def _capability(name: str) -> str:
    """As the kernel's headers have it, without CAP_: runtimes take either spelling."""
    return name.upper().removeprefix("CAP_")


def _dotted(name: str) -> str:
    """sysctl(8) takes slashes as separators when the first separator is one; then dots are part of a name."""
    dot, slash = name.find("."), name.find("/")
    if slash == -1 or (dot != -1 and dot < slash):
        return name
    return name.translate(str.maketrans("./", "/."))


def _names(value: Any) -> tuple[str, ...]:
    names = strings('capabilities such as ["NET_BIND_SERVICE"]')(value)
    if globs := [name for name in names if set(name) & set("*?[")]:
        raise ValueError(f'takes names, not patterns such as {globs[0]!r}; "ALL" is a name')
    return tuple(_capability(name) for name in names)


def _paths(value: Any) -> tuple[str, ...]:
    patterns = strings('path patterns such as ["/var/log", "/srv/data/*"]')(value)
    if odd := [one for one in patterns if not one.startswith(("/", "*"))]:
        raise ValueError(f"must hold absolute paths, not {odd[0]!r}")
    return patterns


def _root(value: Any) -> str:
    path = text(value)
    if not path.startswith("/"):
        raise ValueError(f"must be an absolute path, not {path!r}")
    return posixpath.normpath(path)


def _deny(value: Any) -> str:
    if value == STRIP:
        raise ValueError(
            "can only be denied: kubelet compares the sandbox's network with the manifest and would start the pod anew "
            "for ever"
        )
    return choice(DENY)(value)


def _said(value: Any) -> str:
    said = text(value).strip()
    if not said:
        raise ValueError("must tell the pod's owner what to do, not be empty")
    return said


VERDICTS = ("privileged", "host_network", "host_pid", "host_ipc", "capabilities", "host_paths", "sysctls")
SETTINGS = (Setting("kubelet_root", "kubelet_root", _root),)
KEYS = (
    Setting("refuse", "refuse", _said),
    Setting("message", "message", _said),
    *(Setting(name, name, _deny if name == "host_network" else choice(DENY, STRIP)) for name in VERDICTS),
    Setting("allowed_capabilities", "allowed_capabilities", _names),
    Setting("allowed_host_paths", "allowed_host_paths", _paths),
    Setting("allowed_read_only_host_paths", "allowed_read_only_host_paths", _paths),
    Setting("allowed_sysctls", "allowed_sysctls", strings('sysctl patterns such as ["net.ipv4.*"]')),
)
# Which verdict each list of exceptions is for.
ALLOWANCES = {
    "allowed_capabilities": "capabilities",
    "allowed_host_paths": "host_paths",
    "allowed_read_only_host_paths": "host_paths",
    "allowed_sysctls": "sysctls",
}
