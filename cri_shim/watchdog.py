"""systemd's watchdog, fed for what it watches: that a client's call would be answered."""

from __future__ import annotations

import asyncio
import secrets
from urllib.parse import quote

import grpc
from grpc import aio

from cri_shim.endpoint import Claim
from cri_shim.log import Log
from cri_shim.notify import Notifier

# Answered by the shim itself. No client can guess it, so that no method is missing to anybody.
PROBE = f"/podwire.Shim/{secrets.token_hex(16)}"


def handler() -> grpc.RpcMethodHandler[bytes, bytes]:
    """Answers PROBE."""

    async def alive(request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        return request

    return grpc.unary_unary_rpc_method_handler(alive)


async def feed(notifier: Notifier, claim: Claim, log: Log, seconds: float) -> None:
    """Every `seconds`, call ourselves through the path that kubelet takes; tell systemd only when that worked.

    Ends when a successor serves.
    """
    while not claim.superseded():
        if await _serves(claim, seconds):
            notifier.alive()
        else:
            log.event("not-serving", endpoint=str(claim.endpoint))
        await asyncio.sleep(seconds)


async def _serves(claim: Claim, seconds: float) -> bool:
    if not claim.held():
        return False
    # A new connection each time: the one before says nothing about the path.
    async with aio.insecure_channel(
        f"unix:{quote(claim.endpoint.path)}", options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        probe: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PROBE)
        try:
            await probe(b"", timeout=seconds / 2)
        except aio.AioRpcError:
            return False
    return True
