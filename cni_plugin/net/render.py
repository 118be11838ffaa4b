"""conf render: a node's conflist out of a template, checked by the plugin itself, and written whole or not at all.

A template is a conflist: what it says is kept, and podwire's entry gets the node's ranges and the options laid over
it. Whoever wants other plugins in the list, or keys that have no option here, writes them into a template.
"""

import copy
import fcntl
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni_plugin import ipam, jsontext
from cni_plugin.net import conflists
from cni_plugin.spec import CniError

_LOCK_SECONDS = 5.0
TEMPLATE = Path(__file__).with_name("template.conflist")


class RenderError(Exception):
    """The input makes no conflist that the plugin takes, or it cannot be written; the text names every fault."""


@dataclass
class Options:
    """What is laid over the template; None keeps what the template says."""

    pod_cidrs: list[str]
    cluster_cidrs: list[str] = field(default_factory=list)
    name: str | None = None
    cni_version: str | None = None
    mtu: int | None = None
    masquerade: bool | None = None
    state_dir: str | None = None
    log: str | None = None
    template: Path = TEMPLATE


def render(options: Options) -> str:
    """The conflist's text. Raises RenderError with everything that is wrong."""
    document = _template(options.template)
    entry = next(each for each in document["plugins"] if each["type"] == "podwire")
    _check_cidrs(options)
    if options.cni_version is not None:
        document["cniVersion"] = options.cni_version
    if options.name is not None:
        document["name"] = options.name
    section = entry.setdefault("ipam", {})
    if not isinstance(section, dict):
        raise RenderError(f"{options.template}: ipam is no object")
    section["ranges"] = [[{"subnet": subnet}] for subnet in options.pod_cidrs]
    if "routes" in section:
        section["routes"] = _routes(section["routes"], options.pod_cidrs)
    if options.cluster_cidrs:
        entry["noMasquerade"] = options.cluster_cidrs
    for key, value in (
        ("ipMasq", options.masquerade),
        ("mtu", options.mtu),
        ("stateDir", options.state_dir),
        ("log", options.log),
    ):
        if value is not None:
            entry[key] = value
    _judge(document, entry)
    return json.dumps(document, indent=2) + "\n"


def _template(path: Path) -> dict[str, Any]:
    try:
        document = jsontext.loads(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise RenderError(f"template {path}: {fault}") from None
    plugins = document.get("plugins") if isinstance(document, dict) else None
    if not isinstance(plugins, list) or not all(isinstance(each, dict) for each in plugins):
        raise RenderError(f"template {path} is no conflist: it has no list of plugins")
    if [each.get("type") for each in plugins].count("podwire") != 1:
        raise RenderError(f"template {path} must hold one plugin of type podwire")
    shape: dict[str, Any] = copy.deepcopy(document)
    return shape


def _check_cidrs(options: Options) -> None:
    faults = []
    families = []
    for what, subnets in (("pod CIDR", options.pod_cidrs), ("cluster CIDR", options.cluster_cidrs)):
        for subnet in subnets:
            try:
                address, _ = ipam.parse_subnet(subnet)
            except ValueError as fault:
                faults.append(f"{what} {fault}")
                continue
            if what == "pod CIDR":
                families.append(len(address))
    if not options.pod_cidrs:
        faults.append("no pod CIDR is given")
    if len(options.pod_cidrs) > 2 or len(set(families)) < len(families):
        faults.append(f"pod CIDRs {', '.join(options.pod_cidrs)}: give one, or one of each family")
    if faults:
        raise RenderError("; ".join(faults))


def _routes(routes: Any, pod_cidrs: list[str]) -> Any:
    """The template's routes, and of the default routes exactly those of the families that pods get."""
    defaults = {":" in subnet: {"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in pod_cidrs}
    if not isinstance(routes, list):
        return routes  # config.network says what is wrong
    stated = [each for each in routes if isinstance(each, dict) and each.get("dst") in ("0.0.0.0/0", "::/0")]
    if not stated:
        return routes
    return [*defaults.values(), *(each for each in routes if each not in stated)]


def _judge(document: dict[str, Any], entry: dict[str, Any]) -> None:
    try:
        conflists.judged({**entry, "cniVersion": document.get("cniVersion"), "name": document.get("name")})
    except CniError as fault:
        raise RenderError(f"{fault.message}{f' ({fault.details})' if fault.details else ''}") from None


def write(path: Path, text: str) -> bool:
    """Make `path` hold `text`, by a rename in its own folder; False when it does already. Raises RenderError.

    A runtime that watches the folder sees the old file or the new one. The rename stays inside the folder because
    containerd does not notice a file that comes from elsewhere.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(folder, path)
            if path.is_file() and path.read_bytes() == text.encode():
                return False
            _replace(path, text)
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as fault:
        raise RenderError(f"{path} cannot be written: {fault}") from None
    return True


def _lock(folder: int, path: Path) -> None:
    # Two that write at once would share the draft.
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise RenderError(f"{path.parent} is locked by another program for {_LOCK_SECONDS:g} s") from None
            time.sleep(0.05)
        else:
            return


def _replace(path: Path, text: str) -> None:
    # A name that no runtime reads, and always the same: what a killed call left is written over.
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)
            file.write(text.encode())
            file.flush()
            os.fsync(descriptor)
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
