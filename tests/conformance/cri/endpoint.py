"""The endpoint under test: its sockets, the node it lives on, and one pod that all cases may look at."""

import functools
import os
import secrets
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from cri_shim.schema import RuntimeMessage
from tests.conformance.cri.cases import AREAS, known_failures
from tests.conformance.cri.client import Sockets
from tests.conformance.cri.site import Site
from tests.lab import images
from tests.lab.containerd import ContainerdBinary
from tests.lab.node import Node
from tests.lab.waiting import wait_until


@functools.cache
def suite_images() -> tuple[images.Image, ...]:
    """The images that the cases use; the pod's first process is the runtime's own choice."""
    _, tools = images.images()
    return (tools, images.person(), images.spare())


@dataclass
class Endpoint:
    """One socket, or two, and where their runtime lives."""

    label: str
    sockets: Sockets
    site: Site
    # What all runs at this endpoint have in common, kept until it is closed.
    token: str = field(default_factory=lambda: secrets.token_hex(4))
    kept: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Remove what the cases shared, and drop the connections."""
        self.kept.close()
        self.sockets.close()

    @cached_property
    def version(self) -> RuntimeMessage:
        """VersionResponse."""
        return self.sockets.runtime.call("Version")

    @cached_property
    def status(self) -> RuntimeMessage:
        """StatusResponse, as it was first given."""
        return self.sockets.runtime.call("Status")

    @cached_property
    def failures(self) -> dict[int, str]:
        """The cases that this runtime is known to fail, and why."""
        return known_failures(self.version.runtime_name, self.version.runtime_version)

    @property
    def about(self) -> dict[str, Any]:
        """What the report says of it."""
        named = self.version
        return {"runtime": named.runtime_name, "version": named.runtime_version, "kernel": os.uname().release}

    def check_images(self) -> None:
        """Ends the session when one of the suite's images is not there and cannot be loaded: no registry has them."""
        present = {tag for image in self.sockets.images.call("ListImages").images for tag in image.repo_tags}
        for image in suite_images():
            if image.reference in present:
                continue
            if self.site.load is None:
                pytest.exit(
                    f"{self.label} has no image {image.reference}: load {image.archive} into it, or give "
                    "--load-command, to which the file's name is added",
                    returncode=pytest.ExitCode.USAGE_ERROR,
                )
            self.load(image)

    def load(self, image: images.Image) -> None:
        """Load an image and wait until CRI has it, which may hear of it by an event of its own."""
        assert self.site.load is not None
        self.site.load(image.archive)

        def there() -> bool:
            answer = self.sockets.images.call("ImageStatus", image={"image": image.reference})
            return bool(answer.HasField("image"))

        wait_until(there, 20, f"{self.label} to have {image.reference}")


class Pair:
    """The endpoint under test, and the one it is compared with in `areas`, if there is one."""

    def __init__(
        self, label: str, subject: Endpoint, reference: Endpoint | None, stack: ExitStack, areas: Sequence[str] = AREAS
    ) -> None:
        self.label = label
        self.subject = subject
        self.reference = reference
        self.areas = areas
        self._stack = stack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def of_options(config: pytest.Config) -> Pair:
    """The endpoints of the command line."""
    option = config.getoption
    with ExitStack() as undo:
        parent = option("--scratch") or Path("/var/tmp")
        scratch = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="cri-conformance-", dir=parent)))
        load: str | None = option("--load-command")
        restart: str | None = option("--restart-command")

        def shell(command: str, *arguments: str) -> None:
            subprocess.run(["sh", "-c", f'{command} "$@"', "sh", *arguments], check=True, timeout=120)

        def restarted() -> None:
            shell(restart or "")
            client = subject.sockets.runtime
            wait_until(lambda: client.call("Status", wait_for_ready=True), 60, "the runtime to answer again")

        site = Site(
            scratch,
            option("--node-pid"),
            option("--cgroup-parent"),
            restarted if restart else None,
            (lambda archive: shell(load, str(archive))) if load else None,
        )
        runtime = _path(option("--runtime-endpoint"))
        pictures = _path(option("--image-endpoint")) if option("--image-endpoint") else runtime
        subject = Endpoint(str(runtime), Sockets(runtime, pictures), site)
        undo.callback(subject.close)
        reference = None
        if option("--reference-endpoint"):
            other = _path(option("--reference-endpoint"))
            reference = Endpoint(f"reference {other}", Sockets(other, other), site)
            undo.callback(reference.close)
        for each in filter(None, (subject, reference)):
            each.check_images()
        return Pair(str(runtime), subject, reference, undo.pop_all())


def of_lab(binary: ContainerdBinary, areas: Sequence[str]) -> Pair:
    """podwire-shim in front of a containerd of its own, compared with that containerd's own socket."""
    with ExitStack() as undo:
        node = undo.enter_context(Node(binary))
        scratch = node.base / "conformance"
        scratch.mkdir()
        load = node.containerd.load
        site = Site(scratch, node.namespace.pid, node.cgroup_parent, node.restart_containerd, load)
        pair = []
        for label, socket in (("shim", node.cri_socket), ("containerd", node.containerd_socket)):
            pair.append(Endpoint(f"{binary.name} {label}", Sockets(socket, socket), site))
            undo.callback(pair[-1].close)
            pair[-1].check_images()
        return Pair(f"{binary.name} through podwire-shim", pair[0], pair[1], undo.pop_all(), areas)


def _path(endpoint: str) -> Path:
    scheme, separator, path = endpoint.partition("://")
    if not separator or scheme != "unix" or not path.startswith("/"):
        raise pytest.UsageError(f"{endpoint!r} is no endpoint of the form unix:///path/of/the.sock")
    return Path(path)
