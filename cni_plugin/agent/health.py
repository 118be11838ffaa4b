"""/healthz, /readyz and /metrics over HTTP, for the node itself: bound to the loopback address by default.

/healthz   200 while the main loop turns, 503 when it hangs
/readyz    200 after the first full comparison; the body says what is wrong, also where the answer is 200
/metrics   Prometheus' text
"""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cni_plugin.agent.errors import ListenError
from cni_plugin.agent.settings import Endpoint

Answer = Callable[[], tuple[bool, str]]
_TEXT = "text/plain; charset=utf-8"


class _Handler(BaseHTTPRequestHandler):
    server: "Server"
    # A client that connects and says nothing.
    timeout = 5
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send(200, CONTENT_TYPE_LATEST, generate_latest(self.server.registry))
        elif (answer := self.server.answers.get(path)) is not None:
            good, text = answer()
            self._send(200 if good else 503, _TEXT, f"{text}\n".encode())
        else:
            known = ", ".join([*self.server.answers, "/metrics"])
            self._send(404, _TEXT, f"nothing is at {path!r}; there are {known}\n".encode())

    def _send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a probe every few seconds would fill the journal."""


class Server(ThreadingHTTPServer):
    """Serves in threads of its own that end with the process. Raises ListenError."""

    daemon_threads = True

    def __init__(self, endpoint: Endpoint, registry: CollectorRegistry, healthy: Answer, ready: Answer) -> None:
        self.registry = registry
        self.answers = {"/healthz": healthy, "/readyz": ready}
        self.address_family = AF_INET6 if ":" in endpoint.address else AF_INET
        try:
            super().__init__((endpoint.address, endpoint.port), _Handler)
        except OSError as fault:
            raise ListenError(
                f'http.listen: cannot listen on {endpoint}: {fault.strerror}; set another address, or "" for none'
            ) from None
        threading.Thread(target=self.serve_forever, args=(0.1,), name="http", daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that go away are no fault of ours."""

    def close(self) -> None:
        """Listen no more."""
        self.shutdown()
        self.server_close()
