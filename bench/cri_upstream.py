"""The scripted runtime of bench.cri: `python -m bench.cri_upstream SOCKET` answers each method with bytes of a size.

It is a process of its own, so that its work is not counted as the shim's.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
from grpc import aio

VERSION = "/runtime.v1.RuntimeService/Version"
LIST = "/runtime.v1.RuntimeService/ListContainers"
# The sizes of answers; a shim relays bytes, so that they need be no messages.
SIZES = {VERSION: 100, LIST: 1 << 20}
LIMITS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class Script(grpc.GenericRpcHandler):
    """Answers at once, always with the same bytes."""

    def __init__(self) -> None:
        self._handlers = {method: self._handler(bytes(size)) for method, size in SIZES.items()}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by grpcio for each call, with its path."""
        return self._handlers.get(details.method)

    @staticmethod
    def _handler(answer: bytes) -> grpc.RpcMethodHandler[Any, Any]:
        async def reply(request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
            return answer

        return grpc.unary_unary_rpc_method_handler(reply)


async def serve(socket: str) -> None:
    """Answer on the socket until the process is ended."""
    server = aio.server(options=LIMITS)
    server.add_generic_rpc_handlers((Script(),))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bench.cri_upstream SOCKET")
    asyncio.run(serve(sys.argv[1]))
