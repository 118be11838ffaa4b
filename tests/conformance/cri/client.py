"""Calls to an endpoint, and the record of what was answered."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri_shim import schema
from cri_shim.schema import RuntimeMessage
from tests.conformance.cri.normal import Normaliser
from tests.lab.cri import OPTIONS, CriClient, CriError

# Added to CRI after 1.23, or optional by its text: an endpoint without them is older, not wrong.
OPTIONAL = {
    "CheckpointContainer",
    "GetContainerEvents",
    "ListMetricDescriptors",
    "ListPodSandboxMetrics",
    "ListPodSandboxStats",
    "PodSandboxStats",
    "RuntimeConfig",
    "StreamContainerStats",
    "StreamContainers",
    "StreamImages",
    "StreamPodSandboxMetrics",
    "StreamPodSandboxStats",
    "StreamPodSandboxes",
    "UpdatePodSandboxResources",
}
METHODS = {method.name: method for method in schema.methods().values()}


class Sockets:
    """The connections to one endpoint, shared by all cases."""

    def __init__(self, runtime: Path, images: Path) -> None:
        self.runtime = CriClient(runtime)
        self.images = self.runtime if images == runtime else CriClient(images)
        self.channel = grpc.insecure_channel(f"unix:{runtime}", options=OPTIONS)

    def send(self, path: str, request: bytes, seconds: float) -> bytes:
        """A unary call of any method with any bytes. Raises grpc.RpcError."""
        call: Any = self.channel.unary_unary(path)
        answer: bytes = call(request, timeout=seconds)
        return answer

    def close(self) -> None:
        """Drop them."""
        self.channel.close()
        self.runtime.close()
        self.images.close()


class Client:
    """One run's client: an optional method that is not implemented skips the case; each answer is recorded."""

    def __init__(self, sockets: Sockets, normaliser: Normaliser) -> None:
        self._sockets = sockets
        self._normaliser = normaliser
        self.record: list[Any] = []

    def introduce(self, identity: str) -> None:
        """An id that exists already: what is said of it in lists is compared too."""
        self._normaliser.text(identity)

    def call(self, name: str, **fields: Any) -> RuntimeMessage:
        """A unary RPC whose answer, or error, is part of what is compared. Raises CriError."""
        try:
            answer = self.ask(name, **fields)
        except CriError as error:
            self.record.append([name, error.code.name, self._normaliser.text(error.details)])
            raise
        self.record.append([name, "OK", self._normaliser.message(answer)])
        return answer

    def ask(self, name: str, **fields: Any) -> RuntimeMessage:
        """The same without a record: for polling, and for answers that differ from one moment to the next."""
        images = METHODS[name].service.endswith("ImageService")
        try:
            return (self._sockets.images if images else self._sockets.runtime).call(name, **fields)
        except CriError as error:
            skip_if_optional(error)
            raise

    def refused(self, name: str, **fields: Any) -> CriError:
        """The error that this call must end with."""
        try:
            answer = self.call(name, **fields)
        except CriError as error:
            return error
        raise AssertionError(f"{name} was not refused, but answered {answer}")

    def note(self, what: str, value: Any) -> None:
        """Something else that two endpoints must have in common."""
        self.record.append([what, self._normaliser.text(value) if isinstance(value, str) else value])

    @contextlib.contextmanager
    def stream(self, name: str, seconds: float, **fields: Any) -> Iterator[Iterator[RuntimeMessage]]:
        """The messages of a server stream, as they come; it is cancelled at the end of the block."""
        method = METHODS[name]
        stub: Any = self._sockets.channel.unary_stream(
            method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=schema.message(method.response).FromString,
        )
        call = stub(schema.message(method.request)(**fields), timeout=seconds)

        def messages() -> Iterator[RuntimeMessage]:
            try:
                yield from call
            except grpc.RpcError as error:
                failure = CriError(name, error.code(), error.details() or "")
                skip_if_optional(failure)
                raise failure from error

        try:
            yield messages()
        finally:
            call.cancel()


def skip_if_optional(error: CriError) -> None:
    """Skip the case when the method may be missing, and is."""
    if error.code is grpc.StatusCode.UNIMPLEMENTED and error.method in OPTIONAL:
        pytest.skip(f"the runtime does not implement {error.method}")
