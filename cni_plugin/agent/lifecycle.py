"""The agent's life: one loop that looks again whenever anything marked it, and at least every so often.

Sources, the monitor, signals and the clock only mark; the loop is the only one that changes the node, and works from
what is true then. Its end takes nothing away: routes, tunnel and table stay, so that no pod notices.
"""

import contextlib
import os
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from cni_plugin.agent import peers
from cni_plugin.agent.config import AUTO, KUBERNETES, NONE, STATIC, Config
from cni_plugin.agent.errors import AgentError
from cni_plugin.agent.faults import Faults, Log
from cni_plugin.agent.garbage import Collector
from cni_plugin.agent.health import Server
from cni_plugin.agent.metrics import Metrics
from cni_plugin.agent.monitor import TABLE_GONE, TABLE_MADE, Monitor
from cni_plugin.agent.notify import Notifier
from cni_plugin.agent.peers import Nodes
from cni_plugin.agent.reconcile import Reconciler, Result
from cni_plugin.agent.source import Source
from cni_plugin.agent.static import FileSource

_TICK_SECONDS = 2.0
# A comparison that had faults is repeated after this, and that again doubles up to the resync.
_RETRY_SECONDS = 2.0
_HANGS_SECONDS = 60.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Of the network namespace, so that two agents never work against each other; it goes with its process.
LOCK_NAME = "\0podwire-agent"


class _Stop(SystemExit):
    """SIGTERM in the middle of a comparison, which may be cut off anywhere: the next start goes on from what is there.

    A SystemExit, since pyroute2's event loop lets nothing else out.
    """


class BusyError(AgentError):
    """Another agent works in this network namespace."""


def lock() -> socket.socket:
    """What only one process of a network namespace can hold. Raises BusyError."""
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        held.bind(LOCK_NAME)
    except OSError:
        held.close()
        raise BusyError(
            "another podwire-agent runs in this network namespace; stop it first (`systemctl stop podwire-agent`)"
        ) from None
    return held


