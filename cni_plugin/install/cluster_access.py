"""The node agent's access to the API: made, turned into a kubeconfig, and taken away."""

import base64
import binascii
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cni_plugin.install import kubectl
from cni_plugin.install.kubectl import Kubectl, field
from cni_plugin.install.site import NodeError

TOKEN_SECONDS = 30.0


def rbac_file() -> Path:
    """conf/agent-rbac.yaml of the payload that runs, or of the checkout."""
    for folder in (Path(sys.executable).resolve().parents[1], Path(__file__).resolve().parents[2]):
        path = folder / "conf" / "agent-rbac.yaml"
        if path.is_file():
            return path
    raise NodeError("conf/agent-rbac.yaml is missing", "the payload is damaged: push it again")


def rbac() -> list[dict[str, Any]]:
    """Its objects."""
    return [each for each in yaml.safe_load_all(rbac_file().read_text()) if isinstance(each, dict)]


def _only(objects: Sequence[dict[str, Any]], kind: str) -> tuple[str, str]:
    for each in objects:
        if each.get("kind") == kind:
            return str(field(each, "metadata", "name")), str(field(each, "metadata", "namespace") or "default")
    raise NodeError(f"{rbac_file()} has no {kind}", "the payload is damaged: push it again")


def granted(cluster: Kubectl) -> bool:
    """Whether the agent's service account exists already."""
    name, namespace = _only(rbac(), "ServiceAccount")
    return cluster.find("serviceaccount", name, f"--namespace={namespace}") is not None


def grant(cluster: Kubectl, seconds: float = TOKEN_SECONDS) -> str:
    """Make the access and wait for its token; the kubeconfig that uses it. What is there already stays as it is."""
    cluster.text("apply", f"--filename={rbac_file()}")
    name, namespace = _only(rbac(), "Secret")
    token = ""

    def has_token() -> bool:
        nonlocal token
        secret = cluster.find("secret", name, f"--namespace={namespace}")
        with contextlib.suppress(binascii.Error, ValueError):
            token = base64.b64decode(field(secret, "data", "token") or "", validate=True).decode()
        return bool(token)

    if not kubectl.wait(has_token, seconds, every=0.25):
        raise NodeError(
            f"the secret {namespace}/{name} got no token within {seconds:g} s",
            "kube-controller-manager fills it: kubectl --namespace kube-system get pods",
        )
    return kubeconfig(server(cluster), token)


def server(cluster: Kubectl) -> dict[str, Any]:
    """Where this cluster's API is and what vouches for it, as the node's own kubeconfig says."""
    config = cluster.json("config", "view", "--raw")
    current = field(config, "current-context")
    contexts = {field(each, "name"): field(each, "context", "cluster") for each in config.get("contexts") or []}
    for each in config.get("clusters") or []:
        if field(each, "name") == contexts.get(current):
            found = field(each, "cluster") or {}
            if found.get("server") and found.get("certificate-authority-data"):
                return {key: found[key] for key in ("certificate-authority-data", "server")}
    raise NodeError(
        f"{cluster.kubeconfig} names no server with its certificate authority", "kubeadm init phase kubeconfig admin"
    )


def kubeconfig(cluster: dict[str, Any], token: str) -> str:
    """The agent's kubeconfig; the same access gives the same text."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": "podwire-agent", "user": {"token": token}}],
            "contexts": [{"name": "podwire", "context": {"cluster": "cluster", "user": "podwire-agent"}}],
            "current-context": "podwire",
        },
        sort_keys=False,
    )


def revoke(cluster: Kubectl) -> None:
    """Take the access away, as far as it is there."""
    cluster.text("delete", f"--filename={rbac_file()}", "--ignore-not-found", "--wait=false")
