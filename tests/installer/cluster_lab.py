"""A control-plane node for `podwire-node cluster`: places below a folder, admin.conf, a stand-in kubectl on PATH."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.install import __main__ as podwire_node
from cni_plugin.install.places import Places

ADMIN = """
apiVersion: v1
kind: Config
current-context: kubernetes-admin@kind
contexts:
- {name: kubernetes-admin@kind, context: {cluster: kind, user: kubernetes-admin}}
clusters:
- {name: kind, cluster: {server: "https://kind-control-plane:6443", certificate-authority-data: Q0E=}}
users:
- {name: kubernetes-admin, user: {client-key-data: c2VjcmV0}}
"""


class ClusterLab:
    """What the API has, and what was asked of it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.places = Places(folder / "root of the node")
        self.state = folder / "api"
        self.state.mkdir()
        admin = self.places.at("/etc/kubernetes/admin.conf")
        admin.parent.mkdir(parents=True)
        admin.write_text(ADMIN)
        commands = folder / "bin"
        commands.mkdir()
        self.kubectl = commands / "kubectl"
        stand_in = Path(__file__).with_name("kubectl_stand_in.py")
        self.kubectl.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in}" "$@"\n')
        self.kubectl.chmod(0o755)
        patch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
        patch.setenv("KUBECTL_STATE", str(self.state))

    def run(self, *words: str) -> int:
        """`podwire-node cluster WORDS` in this process."""
        return podwire_node.main(["cluster", *words], self.places)

    def put(self, kind: str, name: str, /, **content: Any) -> None:
        """An object."""
        folder = self.state / kind
        folder.mkdir(exist_ok=True)
        metadata = {"name": name, **content.pop("metadata", {})}
        (folder / f"{name}.json").write_text(
            json.dumps({"apiVersion": "v1", "kind": kind, "metadata": metadata, **content})
        )

    def object(self, kind: str, name: str) -> dict[str, Any] | None:
        """The same, None where it is gone."""
        path = self.state / kind / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def node(self, name: str, cidrs: list[str], ready: str = "True", **metadata: Any) -> None:
        """A node as its kubelet reports it."""
        condition = {"type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": "cni not initialized"}
        self.put(
            "node",
            name,
            metadata=metadata,
            spec={"podCIDR": cidrs[0], "podCIDRs": cidrs} if cidrs else {},
            status={"conditions": [condition], "addresses": [{"type": "InternalIP", "address": "172.18.0.2"}]},
        )

    @property
    def calls(self) -> list[list[str]]:
        """What kubectl was called with, without what every call has."""
        lines = (self.state / "calls").read_text().splitlines()
        return [
            [word for word in json.loads(line) if not word.startswith(("--kubeconfig", "--request"))] for line in lines
        ]
