"""The pods of a smoke test, made by the runtime as kubelet would have it, or by the plugin alone.

The runtime is the better proof, since containerd then executes the plugin. But a kubelet that runs on the node ends
every sandbox it does not know within seconds, and a runtime without a sandbox image cannot make one offline: then
two named network namespaces are made, and the installed conflist's plugins are called for them as a runtime does.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pyroute2 import netns as namespaces

from cni_plugin.install.site import NodeError, Site
from cni_plugin.install.watchdog_probe import serves

KUBELET_UNIT = "kubelet.service"
NAMES = "podwire-smoke-"
NAMED = Path("/run/netns")
NAMESPACE = "podwire"
RUNTIME_SECONDS = 90.0
PLUGIN_SECONDS = 30.0
ANSWER_SECONDS = 3.0

Keep = Callable[[], None]


class Maker(Protocol):
    """Makes pods; `told` says how, in words."""

    told: str

    def make(self, name: str, host_port: int, port: int) -> dict[str, Any]:
        """A pod with `name`, `id`, `addresses` and `netns`; host_port 0 is none. Raises NodeError."""


def maker(site: Site, keep: Keep, state: dict[str, Any], *, direct: bool, cgroup_parent: str = "") -> Maker:
    """The runtime where it can, else the plugin; the reason is told."""
    if direct:
        return _ByPlugin(site, keep, state, "the plugin alone, as asked")
    if site.systemd.available() and site.systemd.active(KUBELET_UNIT):
        return _ByPlugin(site, keep, state, "the plugin alone: kubelet runs, and would end sandboxes it does not know")
    runtime = _ByRuntime(site, keep, state, cgroup_parent)
    try:
        runtime.prove()
    except NodeError as fault:
        return _ByPlugin(site, keep, state, f"the plugin alone, since the runtime cannot: {fault}")
    return runtime


def remove(site: Site, state: dict[str, Any]) -> list[str]:
    """Every pod of a smoke test, whether or not the state knows it. Raises NodeError, after trying all."""
    faults: list[str] = []
    removed: list[str] = []
    for way in (_remove_sandboxes, _remove_namespaces):
        try:
            removed += way(site, state)
        except NodeError as fault:
            faults.append(str(fault))
    if faults:
        raise NodeError("; ".join(faults), "podwire-cri sandbox list; podwire-net audit")
    return removed


class _ByRuntime:
    """Through podwire-cri, which marks them as its own."""

    def __init__(self, site: Site, keep: Keep, state: dict[str, Any], cgroup_parent: str) -> None:
        self._site, self._keep, self._state, self._parent = site, keep, state, cgroup_parent
        self.endpoint = _endpoint(site)
        self.told = f"the runtime at {self.endpoint}"

    def prove(self) -> None:
        """Make one sandbox and take it away. Raises NodeError."""
        made = self._run("smoke-try", 0, 0)
        _cri(self._site, self.endpoint, "sandbox", "remove", made["id"])

    def make(self, name: str, host_port: int, port: int) -> dict[str, Any]:
        self._state["through"] = "runtime"
        self._keep()
        made = self._run(name, host_port, port)
        if not made["addresses"] or not made["netns"]:
            raise NodeError(f"the runtime made sandbox {made['id']} without address or namespace: {made}")
        pod = {"name": name, "id": made["id"], "addresses": made["addresses"], "netns": made["netns"]}
        self._state["pods"].append(pod)
        self._keep()
        return pod

    def _run(self, name: str, host_port: int, port: int) -> dict[str, Any]:
        words = ["--name", name, "--json"]
        words += ["--host-port", f"{host_port}:{port}"] if host_port else []
        words += ["--cgroup-parent", self._parent] if self._parent else []
        made: dict[str, Any] = json.loads(_cri(self._site, self.endpoint, "sandbox", "run", *words))
        return made


def _cri(site: Site, endpoint: str, *words: str) -> str:
    return site.run([site.program("podwire-cri"), *words, "--endpoint", endpoint], RUNTIME_SECONDS)


def _endpoint(site: Site) -> str:
    """The shim where it serves, as kubelet would go; else containerd itself."""
    through_shim = serves(str(site.places.shim_socket), ANSWER_SECONDS)
    return f"unix://{site.places.shim_socket if through_shim else site.places.runtime_socket}"


def _remove_sandboxes(site: Site, state: dict[str, Any]) -> list[str]:
    known = state.get("through") == "runtime"
    endpoint = _endpoint(site)
    if not known and not serves(endpoint.removeprefix("unix://"), ANSWER_SECONDS):
        return []
    listed = json.loads(_cri(site, endpoint, "sandbox", "list", "--json"))
    ours = [each for each in listed if each["name"].startswith("smoke-")]
    for each in ours:
        _cri(site, endpoint, "sandbox", "remove", each["id"])
    return [each["name"] for each in ours]


class _ByPlugin:
    """As a runtime does: the plugins of the conflist one after the other, each with the result before it."""

    def __init__(self, site: Site, keep: Keep, state: dict[str, Any], told: str) -> None:
        self._site, self._keep, self._state, self.told = site, keep, state, told

    def make(self, name: str, host_port: int, port: int) -> dict[str, Any]:
        conflist = _conflist(self._site)
        named = f"{NAMES}{name}"
        pod: dict[str, Any] = {"name": name, "id": f"{named}-{self._state['token']}", "netns": str(NAMED / named)}
        ports = [{"hostPort": host_port, "containerPort": port, "protocol": "tcp"}] if host_port else []
        pod |= {"conflist": conflist, "ports": ports, "addresses": []}
        self._state["through"] = "plugin"
        self._state["pods"].append(pod)
        self._keep()
        namespaces.create(named)
        result: dict[str, Any] | None = None
        for plugin in conflist["plugins"]:
            result = _call(self._site, "ADD", conflist, plugin, pod, result)
        pod["addresses"] = [each["address"].partition("/")[0] for each in (result or {}).get("ips", [])]
        self._keep()
        if not pod["addresses"]:
            raise NodeError(f"the plugins of {self._site.places.conflist} gave the pod no address: {result}")
        return pod


def _remove_namespaces(site: Site, state: dict[str, Any]) -> list[str]:
    removed, faults = [], []
    for pod in state["pods"]:
        if "conflist" not in pod:
            continue
        for plugin in reversed(pod["conflist"]["plugins"]):
            try:
                _call(site, "DEL", pod["conflist"], plugin, pod, None)
            except NodeError as fault:
                faults.append(str(fault))
    for path in sorted(NAMED.glob(f"{NAMES}*")) if NAMED.is_dir() else []:
        namespaces.remove(path.name)
        removed.append(path.name)
    if faults:
        raise NodeError("; ".join(faults))
    return removed


def _conflist(site: Site) -> dict[str, Any]:
    path = site.places.conflist
    try:
        read: dict[str, Any] = json.loads(path.read_text())
        return {"cniVersion": read["cniVersion"], "name": read["name"], "plugins": list(read["plugins"])}
    except (OSError, ValueError, KeyError) as fault:
        raise NodeError(f"{path} cannot be used: {fault!r}", "podwire-node status") from None


def _call(
    site: Site,
    command: str,
    conflist: dict[str, Any],
    plugin: dict[str, Any],
    pod: dict[str, Any],
    result: dict[str, Any] | None,
) -> dict[str, Any] | None:
    configuration = {**plugin, "cniVersion": conflist["cniVersion"], "name": conflist["name"]}
    if (plugin.get("capabilities") or {}).get("portMappings") and pod["ports"]:
        configuration["runtimeConfig"] = {"portMappings": pod["ports"]}
    if result is not None:
        configuration["prevResult"] = result
    program = site.places.cni_bin / str(plugin["type"])
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": pod["id"],
        "CNI_NETNS": pod["netns"] if Path(pod["netns"]).exists() else "",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(site.places.cni_bin),
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={pod['name']}",
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    }
    try:
        done = subprocess.run(
            [program],
            env=environment,
            input=json.dumps(configuration),
            capture_output=True,
            text=True,
            timeout=PLUGIN_SECONDS,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise NodeError(f"{command} of {pod['name']}: {program}: {fault}") from None
    if done.returncode != 0:
        said = _said(done.stdout) or done.stderr.strip() or f"exit code {done.returncode}"
        raise NodeError(f"{command} of {pod['name']} by {program}: {said}", "podwire-net doctor")
    answer: dict[str, Any] | None = json.loads(done.stdout) if done.stdout.strip() else None
    return answer


def _said(text: str) -> str:
    """A CNI error's message and details."""
    try:
        read = json.loads(text)
        details = read.get("details")
        return f"{read['msg']}{f' ({details})' if details else ''}"
    except (ValueError, KeyError, TypeError):
        return text.strip()
