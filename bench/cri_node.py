"""What the runtime of a busy node answers to a kubelet: messages with the labels and annotations that kubelet puts on.

A container is about 0.9 KB of a list, as on real nodes.
"""

from __future__ import annotations

import hashlib
from typing import Any

from cri_shim import schema

CONTAINERS_PER_POD = 2
_IMAGES = 50
_CREATED = 1_760_000_000_000_000_000
_RUNTIME = "/runtime.v1.RuntimeService/"
_IMAGE = "/runtime.v1.ImageService/"
_IMAGE_METHODS = frozenset({"ListImages", "ImageFsInfo"})


def path(name: str) -> str:
    """The path of a method by its short name."""
    return (_IMAGE if name in _IMAGE_METHODS else _RUNTIME) + name


def _id(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class ScriptedNode:
    """Pods with two running containers each, all known by their numbers."""

    def __init__(self, pods: int) -> None:
        self.pods = pods
        self.containers = [_id("container", number) for number in range(pods * CONTAINERS_PER_POD)]

    def answers(self) -> dict[str, bytes]:
        """One answer for each method of the mix, by path."""
        version = {"version": "0.1.0", "runtime_name": "containerd", "runtime_version": "1.6.20"}
        messages: dict[str, dict[str, Any]] = {
            "Version": {**version, "runtime_api_version": "v1"},
            "Status": {"status": {"conditions": [{"type": f"{each}Ready", "status": True} for each in _READY]}},
            "ListPodSandbox": {"items": [self._sandbox(number) for number in range(self.pods)]},
            "ListContainers": {"containers": [self._container(number) for number in range(len(self.containers))]},
            "ContainerStatus": {"status": self._status(0)},
            "ListContainerStats": {"stats": [self._stats(number) for number in range(len(self.containers))]},
            "ListImages": {"images": [_image(number) for number in range(_IMAGES)]},
            "ImageFsInfo": {"image_filesystems": [_filesystem(30 << 30)]},
            "ExecSync": {"stdout": b"ok\n"},
        }
        made = {}
        for name, fields in messages.items():
            response = schema.message(schema.methods()[path(name)].response)
            made[path(name)] = bytes(response(**fields).SerializeToString())
        return made

    def _labels(self, pod: int) -> dict[str, str]:
        return {
            "io.kubernetes.pod.name": f"checkout-service-{pod:04}-7d9c6b5f4d-x2lqp",
            "io.kubernetes.pod.namespace": "production-shop",
            "io.kubernetes.pod.uid": _uid(pod),
        }

    def _sandbox(self, pod: int) -> dict[str, Any]:
        labels = self._labels(pod)
        return {
            "id": _id("sandbox", pod),
            "metadata": {
                "name": labels["io.kubernetes.pod.name"],
                "namespace": labels["io.kubernetes.pod.namespace"],
                "uid": _uid(pod),
            },
            "created_at": _CREATED,
            "labels": {
                **labels,
                "app.kubernetes.io/name": "checkout-service",
                "app.kubernetes.io/instance": "shop",
                "pod-template-hash": "7d9c6b5f4d",
            },
            "annotations": {
                "kubernetes.io/config.seen": "2026-11-23T12:00:00.000000000Z",
                "kubernetes.io/config.source": "api",
            },
        }

    def _container(self, number: int) -> dict[str, Any]:
        pod, index = divmod(number, CONTAINERS_PER_POD)
        image = _image(number % _IMAGES)
        return {
            "id": self.containers[number],
            "pod_sandbox_id": _id("sandbox", pod),
            "metadata": {"name": _name(index)},
            "image": {"image": image["id"], "user_specified_image": image["repo_tags"][0]},
            "image_ref": image["id"],
            "image_id": image["id"],
            "state": schema.enum("ContainerState")["CONTAINER_RUNNING"],
            "created_at": _CREATED,
            "labels": {**self._labels(pod), "io.kubernetes.container.name": _name(index)},
            "annotations": _annotations(number),
        }

    def _status(self, number: int) -> dict[str, Any]:
        listed = self._container(number)
        kept = ("id", "metadata", "image", "image_ref", "image_id", "state", "created_at", "labels", "annotations")
        return {name: listed[name] for name in kept} | {
            "started_at": _CREATED,
            "mounts": [
                {"container_path": container, "host_path": f"/var/lib/kubelet/pods/{_uid(0)}/{host}"}
                for container, host in _MOUNTS.items()
            ],
            "log_path": f"/var/log/pods/production-shop_checkout-service_{_uid(0)}/{_name(0)}/0.log",
        }

    def _stats(self, number: int) -> dict[str, Any]:
        listed = self._container(number)
        return {
            "attributes": {name: listed[name] for name in ("id", "metadata", "labels", "annotations")},
            "cpu": {"timestamp": _CREATED, "usage_core_nano_seconds": {"value": 10**12 + number}},
            "memory": {"timestamp": _CREATED, "working_set_bytes": {"value": 200 << 20}},
            "writable_layer": _filesystem(1 << 20),
        }


_READY = ("Runtime", "Network")
_MOUNTS = {
    "/etc/hosts": "etc-hosts",
    "/dev/termination-log": "containers/server/4f1d2c3b",
    "/var/run/secrets/kubernetes.io/serviceaccount": "volumes/kubernetes.io~projected/kube-api-access-x2lqp",
    "/etc/config": "volumes/kubernetes.io~configmap/config",
}


def _uid(pod: int) -> str:
    digits = _id("pod", pod)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))


def _name(index: int) -> str:
    return ("server", "proxy")[index]


def _annotations(number: int) -> dict[str, str]:
    return {
        "io.kubernetes.container.hash": f"{number:08x}",
        "io.kubernetes.container.restartCount": "0",
        "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
        "io.kubernetes.container.terminationMessagePolicy": "File",
        "io.kubernetes.pod.terminationGracePeriod": "30",
    }


def _image(number: int) -> dict[str, Any]:
    repository = f"images.example.com/production/service-{number:02}"
    return {
        "id": f"sha256:{_id('image', number)}",
        "repo_tags": [f"{repository}:v1.{number}.0"],
        "repo_digests": [f"{repository}@sha256:{_id('digest', number)}"],
        "size": 120 << 20,
    }


def _filesystem(used: int) -> dict[str, Any]:
    return {
        "timestamp": _CREATED,
        "fs_id": {"mountpoint": "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs"},
        "used_bytes": {"value": used},
        "inodes_used": {"value": 100_000},
    }