class Marks:
    """Reasons to look again, from any thread; the main loop polls `descriptor`."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._reasons: set[str] = set()

    def add(self, reason: str) -> None:
        """Look again for this reason."""
        with self._lock:
            self._reasons.add(reason)
        os.eventfd_write(self.descriptor, 1)

    def take(self) -> set[str]:
        """The reasons since the last time."""
        try:
            os.eventfd_read(self.descriptor)
        except BlockingIOError:
            pass
        with self._lock:
            reasons, self._reasons = self._reasons, set()
        return reasons


class Agent:
    """Everything of one run; `run` returns when a signal says so."""

    def __init__(self, config: Config, node_name: str, log: Log, env: Mapping[str, str]) -> None:
        self._config, self._log = config, log
        self._marks, self._faults = Marks(), Faults(log)
        self._notifier = Notifier(env)
        self._reconciler = Reconciler(config, node_name, self._alive)
        self._collector = Collector(config.state_dir, config.conf_dir, config.gc_seconds)
        self._metrics = Metrics(config.state_dir, config.conf_dir, self._source_age)
        self._kept = Path(config.data_dir) / "peers.json"
        self._saved = self._known = peers.load(self._kept)
        self._source: Source | None = None
        self._source_stamp: object = None
        self._ready = self._stopping = self._full = self._comparing = False
        self._began = self._turned = time.monotonic()
        # When to compare next, when without any mark, and how often in a row a comparison changed or missed something.
        self._due = self._resync = time.monotonic()
        self._busy = self._failing = 0

    def run(self) -> int:
        """Work until SIGTERM or SIGINT. Raises ListenError and BusyError."""
        held = lock()
        monitor = Monitor()
        server = None
        wakeups, wake = socket.socketpair()
        for end in (wakeups, wake):
            end.setblocking(False)
        before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        wake_before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        try:
            if self._config.http_listen is not None:
                server = Server(self._config.http_listen, self._metrics.registry, self._healthy, self._readiness)
            self._log.info(
                f"podwire-agent of node {self._reconciler.identity.name}: mode {self._config.mode}, "
                f"source {self._config.source}, {len(self._saved.peers) if self._saved else 'no'} nodes known before"
            )
            with contextlib.suppress(_Stop):
                self._loop(monitor, wakeups)
            self._notifier.stopping()
            self._log.info("ends; routes and tunnel stay")
        finally:
            signal.set_wakeup_fd(wake_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._source is not None:
                self._source.stop()
            self._collector.stop()
            if server is not None:
                server.close()
            monitor.close()
            for end in (wakeups, wake, held):
                end.close()
        return 0

    def _signalled(self, number: int, frame: object) -> None:
        if number == signal.SIGHUP:
            self._full = True
            self._due = 0.0
            if self._source is not None:
                self._source.poke()
        else:
            self._stopping = True
            if self._comparing:
                self._comparing = False
                raise _Stop

    def _alive(self) -> None:
        """The loop turns; told at most once a second."""
        now = time.monotonic()
        if now - self._turned >= 1:
            self._turned = now
            self._notifier.alive()

    def _loop(self, monitor: Monitor, wakeups: socket.socket) -> None:
        polled = select.poll()
        for descriptor in (self._marks.descriptor, wakeups.fileno(), *monitor.descriptors()):
            polled.register(descriptor, select.POLLIN)
        watchdog = self._notifier.watchdog_seconds
        while not self._stopping:
            self._alive()
            self._watch_source()
            now = time.monotonic()
            until = min(self._due, self._resync) - now
            if until <= 0:
                result = self._compare(full=self._full or self._resync <= now)
                monitor.tunnel = result.tunnel
                continue
            bounds = [until, self._collector.wait(), _TICK_SECONDS, *([watchdog / 2] if watchdog else [])]
            polled.poll(max(1.0, min(bounds) * 1000))
            _drain(wakeups)
            self._mark(monitor.read() | self._marks.take())
            for line in self._collector.turn():
                self._log.info(line)
            self._count_garbage()

    def _mark(self, reasons: set[str]) -> None:
        if not reasons:
            return
        # Our own changes come back as events: whoever changes them back at once must not keep us at full speed.
        pause = self._config.debounce_seconds * 2 ** min(self._busy, 6) if self._busy > 1 else self._debounce(reasons)
        if reasons & {TABLE_MADE, TABLE_GONE}:
            self._full = True
        self._due = min(self._due, time.monotonic() + pause)

    def _debounce(self, reasons: set[str]) -> float:
        # The first pods' packets must not be masqueraded: the table and its set belong together.
        return 0.0 if reasons & {TABLE_MADE, TABLE_GONE} else self._config.debounce_seconds

    def _compare(self, *, full: bool) -> Result:
        began = time.monotonic()
        self._full = False
        nodes = self._nodes()
        self._comparing = True
        try:
            result = self._reconciler.turn(nodes, full=full)
        except Exception as fault:  # noqa: BLE001  # what nobody foresaw must not leave the node without an agent
            told = traceback.format_exception_only(fault)[-1].strip()
            place = traceback.extract_tb(fault.__traceback__)[-1]
            result = Result(faults={"agent": [f"a comparison failed in a way nobody foresaw: {told} in {place.name}"]})
        finally:
            self._comparing = False
        self._tell(result, nodes, time.monotonic() - began)
        now = time.monotonic()
        self._busy = self._busy + 1 if result.changed else 0
        broken = any(faults for part, faults in result.faults.items() if part != "nodes")
        self._failing = self._failing + 1 if broken else 0
        self._resync = now + self._config.resync_seconds
        again = now + _RETRY_SECONDS * 2 ** min(self._failing, 10) if broken else float("inf")
        self._due = min(again, self._resync)
        if nodes is not None or self._config.source == NONE:
            self._first_time()
        return result

    def _nodes(self) -> Nodes | None:
        """The list to work from: the source's, else the last one known; kept in the file when it is another."""
        latest = self._source.latest if self._source is not None else None
        if latest is not None:
            self._known = latest
            if self._saved is None or latest.peers != self._saved.peers:
                try:
                    peers.save(self._kept, latest)
                    self._saved = latest
                    self._faults.report("kept list", ())
                except OSError as fault:
                    what = f"the list of nodes cannot be kept in {self._kept}: {fault.strerror}"
                    self._faults.report("kept list", [f"{what}; a start without its source would know no node"])
        elif self._known is None and self._config.source == NONE:
            return Nodes()
        return self._known

    def _first_time(self) -> None:
        plan_of = f"{len(self._known.peers)} nodes" if self._known else "no nodes"
        source = (
            f", the list is the last one known: {self._source.fault}" if self._source and self._source.fault else ""
        )
        if not self._ready:
            self._ready = True
            self._log.info(f"ready in {time.monotonic() - self._began:.1f} s: {plan_of}")
            self._notifier.ready(f"{plan_of}{source}")
        else:
            self._notifier.status(f"{plan_of}{source}")

    def _tell(self, result: Result, nodes: Nodes | None, seconds: float) -> None:
        for note in result.notes:
            self._log.info(note)
        if result.routes.made or result.routes.removed:
            self._log.info(
                f"routes: {result.routes.made} made, {result.routes.removed} removed, {result.routes.present} there"
            )
        source = self._source
        self._faults.report("source", [source.fault] if source and source.fault else [])
        for part in ("agent", "nodes", "routes", "tunnel", "masquerade", "forwarding"):
            if part in result.faults or part == "agent" or result.plan is not None:
                self._faults.report(part, result.faults.get(part, ()))
        self._count(result, seconds)

    def _count(self, result: Result, seconds: float) -> None:
        metrics, made = self._metrics, result.plan
        broken = any(result.faults.values())
        metrics.reconciles.labels("faults" if broken else "ok").inc()
        metrics.reconcile_seconds.observe(seconds)
        metrics.table_rebuilds.inc(int(result.rebuilt))
        metrics.source_up.set(
            int(self._source is not None and self._source.latest is not None and not self._source.fault)
        )
        if made is not None:
            metrics.peers.set(made.peers)
            for mode, number in made.modes.items():
                metrics.routes_desired.labels(mode).set(number)
            metrics.routes_present.set(result.routes.present)
            metrics.routes_changed.labels("made").inc(result.routes.made)
            metrics.routes_changed.labels("removed").inc(result.routes.removed)
            metrics.tunnel_mtu.set(made.tunnel.mtu if made.tunnel and result.tunnel else 0)
        for part, number in self._faults.counts().items():
            metrics.faults.labels(part).set(number)

    def _count_garbage(self) -> None:
        counts = self._collector.counts
        self._metrics.gc_runs.labels("ok").inc(counts.take("runs"))
        self._metrics.gc_runs.labels("broken").inc(counts.take("broken"))
        self._metrics.gc_objects.labels("removed").inc(counts.take("removed"))
        self._metrics.gc_objects.labels("failed").inc(counts.take("failed"))
        self._faults.report("gc", [self._collector.fault] if self._collector.fault else [])

    def _watch_source(self) -> None:
        """Begin a source where there is none yet, and see whether its file changed."""
        kubeconfig, file = Path(self._config.kubernetes_kubeconfig), Path(self._config.file_path)
        if self._source is None:
            self._source = self._choose(kubeconfig, file)
            if self._source is not None:
                self._source_stamp = _stamp(file)
                self._source.start()
                self._log.info(f"the list of nodes comes from {self._source.kind}")
        elif self._source.kind == STATIC and (stamp := _stamp(file)) != self._source_stamp:
            self._source_stamp = stamp
            self._source.poke()

    def _choose(self, kubeconfig: Path, file: Path) -> Source | None:
        config, wanted = self._config, self._config.source
        if wanted == AUTO:
            wanted = KUBERNETES if kubeconfig.exists() else STATIC if file.exists() else NONE
        if wanted == STATIC:
            return FileSource(file, self._source_changed, config.resync_seconds, config.file_resolve_seconds)
        if wanted == KUBERNETES:
            # Half a second of imports that nobody else needs.
            from cni_plugin.agent.kubernetes import Backoff, KubernetesSource

            pauses = Backoff(config.kubernetes_retry_initial_seconds, config.kubernetes_retry_max_seconds)
            return KubernetesSource(
                kubeconfig,
                self._source_changed,
                config.kubernetes_timeout_seconds,
                config.kubernetes_watch_seconds,
                pauses,
            )
        return None

    def _source_changed(self) -> None:
        self._marks.add("list of nodes")

    def _source_age(self) -> float:
        contact = self._source.contact if self._source is not None else None
        return time.monotonic() - (contact if contact is not None else self._began)

    def _healthy(self) -> tuple[bool, str]:
        hangs = time.monotonic() - self._turned
        return hangs < _HANGS_SECONDS, "ok" if hangs < _HANGS_SECONDS else f"the loop hangs for {hangs:.0f} s"

    def _readiness(self) -> tuple[bool, str]:
        faults = self._faults.all()
        if self._ready:
            return True, "\n".join(["ready", *faults])
        source = f" from {self._source.kind}" if self._source is not None else ""
        return False, "\n".join([f"not ready: waits for the list of nodes{source}", *faults])


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _drain(sock: socket.socket) -> None:
    try:
        while sock.recv(64):
            pass
    except BlockingIOError:
        pass
