"""status: what is installed on this node, and how it does. Looks, and changes nothing."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from cni_plugin.install import kubelet, locking, manifest, pods, runtime
from cni_plugin.install.journal import Journal, JournalError, describe
from cni_plugin.install.places import AGENT_UNIT, SHIM_UNIT, WATCHDOG_TIMER
from cni_plugin.install.site import NodeError, Site
from cni_plugin.net import conflists, kernel, state
from cni_plugin.spec import CniError

AGENT = "http://127.0.0.1:9474/readyz"
ASK_SECONDS = 5.0
UNITS = (AGENT_UNIT, SHIM_UNIT, WATCHDOG_TIMER)


def document(site: Site) -> dict[str, Any]:
    """Everything, as JSON. What cannot be found out is its reason instead: {"fault": ...}."""
    places, journal = site.places, Journal(site.places)
    shape: dict[str, Any] = {"command": "status"}
    try:
        journal.load()
    except JournalError as fault:
        shape["fault"] = f"{fault} -> {fault.details}"
    force = journal.in_force
    transaction = journal.transaction
    found = locking.holder(places)
    shape |= {
        "installed": force["identity"] if force else None,
        "options": force["options"] if force else None,
        "conflistOwner": force["owner"] if force else None,
        "versions": manifest.present(places),
        "current": places.current.resolve().name if places.current.exists() else None,
        "transaction": describe(transaction) if transaction else None,
        "lastStep": transaction["steps"][-1]["name"] if transaction and transaction["steps"] else None,
        "removing": journal.document["removing"],
        "busy": f"{found.verb} (pid {found.pid})" if found else None,
        "units": _asked(lambda: _units(site)),
        "agent": _agent() if force and force["options"]["agent"] and force["options"]["cni"] else None,
        "kubelet": _asked(lambda: _kubelet(site)),
        "reverted": journal.document.get("reverted"),
        "claims": _asked(lambda: _claims(site)),
        "runtime": _asked(lambda: runtime.look(site)),
    }
    return shape


def _asked(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except (OSError, CniError, NodeError, kernel.ToolError, kubelet.EndpointError) as fault:
        return {"fault": str(fault)}


def _units(site: Site) -> dict[str, str]:
    if not site.systemd.available():
        return {}
    return {unit: site.systemd.state(unit) for unit in UNITS if site.places.unit(unit).exists()}


def _agent() -> dict[str, Any]:
    try:
        with urllib.request.urlopen(AGENT, timeout=ASK_SECONDS) as answer:
            return {"ready": answer.status == 200, "says": answer.read(4096).decode(errors="replace").strip()}
    except urllib.error.HTTPError as fault:
        with fault:
            return {"ready": False, "says": fault.read(4096).decode(errors="replace").strip()}
    except OSError as fault:
        return {"ready": False, "says": f"{AGENT}: {fault}"}


def _kubelet(site: Site) -> dict[str, Any]:
    found = kubelet.survey(site.places)
    shim = f"unix://{site.places.shim_socket}"
    return {"endpoint": found.endpoint if found.kubelet else None, "shim": kubelet.same(found.endpoint, shim)}


def _claims(site: Site) -> dict[str, Any]:
    networks = conflists.networks([each for each in conflists.read(site.places.netd) if each.ours])
    folder = pods.state_dirs(site)[-1]
    read = state.read(folder)
    return {
        "attachments": len(read.records),
        "hostPorts": len(read.ports),
        "cooling": len(read.cooling),
        "pools": [
            {"ranges": pool.ranges, "size": pool.size, "used": pool.used, "free": pool.free}
            for pool in conflists.pools(networks, read, set(read.cooling))
        ],
    }


def is_well(shape: dict[str, Any]) -> bool:
    """Whether everything that is installed works."""
    agent, units, asked = shape["agent"], shape["units"] or {}, shape["runtime"]
    return (
        "fault" not in shape
        and shape["installed"] is not None
        and not shape["removing"]
        and (agent is None or agent["ready"])
        and all(each == "active" for each in units.values())
        and not _is_reverted(shape)
        and bool(asked.get("ready", False))
    )


def lines(shape: dict[str, Any]) -> list[str]:
    """The same for people."""
    told = [shape["fault"]] if "fault" in shape else []
    told.append(f"installed: {shape['installed'] or 'no'}" + (" (being removed)" if shape["removing"] else ""))
    if shape["conflistOwner"]:
        told.append(f"conflist: kept by the {shape['conflistOwner']}")
    if shape["versions"]:
        told.append(f"versions: {', '.join(shape['versions'])}; current: {shape['current']}")
    if shape["transaction"]:
        told.append(f"open transaction: {shape['transaction']}; last step: {shape['lastStep']}")
    if shape["busy"]:
        told.append(f"at work: {shape['busy']}")
    told += [f"unit {unit}: {said}" for unit, said in (shape["units"] or {}).items()]
    if shape["agent"]:
        told.append(f"agent: {'ready' if shape['agent']['ready'] else 'NOT ready'}: {shape['agent']['says']}")
    told.append(f"kubelet: {_words(shape['kubelet'], 'endpoint')}")
    if _is_reverted(shape):
        mark = shape["reverted"]
        told.append(f"the watchdog gave kubelet back to the runtime at {mark['time']}: {mark['reason']}")
    claims = shape["claims"]
    if "fault" in claims:
        told.append(f"claims: {claims['fault']}")
    else:
        told.append(f"claims: {claims['attachments']} attachments, {claims['hostPorts']} hostPorts")
        told += [f"pool {each['ranges']}: {each['used']} used, {each['free']} free" for each in claims["pools"]]
    asked = shape["runtime"]
    if "fault" in asked:
        told.append(f"runtime: {asked['fault']}")
    else:
        name, network = asked.get("runtime", {}), asked.get("network", {})
        ready = "ready" if asked.get("ready") else f"NOT ready: {json.dumps(asked.get('conditions'))}"
        told.append(f"runtime: {name.get('name')} {name.get('version')}, network {network.get('name')!r}, {ready}")
    return told


def _is_reverted(shape: dict[str, Any]) -> bool:
    """Whether kubelet is where the watchdog put it; an install since then has brought it back to the shim."""
    return bool(shape.get("reverted")) and not shape["kubelet"].get("shim", False)


def _words(shape: dict[str, Any], key: str) -> str:
    return str(shape.get("fault") or shape.get(key) or "not here")
