"""What is to be installed: the options of one node, and the files that are made from them."""

import json
import re
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from cni_plugin.install import entries
from cni_plugin.install.places import Places
from cni_plugin.install.site import NodeError
from cni_plugin.net import render

MODES = ("auto", "host-gw", "vxlan")
NETWORK = "podwire"


@dataclass(frozen=True)
class Options:
    """What one node gets. `peers` and `kubeconfig` are the files' texts, "" for none."""

    cni: bool = True
    shim: bool = False
    agent: bool = True
    pod_cidrs: tuple[str, ...] = ()
    cluster_cidrs: tuple[str, ...] = ()
    node_name: str = ""
    mode: str = "auto"
    peers: str = ""
    kubeconfig: str = ""

    def document(self) -> dict[str, Any]:
        """As the journal holds them: of what may be secret only the SHA-256."""
        shape: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        for key in ("pod_cidrs", "cluster_cidrs"):
            shape[key] = list(shape[key])
        for key in ("peers", "kubeconfig"):
            shape[key] = entries.digest(shape[key].encode()) if shape[key] else ""
        return shape

    def added_to(self, earlier: dict[str, Any] | None, places: Places) -> "Options":
        """These on top of what is installed: a part that is there stays, and is as these options say.

        Where only another part is added, pod CIDRs, peers and kubeconfig stay as they are.
        """
        if earlier is None:
            return self
        merged = replace(
            self,
            cni=self.cni or earlier["cni"],
            shim=self.shim or earlier["shim"],
            agent=(self.agent and self.cni) or earlier["agent"],
            peers=self.peers or _text(places.peers, bool(earlier["peers"])),
            kubeconfig=self.kubeconfig or _text(places.agent_kubeconfig, bool(earlier["kubeconfig"])),
        )
        if not self.pod_cidrs:
            merged = replace(
                merged,
                pod_cidrs=tuple(earlier["pod_cidrs"]),
                cluster_cidrs=self.cluster_cidrs or tuple(earlier["cluster_cidrs"]),
                node_name=self.node_name or earlier["node_name"],
                mode=earlier["mode"] if self.mode == "auto" else self.mode,
            )
        return merged

    @property
    def owner(self) -> str:
        """Who keeps the conflist."""
        return ("shim" if self.shim else "installer") if self.cni else ""

    def faults(self) -> list[str]:
        """Everything that makes no sense."""
        found = []
        if self.cni:
            try:
                render.render(render.Options(list(self.pod_cidrs), list(self.cluster_cidrs)))
            except render.RenderError as fault:
                found.append(str(fault))
        if self.peers:
            try:
                if not isinstance(tomllib.loads(self.peers).get("node"), list):
                    found.append("the peers file has no [[node]] table")
            except ValueError as fault:
                found.append(f"the peers file is no TOML: {fault}")
        if not self.cni and not self.shim:
            found.append("nothing is to be installed: give --cni, --shim or both")
        return found

    def conflist(self, places: Places) -> str:
        """The network's text, by the one renderer and over its own template, as the shim has it rendered.

        Raises RenderError.
        """
        return render.render(render.Options(list(self.pod_cidrs), list(self.cluster_cidrs), state_dir=str(places.run)))

    def agent_toml(self, template: str, places: Places) -> str:
        """The agent's configuration. Raises NodeError."""
        values: dict[str, Any] = {
            "node_name": self.node_name,
            "mode": self.mode,
            "pod_cidrs": list(self.pod_cidrs),
            "cluster_cidrs": list(self.cluster_cidrs),
            "source": "kubernetes" if self.kubeconfig else "file" if self.peers else "none",
            "state_dir": str(places.run),
            "conf_dir": str(places.netd),
            "data_dir": str(places.lib),
            "file.path": str(places.peers),
            "kubernetes.kubeconfig": str(places.agent_kubeconfig),
        }
        return with_values(template, values, "conf/agent.toml")

    def shim_toml(self, template: str, places: Places) -> str:
        """The shim's configuration; where the plugin is not ours, the conflist is not its business."""
        values: dict[str, Any] = {
            "listen": f"unix://{places.shim_socket}",
            "upstream": f"unix://{places.runtime_socket}",
            "network.conflist": str(places.conflist) if self.cni else "",
            "network.cluster_cidrs": list(self.cluster_cidrs),
            "network.pod_cidr_file": str(places.pod_cidr),
            "network.conf_dir": str(places.netd),
            "network.bin_dir": str(places.cni_bin),
            "metrics.listen": f"unix://{places.run}/metrics.sock",
        }
        return with_values(template, values, "conf/shim.toml")


def with_values(template: str, values: dict[str, Any], name: str) -> str:
    """A TOML text with other values of keys that it states on one line each; comments stay. Raises NodeError."""
    missing = dict(values)
    table, lines = "", []
    for line in template.splitlines():
        if head := re.match(r"\[([\w.-]+)\]\s*$", line):
            table = head[1] + "."
        if (stated := re.match(r"([\w-]+) = ", line)) and table + stated[1] in missing:
            line = f"{stated[0]}{json.dumps(missing.pop(table + stated[1]))}"
        lines.append(line)
    if missing:
        raise NodeError(f"{name} of the payload has no key {', '.join(missing)}", "build the payload again")
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)
    return text


def _text(path: Path, there: bool) -> str:
    try:
        return path.read_text() if there else ""
    except OSError:
        return ""
