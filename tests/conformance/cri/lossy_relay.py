"""A relay in front of a real runtime that loses fields, as typed relays do, for the tests of the suite.

Each field that it drops is one that some case must miss; LOSSES says which.
"""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from grpc import aio

from cri_shim import schema
from tests.conformance.cri.client import METHODS
from tests.conformance.cri.served import Served
from tests.cri.scripted import OPTIONS, Behaviour, Context

_SECURITY = "config.linux.security_context"
# (method, field of the request) -> the cases that must miss it.
OF_REQUESTS = {
    ("RunPodSandbox", "config.annotations"): {7},
    ("RunPodSandbox", "config.dns_config"): {22},
    ("RunPodSandbox", "config.linux.sysctls"): {23},
    ("CreateContainer", "config.args"): {36},
    ("CreateContainer", "config.envs"): {37},
    ("CreateContainer", "config.working_dir"): {38},
    ("CreateContainer", "config.mounts"): {78, 79},
    ("CreateContainer", "config.devices"): {71},
    ("CreateContainer", "config.linux.resources"): {131},
    ("CreateContainer", f"{_SECURITY}.namespace_options"): {47},
    ("CreateContainer", f"{_SECURITY}.run_as_user"): {56},
    ("CreateContainer", f"{_SECURITY}.run_as_group"): {57},
    ("CreateContainer", f"{_SECURITY}.supplemental_groups"): {60},
    ("CreateContainer", f"{_SECURITY}.capabilities"): {63},
    ("CreateContainer", f"{_SECURITY}.readonly_rootfs"): {64},
    ("CreateContainer", f"{_SECURITY}.no_new_privs"): {66},
    ("CreateContainer", f"{_SECURITY}.privileged"): {67, 68},
    ("CreateContainer", f"{_SECURITY}.masked_paths"): {69},
    ("CreateContainer", f"{_SECURITY}.readonly_paths"): {70},
    ("CreateContainer", f"{_SECURITY}.seccomp"): {74, 76, 77},
    ("StopContainer", "timeout"): {28},
    ("UpdateContainerResources", "linux.memory_limit_in_bytes"): {133},
    ("ListContainers", "filter.state"): {150},
    ("ListContainerStats", "filter"): {113},
}
OF_ANSWERS = {
    ("ContainerStatus", "status.reason"): {26},
    ("ExecSync", "exit_code"): {94},
    ("ExecSync", "stderr"): {93},
    ("ContainerStats", "stats.memory"): {111},
    ("PodSandboxStats", "stats.linux.network"): {114},
    ("ImageStatus", "image.username"): {123},
}
LOSSES = {**OF_REQUESTS, **OF_ANSWERS}


def lossy_relay(path: Path, upstream: Path) -> Served:
    """Serves at `path` what the runtime at `upstream` answers, less the fields of LOSSES."""
    channels: list[aio.Channel] = []

    def channel() -> aio.Channel:
        # It belongs to the loop in which it is made.
        if not channels:
            channels.append(aio.insecure_channel(f"unix:{quote(str(upstream))}", options=OPTIONS))
        return channels[0]

    def behaviour(name: str) -> Behaviour:
        method = METHODS[name]

        async def relay(context: Context) -> None:
            frame = await context.read()
            assert isinstance(frame, bytes)
            call: Any = channel().unary_unary(method.path)
            try:
                answer = await call(_without(frame, method.request, name, OF_REQUESTS))
            except aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
            await context.write(_without(answer, method.response, name, OF_ANSWERS))

        return relay

    unary = [name for name, method in METHODS.items() if method.unary]
    return Served(path, {METHODS[name].path: behaviour(name) for name in unary})


def _without(frame: bytes, message: str, method: str, losses: dict[tuple[str, str], set[int]]) -> bytes:
    parsed: Any = schema.message(message).FromString(frame)
    for of, field in losses:
        if of == method:
            *steps, last = field.split(".")
            place = parsed
            for step in steps:
                place = getattr(place, step)
            place.ClearField(last)
    return bytes(parsed.SerializeToString())
