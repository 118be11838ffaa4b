"""podwire-cri sandbox: pod sandboxes without containers, to try a node's network as pods have it.

They are asked for as kubelet does, and carry one label more: `list`, `stop` and `remove` only know those that have it.
A kubelet that runs on the node takes them for pods it should not have and ends them within seconds.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cri_shim import schema
from cri_shim.call import Code
from cri_shim.cli.runtime import Runtime, told
from cri_shim.cli.status import cgroup_driver
from cri_shim.errors import AskError, InspectError

LABEL, MADE_HERE = "podwire.made-by", "podwire-cri"
NAMESPACE = "podwire"
# A name of a pod is a label of DNS, and the hostname.
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# containerd may have to unpack its sandbox image, and waits for the network plugin.
CHANGE_SECONDS = 60.0
PORT = re.compile(r"(?P<host>\d+):(?P<pod>\d+)(?:/(?P<protocol>tcp|udp))?")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One of ours. `netns` is "" where the runtime does not tell, or it has none any more."""

    id: str
    name: str
    ready: bool
    addresses: tuple[str, ...]
    netns: str

    def document(self) -> dict[str, Any]:
        """As JSON shows it."""
        return asdict(self) | {"addresses": list(self.addresses)}


def port(text: str) -> tuple[int, int, str]:
    """HOST:PORT[/tcp|udp] as numbers and protocol; ValueError for anything else."""
    found = PORT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no hostPort: write HOST:PORT or HOST:PORT/udp, for example 8080:80")
    host, inside = int(found["host"]), int(found["pod"])
    if not (0 < host < 65536 and 0 < inside < 65536):
        raise ValueError(f"{text!r} is no hostPort: a port is a number from 1 to 65535")
    return host, inside, found["protocol"] or "tcp"


def run(runtime: Runtime, name: str, ports: Sequence[tuple[int, int, str]] = (), cgroup_parent: str = "") -> Sandbox:
    """Make a sandbox with a network of its own. Raises AskError; ValueError for a name no pod can have."""
    if NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name of a pod: a to z, 0 to 9 and '-', at most 63")
    uid = str(uuid.uuid4())
    config = {
        "metadata": {"name": name, "uid": uid, "namespace": NAMESPACE, "attempt": 0},
        "hostname": name,
        # containerd would copy the node's resolv.conf, which need not be there.
        "dns_config": {"servers": ["127.0.0.1"]},
        "port_mappings": [
            {"protocol": schema.enum("Protocol")[protocol.upper()], "container_port": inside, "host_port": host}
            for host, inside, protocol in ports
        ],
        "labels": {
            LABEL: MADE_HERE,
            "io.kubernetes.pod.name": name,
            "io.kubernetes.pod.namespace": NAMESPACE,
            "io.kubernetes.pod.uid": uid,
        },
        "linux": {"cgroup_parent": cgroup_parent or _cgroup_parent(runtime)},
    }
    made = runtime.ask("RunPodSandbox", CHANGE_SECONDS, config=config).pod_sandbox_id
    return look(runtime, made)


def look(runtime: Runtime, sandbox: str) -> Sandbox:
    """One by its whole id. Raises AskError; InspectError for one that is not ours."""
    answer = runtime.ask("PodSandboxStatus", pod_sandbox_id=sandbox, verbose=True)
    status = answer.status
    if status.labels.get(LABEL) != MADE_HERE:
        raise InspectError(f"sandbox {sandbox} was not made by podwire-cri, and is left alone")
    addresses = (status.network.ip, *(each.ip for each in status.network.additional_ips))
    return Sandbox(
        str(status.id),
        str(status.metadata.name),
        status.state == schema.enum("PodSandboxState")["SANDBOX_READY"],
        tuple(filter(None, addresses)),
        netns(answer.info),
    )


def netns(info: Mapping[str, str]) -> str:
    """Path of the network namespace, out of a verbose status: from the OCI specification that stands in it."""
    specification = told(info.get("info", "")).get("runtimeSpec") or {}
    for each in (specification.get("linux") or {}).get("namespaces") or ():
        if each.get("type") == "network":
            return str(each.get("path", ""))
    return ""


def made(runtime: Runtime) -> list[Sandbox]:
    """All of ours, by name. Raises AskError."""
    answer = runtime.ask("ListPodSandbox", filter={"label_selector": {LABEL: MADE_HERE}})
    found = []
    for each in answer.items:
        try:
            found.append(look(runtime, each.id))
        except AskError as error:
            if error.code != Code.NOT_FOUND:  # removed meanwhile
                raise
    return sorted(found, key=lambda sandbox: (sandbox.name, sandbox.id))


def stop(runtime: Runtime, sandbox: str, *, anyones: bool = False) -> bool:
    """Take its network down; False when there is no such sandbox. Raises AskError, and InspectError as `look`.

    `anyones`: also one that podwire-cri did not make; kubelet makes a pod of its own anew.
    """
    if not anyones and not _there(runtime, sandbox):
        return False
    runtime.ask("StopPodSandbox", CHANGE_SECONDS, pod_sandbox_id=sandbox)
    return True


def remove(runtime: Runtime, sandbox: str, *, anyones: bool = False) -> bool:
    """Stop and remove it, its containers too; as `stop`."""
    if not stop(runtime, sandbox, anyones=anyones):
        return False
    runtime.ask("RemovePodSandbox", CHANGE_SECONDS, pod_sandbox_id=sandbox)
    return True


def _there(runtime: Runtime, sandbox: str) -> bool:
    try:
        look(runtime, sandbox)
    except AskError as error:
        if error.code == Code.NOT_FOUND:
            return False
        raise
    return True


def _cgroup_parent(runtime: Runtime) -> str:
    """With systemd as cgroup driver runc refuses a cgroup that lies in no slice (containerd/cri issue 1563)."""
    info = runtime.ask("Status", verbose=True).info
    return "system.slice" if cgroup_driver(runtime, info) == "systemd" else ""
