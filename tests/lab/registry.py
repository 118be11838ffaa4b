"""An image registry of one image, in a namespace: GET and HEAD of the distribution API, behind a password."""

import base64
import hashlib
import json
import signal
import sys
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.netns import Daemon, Namespace
from tests.lab.waiting import wait_until

# argv: address, port, folder of blobs (by digest), digest of the manifest, repository, tag, credentials.
_SERVER = """\
import http.server, pathlib, sys
address, port, folder, manifest, repository, tag, credentials = sys.argv[1:]
TYPE = "application/vnd.oci.image.manifest.v1+json"

class Handler(http.server.BaseHTTPRequestHandler):
    # A TLS hello is answered with a status line too: then containerd 2 knows that it has to speak plain HTTP.
    default_request_version = "HTTP/1.1"

    def do_GET(self):
        place = f"/v2/{repository}/"
        kind, _, name = self.path.removeprefix(place).partition("/")
        digest = manifest if kind == "manifests" and name == tag else name
        blob = pathlib.Path(folder, digest.replace("sha256:", ""))
        if self.headers.get("Authorization") != f"Basic {credentials}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="lab"')
            body = b""
        elif not self.path.startswith(place) or not blob.is_file():
            self.send_response(404)
            body = b""
        else:
            self.send_response(200)
            self.send_header("Content-Type", TYPE if kind == "manifests" else "application/octet-stream")
            self.send_header("Docker-Content-Digest", digest)
            body = blob.read_bytes()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

http.server.ThreadingHTTPServer((address, int(port)), Handler).serve_forever()
"""


class Registry:
    """Serves the image of a docker-archive as `repository`:`tag`, under an id of its own."""

    def __init__(
        self, namespace: Namespace, folder: Path, archive: Path, *, port: int, repository: str, tag: str, user: str
    ) -> None:
        folder.mkdir()
        self._namespace, self._port = namespace, port
        self._log = folder.with_suffix(".log")
        manifest = _manifest(folder, archive)
        credentials = base64.b64encode(user.encode()).decode()
        arguments = ["127.0.0.1", str(port), str(folder), manifest, repository, tag, credentials]
        self._command = [sys.executable, "-I", "-c", _SERVER, *arguments]
        self._daemon: Daemon | None = None

    def __enter__(self) -> Self:
        self._daemon = self._namespace.start(self._command, self._log)
        wait_until(self._listens, 10, "the registry to listen", hint=self._daemon.tail)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._daemon is not None:
            self._daemon.kill(signal.SIGKILL)

    def _listens(self) -> bool:
        # State 0A is LISTEN; the port stands in hexadecimal after the local address.
        table = Path(f"/proc/{self._namespace.pid}/net/tcp").read_text().splitlines()[1:]
        return any(row.split()[1].endswith(f":{self._port:04X}") and row.split()[3] == "0A" for row in table)


def _manifest(folder: Path, archive: Path) -> str:
    """Lay the archive's parts out as blobs; returns the manifest's digest."""
    with tarfile.open(archive) as tar:
        parts = {name: tar.extractfile(name) for name in tar.getnames()}
        contents = {name: part.read() for name, part in parts.items() if part is not None}
    (described,) = json.loads(contents["manifest.json"])
    # Another configuration is another id, so that removing this image takes no other one away.
    config = json.dumps({**json.loads(contents[described["Config"]]), "author": "the lab's registry"}).encode()
    kinds = [("config.v1+json", config)] + [("layer.v1.tar", contents[layer]) for layer in described["Layers"]]
    first, *layers = [
        {"mediaType": f"application/vnd.oci.image.{kind}", "digest": _blob(folder, blob), "size": len(blob)}
        for kind, blob in kinds
    ]
    return _blob(folder, json.dumps({"schemaVersion": 2, "config": first, "layers": layers}).encode())


def _blob(folder: Path, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    (folder / digest).write_bytes(content)
    return f"sha256:{digest}"
