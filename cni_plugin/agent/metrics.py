"""What the agent tells Prometheus. docs/agent.md lists every name; a test compares.

What the agent counts is kept here; what the node holds (claims, pools) is read from the state folder when somebody
asks, at most once in a while.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cni_plugin.net import conflists, state
from cni_plugin.spec import CniError

_PREFIX = "podwire_agent"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# A scrape in a loop must not read ten thousand claims each time.
_FRESH_SECONDS = 5.0


class Metrics:
    """Counters and gauges; each is set by the main thread alone."""

    def __init__(self, state_dir: str, conf_dir: str, age: Callable[[], float]) -> None:
        # A series of its own for the birth of every counter is more than they are worth.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.peers = self._gauge("peers", "Other nodes in the list of nodes.")
        self.source_up = self._gauge("source_up", "1 while the list of nodes can be had, 0 while the last one is used.")
        self.source_age = self._gauge(
            "source_age_seconds", "Since the source of the list of nodes last answered (lag)."
        )
        self.source_age.set_function(age)
        self.routes_desired = self._gauge("routes_desired", "Routes that the plan asks for.", "mode")
        self.routes_present = self._gauge("routes_present", "Routes of the plan that the kernel has.")
        self.routes_changed = self._counter("routes_changed", "Routes made and removed.", "change")
        self.tunnel_mtu = self._gauge("tunnel_mtu_bytes", "MTU of the tunnel, 0 where there is none.")
        self.reconciles = self._counter("reconciles", "Comparisons of plan and kernel, by result.", "result")
        self.reconcile_seconds = Histogram(
            f"{_PREFIX}_reconcile_seconds", "Time of one comparison.", registry=self.registry, buckets=_BUCKETS
        )
        self.table_rebuilds = self._counter("table_rebuilds", "How often the nft table was made anew.")
        self.gc_runs = self._counter("gc_runs", "Searches for what dead pods left, by result.", "result")
        self.gc_objects = self._counter("gc_objects", "What these searches found to remove, by result.", "result")
        self.faults = self._gauge("faults", "What is wrong now, by part of the agent.", "part")
        self.registry.register(_Holdings(Path(state_dir), Path(conf_dir)))
        for mode in ("host-gw", "vxlan"):
            self.routes_desired.labels(mode).set(0)
        for change in ("made", "removed"):
            self.routes_changed.labels(change)
        for result in ("ok", "faults"):
            self.reconciles.labels(result)
        for result in ("ok", "broken"):
            self.gc_runs.labels(result)
        for result in ("removed", "failed"):
            self.gc_objects.labels(result)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, labels, registry=self.registry)


class _Holdings(Collector):
    """Claims and pools, as the state folder has them."""

    def __init__(self, state_dir: Path, conf_dir: Path) -> None:
        self._state_dir, self._conf_dir = state_dir, conf_dir
        self._read, self._last = 0.0, self._families()

    def _families(self) -> list[GaugeMetricFamily]:
        pool = ("network", "ranges")
        return [
            GaugeMetricFamily(f"{_PREFIX}_attachments", "Recorded attachments of pods, by state.", labels=["state"]),
            GaugeMetricFamily(f"{_PREFIX}_claims", "Addresses and hostPorts that attachments hold.", labels=["kind"]),
            GaugeMetricFamily(f"{_PREFIX}_pool_size", "Addresses that a range set can hand out.", labels=pool),
            GaugeMetricFamily(f"{_PREFIX}_pool_used", "Addresses of a range set that are held.", labels=pool),
            GaugeMetricFamily(f"{_PREFIX}_pool_free", "Addresses of a range set that are free.", labels=pool),
        ]

    def describe(self) -> list[Metric]:
        """Without reading anything."""
        return list(self._families())

    def collect(self) -> Iterator[Metric]:
        """A reading, or the last one when that is new enough or the folder cannot be read."""
        if time.monotonic() - self._read > _FRESH_SECONDS or not self._read:
            try:
                self._last = self._reading()
                self._read = time.monotonic()
            except (OSError, CniError):
                pass  # the faults tell what is wrong with the folder
        yield from self._last

    def _reading(self) -> list[GaugeMetricFamily]:
        held = state.read(self._state_dir)
        attachments, claims, size, used, free = families = self._families()
        for each in ("attachments", "pending", "deleting"):
            attachments.add_metric([each], sum(1 for record in held.records if record.state == each))
        claims.add_metric(["address"], len(held.addresses))
        claims.add_metric(["host_port"], len(held.ports))
        for pool in conflists.pools(conflists.networks(conflists.read(self._conf_dir)), held, set()):
            labels = [pool.network, pool.ranges]
            size.add_metric(labels, pool.size)
            used.add_metric(labels, pool.used)
            free.add_metric(labels, pool.free)
        return families
