"""A small, faithful API server for Nodes: list, watch and get, with the semantics that clients trip over.

Versions count up with every change. A watch begins at a version and gets every later change in order; one that is older
than what the server remembers gets 410 Gone, as an ERROR event or as an HTTP status (both exist). Bookmarks, pages,
`timeoutSeconds`, bearer tokens, and trouble on command: outages, dropped connections, silence, errors. The words are
those of the Kubernetes API concepts.

In a test: `with KubeApi() as api: api.put(kubeobjects.node("a", ["192.0.2.1"], ["10.244.0.0/24"]))`. As a program, for
namespaces: `python -m tests.lab.kubeapi --state FILE --listen ADDRESS:PORT`; it follows FILE, a JSON list of nodes.
"""

import argparse
import base64
import contextlib
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.lab.kubeobjects import TOKEN, Json, nodes_of, status_object

_NODES = "/api/v1/nodes"


@dataclass
class Trouble:
    """What is wrong with the server at the moment; tests set it."""

    gone_as_status: bool = False
    """410 for a watch is the HTTP status rather than an ERROR event of a stream that began well."""
    silent: bool = False
    """Watches stay open and say nothing, not even their end: a network that swallows everything."""
    status: int = 0
    """Every request gets this status."""
    forbidden: bool = False
    """The user is known and may do nothing."""
    garbage: bool = False
    """Watches send a line that is no JSON."""


@dataclass
class _Store:
    """The nodes, and what the server remembers of their changes."""

    nodes: dict[str, Json] = field(default_factory=dict)
    events: list[tuple[int, str, Json]] = field(default_factory=list)
    version: int = 100
    forgotten: int = 100
    changed: threading.Condition = field(default_factory=threading.Condition)

    def change(self, kind: str, item: Json) -> None:
        with self.changed:
            self.version += 1
            item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
            name = item["metadata"]["name"]
            if kind == "DELETED":
                self.nodes.pop(name, None)
            else:
                self.nodes[name] = item
            self.events.append((self.version, kind, item))
            self.changed.notify_all()

    def forget(self) -> None:
        with self.changed:
            self.version += 1
            self.forgotten = self.version
            self.events.clear()
            self.changed.notify_all()


