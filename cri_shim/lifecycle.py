"""From the bound socket to the last call: start, report, drain, stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from grpc import aio

from cri_shim import handover, watchdog
from cri_shim.call import Call, Code
from cri_shim.capabilities import Services
from cri_shim.chain import Interceptor
from cri_shim.config import Config
from cri_shim.endpoint import Claim
from cri_shim.errors import ConfigError
from cri_shim.log import Log
from cri_shim.native import Native
from cri_shim.network import Network
from cri_shim.notify import Notifier
from cri_shim.pods import Pods
from cri_shim.reload import Live, Source
from cri_shim.rules import Tally
from cri_shim.server import ENDLESS, SERVER_OPTIONS, Relay
from cri_shim.upstream import Upstream

# What an explicitly ended call gets to reach its client before connections are cut.
LAST_WORDS_SECONDS = 1.0


async def run(
    config: Config,
    claim: Claim,
    notifier: Notifier,
    log: Log,
    source: Source | None = None,
    served: Callable[[], None] = lambda: None,
) -> None:
    """Serve on the claimed socket until SIGTERM, SIGINT or a successor, then drain. A second signal ends the drain.

    Later versions of the configuration come from `source`; `served` is called once clients can connect. ConfigError
    before anything is served when the interceptors it asks for cannot be had.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def signalled(name: str) -> None:
        log.event("signal", signal=name)
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled, number.name)

    def complain(name: str, call: Call, error: Exception) -> None:
        services.vitals.failures[name] += 1
        log.event(
            "interceptor-failed",
            interceptor=name,
            method=call.method,
            error=f"{type(error).__name__}: {error}",
        )

    upstream = Upstream(config.upstream, config.reconnect_initial_seconds, config.reconnect_max_seconds)
    network = Network(config, upstream, log)
    services = Services(log.event, Pods(upstream.ask), Tally(), upstream.ask)
    live = Live(source or Source(), config, services, log, complain, network.interceptors)
    loop.add_signal_handler(signal.SIGHUP, live.ask)
    try:
        chain = await live.start()
    except ConfigError:
        await upstream.close()
        raise
    relay = Relay(upstream, chain)
    services.vitals.in_flight = lambda: relay.in_flight
    age = ("grpc.max_connection_age_ms", round(config.handover_connection_seconds * 1000))
    server = aio.server(options=(*SERVER_OPTIONS, age))
    server.add_generic_rpc_handlers((relay,))

    def upstream_changed(connected: bool) -> None:
        services.vitals.connected = connected
        services.vitals.connections += connected
        log.event("upstream", endpoint=str(config.upstream), connected=connected)
        notifier.status(f"relaying to {config.upstream}" if connected else _waiting(config))

    async def landed(gone: Interceptor) -> None:
        await relay.landed(lambda links: gone in links.interceptors)

    background: list[asyncio.Task[None]] = []
    beside: list[asyncio.Task[None]] = []
    try:
        # The claim's socket is listened on from here, answered from start() on, and known to clients last.
        claim.bind(server.add_insecure_port)
        await server.start()
        if claim.incumbent is not None:
            await handover.reachable(upstream, config, stop)
        claim.appear()
        log.event("listening", endpoint=str(config.listen), upstream=str(config.upstream), replaces=claim.incumbent)
        notifier.ready(_waiting(config))
        served()
        background = [
            asyncio.create_task(upstream.watch(upstream_changed)),
            asyncio.create_task(live.follow(relay.use, landed)),
        ]
        if notifier.watchdog_seconds is not None:
            background.append(asyncio.create_task(watchdog.feed(notifier, claim, log, notifier.watchdog_seconds)))
        beside = [asyncio.create_task(work()) for work in network.background]
        beside.append(asyncio.create_task(handover.renew(config, claim, log)))
        if config.native_enabled:
            beside.append(asyncio.create_task(Native(upstream, log).watch()))
        replaced = await _until_told(claim, stop)
        # From here on they are the next one's.
        for task in beside:
            task.cancel()
        if replaced:
            notifier.mute()
            log.event("replaced", endpoint=str(config.listen))
            await handover.linger(config, stop)
        seconds = config.handover_drain_seconds if not stop.is_set() else live.config.drain_seconds
        background.pop(0).cancel()
        notifier.stopping(f"draining {relay.in_flight} calls, {seconds:g} s at most")
        log.event("draining", calls=relay.in_flight, seconds=seconds)
        claim.withdraw()
        left = await drain(server, relay, seconds, hurry)
        log.event("stopped", calls_ended=left)
    finally:
        for task in (*background, *beside):
            task.cancel()
        await server.stop(0)
        await live.close()
        await upstream.close()


async def _until_told(claim: Claim, stop: asyncio.Event) -> bool:
    """Serve until a signal says stop, or until a successor has the path; returns whether it was that."""
    stopped, replaced = asyncio.create_task(stop.wait()), asyncio.create_task(handover.superseded(claim))
    await asyncio.wait([stopped, replaced], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    replaced.cancel()
    return not stop.is_set()


async def drain(server: aio.Server, relay: Relay, seconds: float, hurry: asyncio.Event) -> int:
    """Take no new call, let those in flight end within `seconds`, end the rest; returns how many those were.

    A stream without an end of its own is ended at once, so that its client looks for the next instance.
    """
    stopping = asyncio.create_task(server.stop(seconds + 2 * LAST_WORDS_SECONDS))
    relay.end_calls(Code.UNAVAILABLE, "podwire-shim is stopping", lambda call: call.method in ENDLESS)
    landed, hurried = asyncio.create_task(relay.landed()), asyncio.create_task(hurry.wait())
    await asyncio.wait([landed, hurried], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    left = relay.in_flight
    if left:
        relay.end_calls(Code.UNAVAILABLE, f"podwire-shim stopped before the call ended ({seconds:g} s to drain)")
    # Landed in the shim is not yet read by the client: stop() waits for that.
    await asyncio.wait([stopping], timeout=LAST_WORDS_SECONDS)
    for task in (landed, hurried):
        task.cancel()
    return left


def _waiting(config: Config) -> str:
    return f"waiting for the upstream at {config.upstream}"
