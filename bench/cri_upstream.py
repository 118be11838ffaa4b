"""The scripted runtime of bench.cri: `python -m bench.cri_upstream SOCKET [PODS]` answers each method at once.

Without PODS the answers are bytes of a size; with it, those of a node with so many pods (bench.cri_node). It is a
process of its own, so that its work is not counted as the shim's.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import grpc
from grpc import aio

VERSION = "/runtime.v1.RuntimeService/Version"
LIST = "/runtime.v1.RuntimeService/ListContainers"
# The sizes of answers; a shim relays bytes, so that they need be no messages.
SIZES = {VERSION: 100, LIST: 1 << 20}
LIMITS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class Script(grpc.GenericRpcHandler):
    """Answers at once, each method always with the same bytes."""

    def __init__(self, answers: Mapping[str, bytes]) -> None:
        self._handlers = {method: self._handler(answer) for method, answer in answers.items()}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by grpcio for each call, with its path."""
        return self._handlers.get(details.method)

    @staticmethod
    def _handler(answer: bytes) -> grpc.RpcMethodHandler[Any, Any]:
        async def reply(request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
            return answer

        return grpc.unary_unary_rpc_method_handler(reply)


async def serve(socket: str, answers: Mapping[str, bytes]) -> None:
    """Answer on the socket until the process is ended."""
    server = aio.server(options=LIMITS)
    server.add_generic_rpc_handlers((Script(answers),))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    """Serve on the socket of the command line."""
    if len(sys.argv) == 2:
        answers = {method: bytes(size) for method, size in SIZES.items()}
    elif len(sys.argv) == 3:
        from bench.cri_node import ScriptedNode

        answers = ScriptedNode(int(sys.argv[2])).answers()
    else:
        sys.exit("usage: python -m bench.cri_upstream SOCKET [PODS]")
    asyncio.run(serve(sys.argv[1], answers))


if __name__ == "__main__":
    main()