class KubeApi:
    """The server, from construction until `close`; `start` and `stop` make outages in between."""

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        token: str = TOKEN,
        tls: tuple[Path, Path] | None = None,
        bookmark_seconds: float = 60.0,
    ) -> None:
        self.address, self.port, self.token, self._tls = address, port, token, tls
        self.bookmark_seconds = bookmark_seconds
        self.store, self.trouble = _Store(), Trouble()
        self.requests: list[str] = []
        """Every request's path and query, as it came."""
        self._server: _Server | None = None
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it is."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    def put(self, item: Json) -> None:
        """Make or change a node."""
        known = item["metadata"]["name"] in self.store.nodes
        self.store.change("MODIFIED" if known else "ADDED", item)

    def delete(self, name: str) -> None:
        """Delete a node."""
        self.store.change("DELETED", self.store.nodes[name])

    def forget(self) -> None:
        """Forget all past changes: watches and pages of before are Gone."""
        self.store.forget()

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = _Server(self, (self.address, self.port), self._tls)
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        """An outage: nobody listens, and every connection is cut."""
        if self._server is not None:
            self._server.end()
            self._server = None

    def drop(self) -> None:
        """Cut every connection, and go on listening."""
        if self._server is not None:
            self._server.cut()

    def close(self) -> None:
        """The end."""
        self.stop()

    @property
    def watching(self) -> int:
        """How many watches are open."""
        return self._server.watching if self._server is not None else 0

    def asked(self, word: str) -> int:
        """How many requests held this word."""
        return sum(1 for each in list(self.requests) if word in each)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, api: KubeApi, place: tuple[str, int], tls: tuple[Path, Path] | None) -> None:
        self.api, self.ended, self.watching = api, False, 0
        self._live: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        super().__init__(place, _Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            # The handshake is the handler thread's: one slow client must not hold up the others.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._live.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._live.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: cut connections are what this server is for."""

    def count(self, change: int) -> None:
        with self._lock:
            self.watching += change

    def cut(self) -> None:
        with self._lock:
            live = list(self._live)
        for each in live:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self.api.store.changed:
            self.api.store.changed.notify_all()

    def end(self) -> None:
        self.ended = True
        self.shutdown()
        self.server_close()
        self.cut()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        api = self.server.api
        api.requests.append(self.path)
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if api.trouble.status:
            self._status(api.trouble.status, "InternalError", "trouble on command")
        elif self.headers.get("Authorization") != f"Bearer {api.token}":
            self._status(401, "Unauthorized", "Unauthorized")
        elif api.trouble.forbidden:
            user = "system:serviceaccount:kube-system:podwire-agent"
            self._status(403, "Forbidden", f'nodes is forbidden: User "{user}" cannot list resource "nodes"')
        elif parts.path == _NODES and query.get("watch") in ("1", "true"):
            self._watch(query)
        elif parts.path == _NODES:
            self._list(query)
        elif parts.path.startswith(f"{_NODES}/"):
            self._get(parts.path.removeprefix(f"{_NODES}/"))
        else:
            self._status(404, "NotFound", "the server could not find the requested resource")

    def _refuse(self) -> None:
        self._status(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    do_POST = do_PUT = do_PATCH = do_DELETE = _refuse  # noqa: N815  # http.server's names

    def _get(self, name: str) -> None:
        found = self.server.api.store.nodes.get(name)
        if found is None:
            self._status(404, "NotFound", f'nodes "{name}" not found')
        else:
            self._json(200, found)

    def _list(self, query: Mapping[str, str]) -> None:
        store = self.server.api.store
        with store.changed:
            version, behind = store.version, ""
            items = [store.nodes[name] for name in sorted(store.nodes)]
            if "continue" in query:
                token = json.loads(base64.urlsafe_b64decode(query["continue"]))
                version, behind = token["version"], token["behind"]
                if version < store.forgotten:
                    self._status(410, "Expired", "The provided continue parameter is too old")
                    return
            items = [each for each in items if each["metadata"]["name"] > behind]
            # Version 0 is answered from memory, whole, whatever the limit.
            limit = int(query.get("limit", 0)) if query.get("resourceVersion") != "0" else 0
        meta: Json = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            token = {"version": version, "behind": items[limit - 1]["metadata"]["name"]}
            meta["continue"] = base64.urlsafe_b64encode(json.dumps(token).encode()).decode()
            meta["remainingItemCount"] = len(items) - limit
            items = items[:limit]
        # Items of a list say neither kind nor version of their API.
        bare = [{key: value for key, value in each.items() if key not in ("kind", "apiVersion")} for each in items]
        self._json(200, {"kind": "NodeList", "apiVersion": "v1", "metadata": meta, "items": bare})

    def _watch(self, query: Mapping[str, str]) -> None:
        api, store = self.server.api, self.server.api.store
        asked = query.get("resourceVersion", "")
        with store.changed:
            since = int(asked or 0)
            gone = 0 < since < store.forgotten
            if since > store.version:
                self._status(504, "Timeout", f"Too large resource version: {since}, current: {store.version}")
                return
            first = [("ADDED", each) for each in store.nodes.values()] if not since else []
            since = since or store.version
        if gone and api.trouble.gone_as_status:
            self._status(410, "Expired", f"too old resource version: {asked} ({store.forgotten})")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if gone:
            text = f"too old resource version: {asked} ({store.forgotten})"
            self._line({"type": "ERROR", "object": status_object(410, "Expired", text)})
            self._chunk(b"")
            return
        for kind, item in first:
            self._line({"type": kind, "object": item})
        self.server.count(+1)
        try:
            self._follow(since, float(query.get("timeoutSeconds", 1800)), query.get("allowWatchBookmarks") == "true")
        finally:
            self.server.count(-1)

    def _follow(self, since: int, seconds: float, bookmarks: bool) -> None:
        api, store = self.server.api, self.server.api.store
        end = time.monotonic() + seconds
        mark = time.monotonic() + api.bookmark_seconds
        while not self.server.ended:
            with store.changed:
                store.changed.wait(max(0.0, min(end, mark, time.monotonic() + 0.1) - time.monotonic()))
                events = [each for each in store.events if each[0] > since]
                version = store.version
            if api.trouble.silent:
                continue
            if api.trouble.garbage:
                self._chunk(b'{"type":"MODIFIED","object":{"metad\n')
                return
            if self.connection.fileno() < 0 or _is_cut(self.connection):
                return
            for number, kind, item in events:
                self._line({"type": kind, "object": item})
                since = number
            now = time.monotonic()
            if bookmarks and (now >= mark or now >= end):
                meta = {"resourceVersion": str(version), "creationTimestamp": None}
                self._line({"type": "BOOKMARK", "object": {"kind": "Node", "apiVersion": "v1", "metadata": meta}})
                mark = now + api.bookmark_seconds
            if now >= end:
                self._chunk(b"")
                return

    def _line(self, document: Json) -> None:
        self._chunk(json.dumps(document).encode() + b"\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _json(self, code: int, document: Json) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _status(self, code: int, reason: str, message: str) -> None:
        self._json(code, status_object(code, reason, message))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `requests` has it."""


def _is_cut(connection: socket.socket) -> bool:
    """Whether the other end, or `cut`, has ended the connection."""
    if isinstance(connection, ssl.SSLSocket):
        return False  # its next write says so
    try:
        # Asked first: a socket with a timeout waits in recv, whatever its flags say.
        return bool(select.select([connection], [], [], 0)[0]) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True


def follow(api: KubeApi, path: Path) -> None:
    """Bring the server to what a state file says."""
    wanted = {each["metadata"]["name"]: each for each in nodes_of(path)}
    for name in set(api.store.nodes) - set(wanted):
        api.delete(name)
    for name, item in wanted.items():
        have = api.store.nodes.get(name)
        if (
            have is None
            or {**item["metadata"], "resourceVersion": ""} != {**have["metadata"], "resourceVersion": ""}
            or ((item.get("spec"), item.get("status")) != (have.get("spec"), have.get("status")))
        ):
            api.put(item)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until killed, following the state file."""
    parser = argparse.ArgumentParser(prog="kubeapi", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, metavar="FILE", help="a JSON list of nodes")
    parser.add_argument("--listen", default="127.0.0.1:6443", metavar="ADDRESS:PORT")
    parser.add_argument("--token", default=TOKEN)
    parser.add_argument("--tls", nargs=2, type=Path, metavar=("CERTIFICATE", "KEY"))
    options = parser.parse_args(arguments)
    host, _, port = options.listen.rpartition(":")
    api = KubeApi(host.strip("[]"), int(port), token=options.token, tls=options.tls)
    stamp: object = None
    print(f"ready {api.url}", flush=True)
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = options.state.stat()
            if (found.st_mtime_ns, found.st_ino) != stamp:
                follow(api, options.state)
                stamp = found.st_mtime_ns, found.st_ino
        time.sleep(0.1)


if __name__ == "__main__":
    main()
