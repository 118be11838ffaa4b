"""podwire-cri status: what a runtime says of itself, and which CNI network it has loaded.

CRI has words for the conditions only. The network's name, and whether reading the CNI configuration worked, stand in
what containerd adds to a verbose answer (`cniconfig` and `lastCNILoadStatus`); of another runtime they are empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cri_shim import schema
from cri_shim.call import Code
from cri_shim.cli.runtime import Runtime, told
from cri_shim.errors import AskError

LOADED = "OK"


def status(runtime: Runtime) -> dict[str, Any]:
    """As one JSON document. Raises AskError."""
    version = runtime.ask("Version")
    answer = runtime.ask("Status", verbose=True)
    conditions = [
        {"type": each.type, "status": bool(each.status), "reason": each.reason, "message": each.message}
        for each in answer.status.conditions
    ]
    return {
        "endpoint": str(runtime.endpoint),
        "runtime": {"name": version.runtime_name, "version": version.runtime_version},
        "ready": all(each["status"] for each in conditions),
        "conditions": conditions,
        "network": network(answer.info),
        "cgroupDriver": cgroup_driver(runtime, answer.info),
    }


def network(info: Mapping[str, str]) -> dict[str, str]:
    """Name and plugins of the network that pods get, and how reading its configuration went; "" where not told."""
    lists = told(info.get("cniconfig", "")).get("Networks") or ()
    # The first entry is containerd's own, for lo; the last is that of eth0.
    of_pods = [each for each in lists if isinstance(each, dict) and each.get("IFName") != "lo"]
    config = (of_pods[-1].get("Config") if of_pods else None) or {}
    plugins = [str((each.get("Network") or {}).get("type", "")) for each in config.get("Plugins") or ()]
    loaded = {name: text for name, text in info.items() if name.startswith("lastCNILoadStatus")}
    # Of several only the one that failed is of interest.
    failed = [text for text in loaded.values() if _text(text) != LOADED]
    return {
        "name": str(config.get("Name", "")),
        "plugins": ",".join(plugins),
        "load": _text(failed[0]) if failed else (LOADED if loaded else ""),
    }


def cgroup_driver(runtime: Runtime, info: Mapping[str, str]) -> str:
    """systemd, cgroupfs, or "" where the runtime does not tell."""
    try:
        answer = runtime.ask("RuntimeConfig")
    except AskError as error:
        # containerd has it since 2.0; before, it stands in its configuration.
        if error.code != Code.UNIMPLEMENTED:
            raise
        return _configured_driver(told(info.get("config", "")))
    if not answer.HasField("linux"):
        return ""
    names = {number: name for name, number in schema.enum("CgroupDriver").items()}
    return names.get(answer.linux.cgroup_driver, "").lower()


def _configured_driver(config: Mapping[str, Any]) -> str:
    containerd = config.get("containerd") or {}
    chosen = (containerd.get("runtimes") or {}).get(containerd.get("defaultRuntimeName"))
    if not chosen:
        return ""
    return "systemd" if (chosen.get("options") or {}).get("SystemdCgroup") else "cgroupfs"


def _text(value: str) -> str:
    """containerd writes its texts as JSON strings."""
    return value.strip('"')
