"""The runtime's conflist, rendered from the pod CIDRs that kubelet tells.

kubelet tells them once per start of its own and when they change (UpdateRuntimeConfig), and tells them again when the
call fails. So the file is written before the runtime hears of it, and a failure is the answer. podwire-net renders:
it leaves an equal file alone, and replaces another one by a rename. A change applies to pods that start from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from cri_shim import process, schema
from cri_shim.call import Call, Code
from cri_shim.chain import Interceptor
from cri_shim.config import Config
from cri_shim.errors import ChildError, RejectedError
from cri_shim.log import Log

METHOD = "/runtime.v1.RuntimeService/UpdateRuntimeConfig"
PROGRAM = "podwire-net"
RENDER_SECONDS = 20.0


class Conflist:
    """Keeps the file of `network.conflist` in step with the pod CIDRs, and remembers those."""

    def __init__(self, config: Config, log: Log) -> None:
        self.path = config.network_conflist
        self._config = config
        self._memory = Path(config.network_pod_cidr_file)
        self._log = log
        self._turn = asyncio.Lock()

    async def adopt(self, pod_cidrs: Sequence[str]) -> None:
        """Render for these and remember them; raises ChildError or OSError, and then remembers nothing."""
        async with self._turn:
            before = self._remembered()
            await self._render(pod_cidrs, before)
            if list(pod_cidrs) != before:
                _write(self._memory, ",".join(pod_cidrs) + "\n")

    async def restore(self) -> None:
        """Render for what is remembered; failures are logged, since whoever could ask again is not there."""
        async with self._turn:
            remembered = self._remembered()
            if not remembered:
                return
            try:
                await self._render(remembered, remembered)
            except ChildError as error:
                self._log.event("conflist-failed", path=self.path, pod_cidr=",".join(remembered), error=str(error))

    def _remembered(self) -> list[str]:
        try:
            return split(self._memory.read_text())
        except (OSError, UnicodeDecodeError):
            return []

    async def _render(self, pod_cidrs: Sequence[str], before: Sequence[str]) -> None:
        argv = [renderer(self._config.network_renderer), "conf", "render", "--json", "--write", self.path]
        argv += [f"--pod-cidr={subnet}" for subnet in pod_cidrs]
        argv += [f"--cluster-cidr={subnet}" for subnet in self._config.network_cluster_cidrs]
        if self._config.network_template:
            argv.append(f"--template={self._config.network_template}")
        done = await process.run(argv, RENDER_SECONDS)
        if done.code != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise ChildError(f"{argv[0]} conf render ended with {done.code}: {said[-2000:]}")
        with contextlib.suppress(ValueError, AttributeError):
            if json.loads(done.stdout).get("changed"):
                self._log.event(
                    "conflist",
                    path=self.path,
                    pod_cidr=",".join(pod_cidrs),
                    before=",".join(before) if list(before) != list(pod_cidrs) else "",
                    applies_to="new pods",
                )


class NetworkConfig(Interceptor):
    """Renders before UpdateRuntimeConfig goes on to the runtime."""

    name = "network-config"
    fail_open = False

    def __init__(self, conflist: Conflist) -> None:
        self._conflist = conflist

    def wants(self, method: str) -> bool:
        return method == METHOD

    async def on_request(self, call: Call, frame: bytes) -> bytes:
        try:
            request = schema.message("UpdateRuntimeConfigRequest").FromString(frame)
        except DecodeError:
            return frame  # the runtime's to refuse
        pod_cidrs = split(request.runtime_config.network_config.pod_cidr)
        if not pod_cidrs:
            return frame
        try:
            await self._conflist.adopt(pod_cidrs)
        except (ChildError, OSError) as error:
            raise RejectedError(
                Code.FAILED_PRECONDITION,
                f"podwire-shim: {self._conflist.path} could not be made for pod CIDR {','.join(pod_cidrs)}: {error}",
            ) from error
        return frame


def split(pod_cidr: str) -> list[str]:
    """The subnets in UpdateRuntimeConfig's pod_cidr, joined by commas for dual stack; [] for an empty one."""
    return [subnet.strip() for subnet in pod_cidr.split(",") if subnet.strip()]


def renderer(path: str) -> str:
    """The program that renders: `path`, or podwire-net beside this program, beside its Python, or on PATH."""
    if path:
        return path
    for beside in (sys.argv[0], sys.executable):
        candidate = Path(beside).absolute().with_name(PROGRAM)
        if os.access(candidate, os.X_OK):
            return str(candidate)
    return shutil.which(PROGRAM) or PROGRAM


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
