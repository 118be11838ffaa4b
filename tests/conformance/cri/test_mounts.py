"""Cases 78-86: mounts, and what passes through them later."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cri_shim import schema
from tests.conformance.cri.bench import Cri
from tests.conformance.cri.cases import case
from tests.lab import images

PROPAGATION = {
    name.removeprefix("PROPAGATION_").lower(): number for name, number in schema.enum("MountPropagation").items()
}


def mount(host: Path, **more: Any) -> dict[str, Any]:
    return {"container_path": "/data", "host_path": str(host), **more}


@contextlib.contextmanager
def mounted(cri: Cri, kind: str, place: Path) -> Iterator[Path]:
    """A tmpfs on the node, or (`shared`) the folder bound over itself so that mounts below it propagate."""
    if kind == "shared":
        cri.site.run(["mount", "--no-mtab", "--bind", place, place])
        cri.site.run(["mount", "--no-mtab", "--make-shared", place])
    else:
        cri.site.run(["mount", "--no-mtab", "-t", "tmpfs", kind, place])
    try:
        yield place
    finally:
        cri.site.run(["umount", "--recursive", "--lazy", place])


@case(78, "mounts", "a folder of the node is read and written at its place in the container")
def test_a_folder_of_the_node_is_read_and_written(cri: Cri) -> None:
    folder = cri.folder("data")
    (folder / "in.txt").write_text("from the node\n")
    container = cri.started(mounts=[mount(folder)])
    assert cri.out(container, "cat /data/in.txt; echo from the container > /data/out.txt") == "from the node"
    assert (folder / "out.txt").read_text() == "from the container\n"
    assert [(each.container_path, each.host_path) for each in cri.status(container).mounts] == [("/data", str(folder))]


@case(79, "mounts", "a read-only folder is not written")
def test_a_read_only_folder_is_not_written(cri: Cri) -> None:
    container = cri.started(mounts=[mount(cri.folder("data"), readonly=True)])
    denied = cri.shell(container, "echo x > /data/file")
    assert denied.code != 0
    assert "Read-only file system" in denied.err
    assert cri.status(container).mounts[0].readonly


@case(80, "mounts", "a single file is mounted over the image's")
def test_a_single_file_is_mounted_over_the_images(cri: Cri) -> None:
    file = cri.folder("data") / "hosts"
    file.write_text("192.0.2.7 special\n")
    container = cri.started(mounts=[mount(file, container_path="/etc/hosts")])
    assert cri.out(container, "cat /etc/hosts") == "192.0.2.7 special"


@case(81, "mounts", "a symbolic link on the node is followed there")
def test_a_symbolic_link_on_the_node_is_followed_there(cri: Cri) -> None:
    folder = cri.folder("data")
    (folder / "in.txt").write_text("behind the link\n")
    (cri.scratch / "link").symlink_to(folder)
    container = cri.started(mounts=[mount(cri.scratch / "link")])
    assert cri.out(container, "cat /data/in.txt") == "behind the link"


def seen_later(cri: Cri, propagation: str) -> str:
    """What a container lists of a folder below its mount where the node mounts something later."""
    folder = cri.folder("data")
    (folder / "below").mkdir()
    with mounted(cri, "shared", folder):
        container = cri.started(mounts=[mount(folder, propagation=PROPAGATION[propagation])])
        with mounted(cri, "tmpfs", folder / "below"):
            cri.site.run(["touch", folder / "below" / "later"])
            return cri.out(container, "ls /data/below")


@case(82, "mounts", "private: a later mount of the node does not appear in the container")
def test_private_mounts_stay_apart(cri: Cri) -> None:
    assert seen_later(cri, "private") == ""


@case(83, "mounts", "host to container: a later mount of the node appears in the container")
def test_a_later_mount_of_the_node_appears_in_the_container(cri: Cri) -> None:
    assert seen_later(cri, "host_to_container") == "later"


@case(84, "mounts", "bidirectional: a mount of a privileged container appears on the node")
def test_a_mount_of_a_privileged_container_appears_on_the_node(cri: Cri) -> None:
    folder = cri.folder("data")
    (folder / "below").mkdir()
    with mounted(cri, "shared", folder):
        container = cri.container(
            cri.pod(security={"privileged": True}),
            security={"privileged": True},
            mounts=[mount(folder, propagation=PROPAGATION["bidirectional"])],
        )
        cri.out(container, "/bin/busybox mount -t tmpfs inner /data/below && echo x > /data/below/made-inside")
        assert cri.site.run(["ls", folder / "below"]).stdout.split() == ["made-inside"]


@case(85, "mounts", "recursively read-only: what is mounted below is not written either")
def test_a_recursively_read_only_mount(cri: Cri) -> None:
    handlers = [each for each in cri.endpoint.status.runtime_handlers if not each.name]
    claimed = handlers and handlers[0].features.recursive_read_only_mounts
    cri.needs(claimed, "no recursive read-only mounts in the runtime handler's features (CRI 0.30)")
    folder = cri.folder("data")
    (folder / "below").mkdir()
    with mounted(cri, "tmpfs", folder / "below"):
        given = mount(folder, readonly=True, recursive_read_only=True)
        container = cri.started(mounts=[given])
        assert "Read-only file system" in cri.shell(container, "echo x > /data/below/file").err


@case(86, "mounts", "an image is mounted as a volume, read-only")
def test_an_image_is_mounted_as_a_volume(cri: Cri) -> None:
    cri.needs(cri.endpoint.status.HasField("features"), "Status has no features (CRI before 0.31, where volumes came)")
    volume = {"container_path": "/volume", "image": {"image": images.TOOLS}, "readonly": True}
    pod = cri.pod()
    container = cri.container(pod, image=images.PERSON, mounts=[volume])
    assert cri.out(container, "cat /volume/www/index.html") == "hello from podwire"
    assert cri.shell(container, "echo x > /volume/file").code != 0
