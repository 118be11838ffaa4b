"""The list of nodes from the Kubernetes API: a list, and a watch that goes on where it was cut off.

lightkube reads the kubeconfig and makes the HTTP client (TLS, tokens, exec plugins). The watch is ours: it asks for
bookmarks, resumes at the last version seen, lists anew after `410 Gone`, and gives up a silent connection. The words
are those of the Kubernetes API concepts, "Efficient detection of changes".
"""

import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightkube.config import client_adapter, kubeconfig
from lightkube.config.models import User

from cni_plugin.agent import peers
from cni_plugin.agent.errors import SourceError
from cni_plugin.agent.peers import Peer
from cni_plugin.agent.source import Source

# lightkube's own: it is httpx or its successor, by the version of lightkube.
httpx: Any = vars(client_adapter)["httpx"]

_PATH = "/api/v1/nodes"
_PAGE = 500
_GONE = 410
# A host that vanished is noticed in 30 s, whatever the watch's own times are.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
# A watch that ends sooner than this was no watch: the next one waits.
_SHORT_SECONDS = 1.0


class GoneError(SourceError):
    """The version to go on from is too old: the list must be read anew."""


class Backoff:
    """Pauses that double from one failure to the next, with a random half, up to a bound."""

    def __init__(self, initial: float, most: float, chance: Callable[[], float] = random.random) -> None:
        self._initial, self._most, self._chance = initial, most, chance
        self.failures = 0

    def next(self) -> float:
        """The pause after one more failure."""
        bound = min(self._most, self._initial * 2.0 ** min(self.failures, 30))
        self.failures += 1
        # Nodes that lost one API server at one moment must not come back to it at one moment.
        return bound * (0.5 + self._chance() / 2)

    def reset(self) -> None:
        """It worked."""
        self.failures = 0


class KubernetesSource(Source):
    """Follows the Nodes of the cluster that a kubeconfig names."""

    kind = "kubernetes"

    def __init__(
        self,
        kubeconfig_path: Path,
        changed: Callable[[], None],
        timeout: float = 10.0,
        watch_seconds: float = 240.0,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(changed)
        self._kubeconfig, self._timeout, self._watch_seconds = kubeconfig_path, timeout, watch_seconds
        self._backoff = backoff or Backoff(0.5, 30.0)
        self._client: Any = None
        self._nodes: dict[str, tuple[Peer | None, list[str]]] = {}
        self.version = ""
        self._had_list = False
        self.lists = self.watches = 0

    def turn(self) -> float:
        """A list where it is needed, then one watch to its end."""
        try:
            if self._client is None:
                self._client = connect(self._kubeconfig, self._timeout)
            if not self.version:
                self._list()
            worked = self._watch()
        except GoneError:
            # Versions differ from one API server to another, and age: no fault, as long as the new list comes.
            self.version = ""
            pause = self._backoff.next()
            return pause if self._backoff.failures > 1 else 0.0
        except SourceError:
            # Whatever it was, it may have another address, authority or token by now.
            self._close()
            raise
        if not worked:
            return self._backoff.next()
        self._backoff.reset()
        return 0.0

    def retry_after(self) -> float:
        """Longer after each failure in a row."""
        return self._backoff.next()

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _list(self) -> None:
        """Read all nodes, page by page. Sets the version to watch from."""
        self.lists += 1
        # Any version will do at the start (the API server answers from memory); after 410 only the newest.
        query: dict[str, Any] = {"limit": _PAGE} if self._had_list else {"limit": _PAGE, "resourceVersion": "0"}
        nodes: dict[str, tuple[Peer | None, list[str]]] = {}
        while True:
            with _told("list nodes"):
                answer = self._client.get(_PATH, params=query)
                _check(answer)
                page = answer.json()
                for item in page["items"] or []:
                    name, peer, faults = _node(item)
                    nodes[name] = (peer, faults)
                meta = page["metadata"]
                version, more = str(meta["resourceVersion"]), meta.get("continue")
            if not more:
                break
            query = {"limit": _PAGE, "continue": more}
        self._nodes, self.version, self._had_list = nodes, version, True
        self._publish()

    def _watch(self) -> bool:
        """Follow changes until the API server ends the watch; returns whether it brought anything or lasted."""
        self.watches += 1
        began, events = time.monotonic(), 0
        seconds = max(1, int(self._watch_seconds * (0.75 + random.random() / 4)))  # noqa: S311  # spreads load
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self.version,
            "timeoutSeconds": str(seconds),
        }
        timeout = httpx.Timeout(self._timeout, read=seconds + self._timeout)
        with _told("watch nodes"), self._client.stream("GET", _PATH, params=query, timeout=timeout) as answer:
            if answer.status_code != 200:
                answer.read()
            _check(answer)
            self.touch()
            for line in answer.iter_lines():
                if self._ended:
                    break
                if line.strip():
                    self._event(json.loads(line))
                    events += 1
            self.touch()
        return events > 0 or time.monotonic() - began >= _SHORT_SECONDS

    def _event(self, event: dict[str, Any]) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            _raise(int(item.get("code") or 0), str(item.get("message") or item), "watch nodes")
        version = str(item["metadata"]["resourceVersion"])
        changed = False
        if kind != "BOOKMARK":
            name, peer, faults = _node(item)
            before = self._nodes.pop(name, None)
            if kind != "DELETED":
                self._nodes[name] = (peer, faults)
            # Most events are heartbeats, which change nothing that matters here.
            changed = before != self._nodes.get(name)
        # Only now: an event that cannot be read is asked for again.
        self.version = version
        if changed:
            self._publish()
        else:
            self.touch()

    def _publish(self) -> None:
        found = self._nodes.values()
        self.publish(
            peers.listed([peer for peer, _ in found if peer], [fault for _, faults in found for fault in faults])
        )


