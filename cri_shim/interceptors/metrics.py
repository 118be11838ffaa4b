"""Prometheus metrics of every call, on a unix socket or on loopback.

Label values are bounded: methods are those of the schema (all others are "other"), codes gRPC's, rules and
interceptors the configuration's. Latency is split into what the runtime took and what the shim added.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from cri_shim.call import Call, Code
from cri_shim.capabilities import Services, Setup
from cri_shim.chain import Interceptor
from cri_shim.endpoint import Endpoint, Listener
from cri_shim.errors import ConfigError, ListenError
from cri_shim.schema import methods
from cri_shim.settings import Setting, endpoint_of, take, text

OTHER = "other"
UPSTREAM_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
SHIM_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)
KEEP_SECONDS = 5.0
REQUEST_SECONDS = 5.0
LOOPBACK = ("127.0.0.1", "[::1]", "localhost")


def listen_of(value: Any) -> Endpoint | tuple[str, int]:
    """`unix:///path` or a loopback address and a port; ValueError for anything that others could reach."""
    address = text(value)
    if address.startswith("unix:"):
        return endpoint_of(address)
    host, _, port = address.rpartition(":")
    if host not in LOOPBACK or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"must be unix:///path or 127.0.0.1:PORT or [::1]:PORT, not {address!r}")
    return host.strip("[]"), int(port)


# What the keys of this capability's table hold when it does not.
DEFAULTS = {"listen": "unix:///run/podwire/metrics.sock"}
SETTINGS = (Setting("listen", "listen", listen_of),)


class Metrics(Interceptor):
    """Counts calls when they end, and serves what it counted at `listen` under every path."""

    name = "metrics"
    fail_open = True

    def __init__(self, setup: Setup) -> None:
        if setup.rules:
            raise ConfigError([f"rule {rule.name}: metrics takes no rules" for rule in setup.rules])
        values = take(SETTINGS, DEFAULTS | dict(setup.settings), self.name)
        self._listen: Endpoint | tuple[str, int] = values["listen"]
        self._listener: Listener | None = None
        self._server: asyncio.Server | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.registry = CollectorRegistry()
        # A second series beside every counter, for the time of its birth.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._calls = Counter(
            "podwire_cri_calls", "Calls that ended.", ("method", "code", "ended_by"), registry=self.registry
        )
        self._upstream = _histogram("upstream", "Time spent waiting for the runtime.", UPSTREAM_BUCKETS, self.registry)
        self._shim = _histogram("shim", "Time the shim added.", SHIM_BUCKETS, self.registry)
        self._bytes = Counter(
            "podwire_cri_bytes", "Bytes of messages passed on.", ("method", "direction"), registry=self.registry
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(_Vitals(setup.services))
        self._counters = functools.lru_cache(maxsize=512)(self._counters_of)

    async def on_end(self, call: Call) -> None:
        known = methods().get(call.method)
        method = call.name if known is not None else OTHER
        code = Code(call.code).name if call.code in _CODES else Code.UNKNOWN.name
        calls, request, response = self._counters(method, code, str(call.ended_by))
        calls.inc()
        request.inc(call.request_bytes)
        response.inc(call.response_bytes)
        # How long a stream lasts is its client's choice.
        if known is not None and known.unary:
            self._upstream.labels(method).observe(call.upstream_seconds)
            self._shim.labels(method).observe(call.shim_seconds)

    async def start(self) -> None:
        """Listen; ConfigError when the socket cannot be had."""
        try:
            if isinstance(self._listen, Endpoint):
                await self._appear(self._listen)
                self._keeper = asyncio.create_task(self._keep(self._listen))
            else:
                # A successor may listen beside its predecessor.
                self._server = await asyncio.start_server(self._serve, *self._listen, reuse_port=True)
        except (OSError, ListenError) as error:
            raise ConfigError([f"metrics.listen: {error}"]) from error

    async def close(self) -> None:
        """Listen no more; a socket that a successor put in the place stays."""
        if self._keeper is not None:
            self._keeper.cancel()
        if self._listener is not None:
            self._listener.withdraw()
        if self._server is not None:
            self._server.close()

    async def _appear(self, endpoint: Endpoint) -> None:
        self._listener = Listener(endpoint)
        self._server = await asyncio.start_unix_server(self._serve, sock=self._listener.socket)

    async def _keep(self, endpoint: Endpoint) -> None:
        """Listen anew when nothing lies at the path: a successor that took it may have failed and gone."""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            if self._server is not None and self._listener is not None and self._listener.missing():
                self._server.close()
                try:
                    await self._appear(endpoint)
                except (OSError, ListenError):
                    continue

    def _counters_of(self, method: str, code: str, ended_by: str) -> tuple[Counter, Counter, Counter]:
        return (
            self._calls.labels(method, code, ended_by),
            self._bytes.labels(method, "request"),
            self._bytes.labels(method, "response"),
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head.decode("latin-1")))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str) -> bytes:
        first, *rest = head.split("\r\n")
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in rest)}
        if not first.startswith("GET "):
            return b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        encode, content_type = choose_encoder(headers.get("accept", ""))
        # Many series take milliseconds, which calls should not wait for.
        body = await asyncio.to_thread(encode, self.registry)
        return (
            f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        ).encode() + bytes(body)


class _Vitals:
    """What the shim counts of itself, read when it is asked for."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        vitals = self._services.vitals
        yield GaugeMetricFamily("podwire_cri_calls_in_flight", "Calls that have not ended.", vitals.in_flight())
        yield GaugeMetricFamily("podwire_cri_upstream_up", "1 while connected to the runtime.", float(vitals.connected))
        yield CounterMetricFamily(
            "podwire_cri_upstream_connections", "Times the runtime was reached.", vitals.connections
        )
        yield _counted("podwire_cri_reloads", "Reloads of the configuration.", "result", vitals.reloads)
        yield _counted("podwire_cri_interceptor_failures", "Hooks that raised.", "interceptor", vitals.failures)
        yield _counted("podwire_cri_lines_lost", "Log lines that could not be written.", "log", vitals.lost_lines)
        rules = CounterMetricFamily(
            "podwire_cri_rule_outcomes",
            "What became of the calls a rule concerned.",
            labels=("interceptor", "rule", "outcome"),
        )
        for (interceptor, rule), counts in sorted(self._services.tally.items()):
            for outcome in counts.__slots__:
                rules.add_metric((interceptor, rule, outcome), getattr(counts, outcome))
        yield rules


_CODES = frozenset(Code)


def _histogram(part: str, says: str, buckets: tuple[float, ...], registry: CollectorRegistry) -> Histogram:
    return Histogram(f"podwire_cri_{part}_seconds", says, ("method",), buckets=buckets, registry=registry)


def _counted(name: str, says: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, says, labels=(label,))
    for value, count in sorted(counts.items()):
        family.add_metric((value,), count)
    return family
