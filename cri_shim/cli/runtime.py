"""The runtime as podwire-cri asks it: one connection, one call at a time, and every wait bounded."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import grpc

from cri_shim import schema
from cri_shim.endpoint import Endpoint
from cri_shim.errors import AskError
from cri_shim.upstream import LIMITS

ANSWER_SECONDS = 10.0


class Runtime:
    """A connection to a CRI endpoint; every failure is an AskError that names the endpoint and the method."""

    def __init__(self, endpoint: Endpoint, seconds: float = ANSWER_SECONDS) -> None:
        self.endpoint = endpoint
        self._seconds = seconds
        options = [*LIMITS, ("grpc.default_authority", "localhost")]
        self._channel = grpc.insecure_channel(f"unix:{quote(endpoint.path)}", options=options)
        self._methods = {method.name: method for method in schema.methods().values()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def ask(self, name: str, seconds: float | None = None, **fields: Any) -> schema.RuntimeMessage:
        """The response of a unary method by its short name, within `seconds` (else those of the connection)."""
        method = self._methods[name]
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method.path)
        request = schema.message(method.request)(**fields).SerializeToString()
        try:
            answer = call(request, timeout=seconds or self._seconds)
        except grpc.RpcError as error:
            code = error.code()
            text = f"{self.endpoint}: {name}: {code.name}: {error.details()}"
            raise AskError(int(code.value[0]), text) from error
        return schema.message(method.response).FromString(answer)


def told(text: str) -> dict[str, Any]:
    """One value of a verbose answer's `info` as an object; {} for anything else."""
    try:
        read = json.loads(text)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}
