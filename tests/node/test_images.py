"""A pod's image from a mirror behind a password, under the pod's own name for it, with a real containerd."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cri_shim.passing import rule
from tests.lab import images
from tests.lab.containerd import ContainerdBinary
from tests.lab.cri import CriError
from tests.lab.node import Node
from tests.lab.registry import Registry

IMAGE = "reg.example/tools:9"
RULES = rule("lists", "images", 'deny = ["*/forbidden:*"]') + rule(
    "mirrors", "images", 'from = "reg.example", to = ["127.0.0.1:5009", "127.0.0.1:5000/mirror"]'
)


@pytest.fixture(scope="module")
def shared_node(usable: ContainerdBinary) -> Iterator[Node]:
    """A node with a registry that only the shim has the password of."""
    with Node(usable) as node:
        registry = Registry(
            node.namespace,
            node.base / "registry",
            images.images()[1].archive,
            port=5000,
            repository="mirror/tools",
            tag="9",
            user="node:secret",
        )
        with registry:
            node.restart_shim(
                f'interceptors = ["images"]\n{RULES}\n[images]\ncredentials = "{credentials(node.base)}"\n'
            )
            yield node


def credentials(folder: Path) -> Path:
    file = folder / "registries.json"
    file.touch(0o600)
    file.write_text(json.dumps({"auths": {"127.0.0.1:5000": {"username": "node", "password": "secret"}}}))
    return file


def status(node: Node, image: str = IMAGE) -> list[str]:
    """Id and tags of an image, nothing when it is not on the node."""
    found = node.cri.call("ImageStatus", image={"image": image}).image
    return [found.id, *found.repo_tags] if found.id else []


def test_an_image_comes_from_the_mirror_and_keeps_the_pods_name_for_it(node: Node) -> None:
    assert status(node) == []
    pulled = node.cri.call("PullImage", image={"image": IMAGE}).image_ref
    assert status(node) == [pulled, IMAGE]
    tags = {tag for image in node.cri.call("ListImages").images for tag in image.repo_tags}
    assert tags == {IMAGE, images.PAUSE, images.TOOLS}
    pod = node.run_pod("pod")
    by_name = node.cri.run_container(pod, "by-name", IMAGE, ["/bin/sleep", "3600"])
    by_id = node.cri.run_container(pod, "by-id", pulled, ["/bin/sleep", "3600"])
    for container in (by_name, by_id):
        told = node.cri.call("ContainerStatus", container_id=container).status
        assert told.image.image == IMAGE
        assert told.image_ref.startswith("reg.example/tools@sha256:")
    node.remove_pod(pod)
    node.cri.call("RemoveImage", image={"image": IMAGE})
    assert status(node) == []


def test_a_pull_that_no_mirror_serves_names_them_all(node: Node) -> None:
    with pytest.raises(CriError) as refused:
        node.cri.call("PullImage", image={"image": "reg.example/absent:1"})
    assert "no source has reg.example/absent:1" in refused.value.details
    for source in ("127.0.0.1:5009/absent:1", "127.0.0.1:5000/mirror/absent:1"):
        assert source in refused.value.details
    assert "secret" not in refused.value.details


def test_a_denied_image_is_not_pulled(node: Node) -> None:
    with pytest.raises(
        CriError, match=r"PERMISSION_DENIED: .*rule lists does not allow image reg\.example/forbidden:1"
    ):
        node.cri.call("PullImage", image={"image": "reg.example/forbidden:1"})
