"""The container runtime, asked by crictl where it is there, else by podwire-cri: is it ready, and for which network."""

import json
from pathlib import Path
from typing import Any

from cni_plugin.install.site import NodeError, Site

ASK_SECONDS = 15.0


def look(site: Site, endpoint: str = "") -> dict[str, Any]:
    """What `podwire-cri status --json` prints. Raises NodeError."""
    endpoint = endpoint or f"unix://{site.places.runtime_socket}"
    argv: list[str | Path] = [site.program("podwire-cri"), "status", "--endpoint", endpoint, "--json"]
    return _document(site.run(argv, ASK_SECONDS), "podwire-cri status")


def network(site: Site) -> tuple[bool, str, str]:
    """(whether the runtime's network is ready, the network's name, what it says otherwise). Raises NodeError."""
    crictl = site.find("crictl")
    if crictl is not None:
        endpoint = f"unix://{site.places.runtime_socket}"
        return _of_crictl(_document(site.run([crictl, "--runtime-endpoint", endpoint, "info"], ASK_SECONDS), "crictl"))
    found = look(site)
    ready, why = _ready(found.get("conditions") or [])
    told = found.get("network") or {}
    load = str(told.get("load", ""))
    return ready and load in ("OK", ""), str(told.get("name", "")), why or load


def _of_crictl(info: dict[str, Any]) -> tuple[bool, str, str]:
    ready, why = _ready((info.get("status") or {}).get("conditions") or [])
    load = str(info.get("lastCNILoadStatus", "OK"))
    networks = (info.get("cniconfig") or {}).get("Networks") or []
    names = [str((each.get("Config") or {}).get("Name", "")) for each in networks if each.get("IFName") != "lo"]
    return ready and load == "OK", names[-1] if names else "", why or load


def _ready(conditions: list[dict[str, Any]]) -> tuple[bool, str]:
    found = [each for each in conditions if each.get("type") == "NetworkReady"]
    why = "; ".join(str(each.get("message") or each.get("reason") or "") for each in found)
    return all(each.get("status") for each in found), why


def _document(text: str, what: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise NodeError(f"{what} printed what is not understood: {text[:200]!r}")
    return document