def connect(path: Path, timeout: float) -> Any:
    """An HTTP client for the API server of a kubeconfig's current context. Raises SourceError."""
    try:
        chosen = kubeconfig.KubeConfig.from_file(path).get()
        if chosen is None:
            raise SourceError(f"{path}: it has no current context")
        if chosen.user is None:
            chosen = chosen._replace(user=User())
        # No proxy of the environment: a node reaches its API server by itself.
        wanted = client_adapter.ConnectionParams(timeout=httpx.Timeout(timeout), trust_env=False)
        made = wanted.httpx_params(chosen)
        made["transport"] = httpx.HTTPTransport(verify=made["verify"], socket_options=_KEEPALIVE, trust_env=False)
        return httpx.Client(**made)
    except SourceError:
        raise
    except Exception as fault:  # a file of somebody else's, read by four libraries with errors of their own
        what = f"{type(fault).__name__}: {fault}"
        raise SourceError(
            f"kubeconfig {path} cannot be used: {what}; write it, or set kubernetes.kubeconfig"
        ) from fault


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Every way in which an exchange can fail, as SourceError."""
    try:
        yield
    except httpx.HTTPError as fault:
        said = str(fault) or type(fault).__name__
        raise SourceError(f"the API server cannot be asked to {what}: {said}") from fault
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        said = f"{type(fault).__name__}: {fault}"
        raise SourceError(f"the API server answered what is not understood ({what}): {said}") from fault


def _check(answer: Any) -> None:
    if answer.status_code == 200:
        return
    try:
        message = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        message = answer.text[:200] or answer.reason_phrase
    _raise(answer.status_code, message, str(answer.request.url.copy_with(query=None)))


def _raise(code: int, message: str, what: str) -> None:
    if code == _GONE:
        raise GoneError(message)
    hint = {
        401: "; is the token in the kubeconfig valid?",
        403: "; its user must be allowed to list and watch nodes, see conf/agent-rbac.yaml",
    }.get(code, "")
    raise SourceError(f"the API server refuses to {what}: {code} {peers.shown(message)}{hint}")


def _node(item: Any) -> tuple[str, Peer | None, list[str]]:
    """Name, node and faults of a Node object; the name as it stands there, to find it again."""
    faults: list[str] = []
    name = str(item["metadata"]["name"])
    spec, status = item.get("spec") or {}, item.get("status") or {}
    subnets = spec.get("podCIDRs") or [each for each in [spec.get("podCIDR")] if each]
    # InternalIP: how nodes reach each other; kubelet's first is the node's primary one.
    addresses = [each.get("address") for each in status.get("addresses") or [] if each.get("type") == "InternalIP"]
    return name, peers.parse(name, addresses, subnets, faults), faults
