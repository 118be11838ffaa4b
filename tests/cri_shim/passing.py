"""One interceptor made from rules as an operator writes them, and messages sent through it."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Mapping
from typing import Any

from cri_shim import rules, schema
from cri_shim.call import Call, Code
from cri_shim.capabilities import Services, Setup
from cri_shim.errors import AskError
from cri_shim.interceptors.ruled import Ruled
from cri_shim.pods import Ask
from cri_shim.rules import Tally
from cri_shim.schema import RuntimeMessage

METHODS = {one.name: one for one in schema.methods().values()}


class Passing:
    """A capability with the rules of a TOML text; `events` is what it logged, `tally` what it counted."""

    def __init__(
        self, kind: type[Ruled], text: str, settings: Mapping[str, Any] | None = None, ask: Ask | None = None
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self.tally = Tally()

        def event(name: str, **fields: object) -> None:
            self.events.append({"event": name, **fields})

        parsed = rules.parse(tomllib.loads(text)["rule"])
        services = Services(event, tally=self.tally, ask=ask or _nobody)
        self.interceptor = kind(Setup(kind.name, settings or {}, parsed, services))

    def request(self, name: str, message: RuntimeMessage) -> RuntimeMessage:
        """The request as the runtime would get it; RejectedError when the call is refused."""
        return type(message).FromString(self.frame(name, message.SerializeToString()))

    def frame(self, name: str, frame: bytes) -> bytes:
        """As `request`, in bytes."""
        method = METHODS[name].path
        if not self.interceptor.wants(method):
            return frame
        return asyncio.run(self.interceptor.on_request(Call(method, []), frame))

    def response(self, name: str, request: RuntimeMessage, response: RuntimeMessage) -> RuntimeMessage:
        """The runtime's response to this request as the client would get it."""

        async def whole() -> bytes:
            call = Call(METHODS[name].path, [])
            await self.interceptor.on_request(call, request.SerializeToString())
            return await self.interceptor.on_response(call, response.SerializeToString())

        return type(response).FromString(asyncio.run(whole()))


async def _nobody(name: str, **fields: object) -> RuntimeMessage:
    raise AskError(Code.UNAVAILABLE, f"{name}: nobody to ask")


def rule(name: str, interceptor: str, do: str, more: str = "") -> str:
    """A `[[rule]]` whose `do` is an inline table."""
    return f'[[rule]]\nname = "{name}"\ninterceptor = "{interceptor}"\ndo = {{ {do} }}\n{more}\n'


def sandbox(config: Mapping[str, Any] | None = None, **linux: Any) -> RuntimeMessage:
    """The PodSandboxConfig of pod shop/web, uid u-1."""
    metadata = {"name": "web", "namespace": "shop", "uid": "u-1"}
    return schema.message("PodSandboxConfig")(**{"metadata": metadata, "linux": linux, **(config or {})})


def run(config: RuntimeMessage, runtime_handler: str = "") -> RuntimeMessage:
    """RunPodSandboxRequest."""
    return schema.message("RunPodSandboxRequest")(config=config, runtime_handler=runtime_handler)


def create(config: Mapping[str, Any], pod: RuntimeMessage | None = None) -> RuntimeMessage:
    """CreateContainerRequest of a container named app."""
    return schema.message("CreateContainerRequest")(
        pod_sandbox_id="5" * 64, config={"metadata": {"name": "app"}, **config}, sandbox_config=pod or sandbox()
    )
