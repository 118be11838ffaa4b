"""What runs inside the pods of a smoke test: a server that tells who it sees, and clients that ask it.

Both are children of their own that enter the pod's network namespace before they have any thread. The server outlives
the command that started it, for LIFE_SECONDS at most; it is named by its pid and start time.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL
from pathlib import Path
from typing import Any

import cni_plugin
from cni_plugin.install.locking import started
from cni_plugin.install.site import NodeError, Site

POD_PORT = 8474
LIFE_SECONDS = 900
START_SECONDS = 15.0
TRY_SECONDS, PAUSE_SECONDS = 2.0, 0.2
END_SECONDS = 5.0
_CLONE_NEWNET = 0x40000000
_MODULE = "cni_plugin.install.smoke_traffic"


def serve(site: Site, netns: str, port: int) -> dict[str, Any]:
    """Start the server and wait until it listens; {"pid", "started"}. Raises NodeError."""
    log = site.places.run / "smoke.log"
    with log.open("wb") as errors:
        child = subprocess.Popen(
            _command("serve", netns, str(port)),
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert child.stdout is not None
    with child.stdout:
        os.set_blocking(child.stdout.fileno(), False)
        deadline = time.monotonic() + START_SECONDS
        said = b""
        while time.monotonic() < deadline and child.poll() is None and not said:
            said = child.stdout.read() or b""
            if not said:
                time.sleep(0.02)
    if not said:
        child.kill()
        child.wait()
        words = log.read_text(errors="replace").strip().splitlines()
        raise NodeError(f"the server in the pod did not start: {words[-1] if words else 'it said nothing'}")
    log.unlink()
    # It goes on without us; nothing is left to wait for but its end, which is init's.
    child.returncode = 0
    return {"pid": child.pid, "started": started(child.pid)}


def end(server: dict[str, Any]) -> bool:
    """End the server that was started; False when it has ended already."""
    pid, since = int(server.get("pid", 0)), str(server.get("started", ""))
    if not since or started(pid) != since:
        return False
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if started(pid) != since:
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        deadline = time.monotonic() + END_SECONDS
        while started(pid) == since and time.monotonic() < deadline:
            if _ended(pid):
                break
            time.sleep(0.01)
    finally:
        os.close(descriptor)
    return True


def ask(netns: str, ways: list[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Each way with `ok`, `ms`, `saw` (the peer as the server saw it) and `error`. Raises NodeError."""
    try:
        done = subprocess.run(
            _command("ask", netns, str(seconds)),
            env=_environment(),
            input=json.dumps(ways),
            capture_output=True,
            text=True,
            timeout=seconds + START_SECONDS,
            check=False,
            start_new_session=True,
        )
        answers: list[dict[str, Any]] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise NodeError(f"the clients in {netns} did not end within {seconds + START_SECONDS:g} s") from None
    except ValueError:
        words = done.stderr.strip().splitlines()
        raise NodeError(f"nothing could be asked from {netns}: {words[-1] if words else 'no word'}") from None
    return answers


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-s", "-P", "-m", _MODULE, *arguments]


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(cni_plugin.__file__).parents[1]), "PATH": os.environ.get("PATH", "/usr/bin:/bin")}


def _ended(pid: int) -> bool:
    """Whether it is a zombie, or was reaped: a child of ours that nobody waited for."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


# Inside the pod.


def enter(netns: str) -> None:
    """Move this process, which has no other thread yet, into a network namespace. Raises OSError."""
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    libc = CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        from ctypes import get_errno

        raise OSError(get_errno(), f"entering {netns}: {os.strerror(get_errno())}")
    os.close(descriptor)


def run_server(netns: str, port: int) -> None:
    """Answer each connection with the address it comes from, until the alarm."""
    enter(netns)
    signal.alarm(LIFE_SECONDS)
    family, address = (socket.AF_INET6, "::") if _has_ipv6() else (socket.AF_INET, "0.0.0.0")
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind((address, port))
        server.listen(64)
        os.write(1, b"listening\n")
        # The pipe's other end goes; whoever started this must not be kept waiting for it.
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        while True:
            connection, peer = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(TRY_SECONDS)
                connection.sendall(str(peer[0]).removeprefix("::ffff:").encode() + b"\n")


def run_clients(netns: str, ways: list[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Every way at the same time, each until it works or the time is over."""
    enter(netns)
    deadline = time.monotonic() + seconds
    with ThreadPoolExecutor(max(1, len(ways))) as pool:
        return list(pool.map(lambda way: _tried(way, deadline), ways))


def _tried(way: dict[str, Any], deadline: float) -> dict[str, Any]:
    tries = 0
    while True:
        tries += 1
        begun = time.monotonic()
        try:
            saw = _asked(way["address"], way["port"])
            wrong = way["source"] and saw not in way["source"]
            error = f"the server saw {saw}, not the pod's {' or '.join(way['source'])}" if wrong else ""
        except OSError as fault:
            saw, error = "", str(fault) or type(fault).__name__
        taken = time.monotonic() - begun
        if not error or time.monotonic() + PAUSE_SECONDS >= deadline:
            return way | {"ok": not error, "ms": round(taken * 1000, 1), "saw": saw, "error": error, "tries": tries}
        time.sleep(PAUSE_SECONDS)


def _asked(address: str, port: int) -> str:
    with socket.create_connection((address, port), TRY_SECONDS) as connection:
        connection.settimeout(TRY_SECONDS)
        read = b""
        while not read.endswith(b"\n"):
            some = connection.recv(256)
            if not some:
                raise ConnectionResetError(f"the connection ended after {read!r}")
            read += some
    return read.decode(errors="replace").strip()


def _has_ipv6() -> bool:
    return Path("/proc/self/net/if_inet6").exists()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        run_server(sys.argv[2], int(sys.argv[3]))
    else:
        print(json.dumps(run_clients(sys.argv[2], json.load(sys.stdin), float(sys.argv[3]))))
