"""A node that is a thread: its network and mount namespaces belong to one thread of the tests.

Making one, making a pod in it and auditing it take a few milliseconds together, so tests can afford thousands of
calls; killing the tests leaves nothing. `Namespace` is the thing to use where pods need processes in them.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from tests.lab import audit
from tests.lab.waiting import wait_until

P = ParamSpec("P")
T = TypeVar("T")

_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
_SIOCGIFCONF, _SIOCSIFFLAGS, _IFF_UP = 0x8912, 0x8914, 1
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_CALL_SECONDS = 60
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, flags: int) -> None:
    _checked(_libc.mount(source.encode(), target.encode(), None, flags, None), f"mount {source} {target}")


class Reply:
    """What one call gave: exit code (negative: the signal that ended it), stdout and stderr."""

    def __init__(self, exit_code: int, stdout: str, stderr: str) -> None:
        self.exit_code, self.stdout, self.stderr = exit_code, stdout, stderr

    def __repr__(self) -> str:
        return f"exit {self.exit_code}, stdout {self.stdout!r}, stderr {self.stderr[-300:]!r}"

    @property
    def json(self) -> dict[str, Any]:
        """stdout as the one JSON document that it must be."""
        document: dict[str, Any] = json.loads(self.stdout)
        return document

    @property
    def code(self) -> int:
        """The error code, 0 for success."""
        return int(self.json["code"]) if self.exit_code == 1 else self.exit_code


class Call:
    """A call that was started; `finish` waits for it and for every copy of its pipes."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process, self.pid = process, process.pid

    def finish(self, seconds: float = _CALL_SECONDS) -> Reply:
        """Wait for the end; a call that takes longer is killed, and that is an AssertionError."""
        try:
            stdout, stderr = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise AssertionError(f"the call did not end within {seconds:g} s: {self.process.args!r}") from None
        return Reply(self.process.returncode, stdout, stderr)

    def abandon(self) -> None:
        """Kill the call if it has not ended."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def stopped(self) -> bool:
        """Whether the process is stopped by SIGSTOP."""
        if self.process.poll() is not None:
            return False
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def wait_stopped(self) -> None:
        """Wait until a `stop` failpoint is reached."""
        wait_until(lambda: self.stopped() or self.process.poll() is not None, 20, "the failpoint", every=0.001)
        assert self.process.returncode is None, "the call ended without reaching its failpoint"


def finished(calls: list[Call]) -> list[Reply]:
    """Wait for all; their pipes are read meanwhile."""
    with ThreadPoolExecutor(len(calls)) as readers:
        return list(readers.map(Call.finish, calls))


class ThreadNode:
    """A node with the executable, a state folder below `folder`, and pods as bind mounts in `folder`/netns."""

    def __init__(self, executable: Path, folder: Path) -> None:
        self.executable, self.folder = executable, folder
        self.state_dir, self.log = folder / "state", folder / "log"
        (folder / "netns").mkdir(parents=True, exist_ok=True)
        self.config: dict[str, Any] = {
            "cniVersion": "1.1.0",
            "name": "testnet",
            "type": "podwire",
            "ipam": {"ranges": [[{"subnet": "10.244.0.0/24"}]]},
            "ipMasq": True,
            "stateDir": str(self.state_dir),
            "log": str(self.log),
            "capabilities": {"portMappings": True},
        }
        self.pods: dict[str, str] = {}
        self._calls: list[Call] = []
        self._made = 0
        self._boot()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and every call; the thread's namespaces, and the pods', go with it."""
        for call in self._calls:
            call.abandon()
        self._calls.clear()
        with contextlib.suppress(OSError):
            self.do(self._drop_all)
        self._thread.shutdown()
        os.close(self._netns)

    def _boot(self) -> None:
        self._thread = ThreadPoolExecutor(1, "node")
        self._netns = self.do(self._enter)

    def _enter(self) -> int:
        _checked(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET), "unshare (the tests need root)")
        _mount("none", "/", _MS_REC | _MS_PRIVATE)
        boot_id = self.folder / "boot_id"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        _mount(str(boot_id), _BOOT_ID, _MS_BIND)
        _loopback_up()
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def reboot(self) -> None:
        """Throw away both namespaces and all pods, and begin anew with another boot id; the files stay."""
        self.close()
        self._boot()

    def do(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run `work` on the node."""
        return self._thread.submit(work, *arguments, **named).result()

    def run(self, argv: list[str]) -> str:
        """Run a command on the node and return its stdout."""
        done = self.do(subprocess.run, argv, capture_output=True, text=True, timeout=20)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr.strip()}")
        return str(done.stdout)

    def pod(self, name: str = "") -> str:
        """Make a pod's namespace; returns its path."""
        self._made += 1
        name = name or f"pod{self._made}"
        path = self.folder / "netns" / name
        path.touch()

        def make() -> None:
            _checked(_libc.unshare(_CLONE_NEWNET), "unshare")
            try:
                _mount("/proc/thread-self/ns/net", str(path), _MS_BIND)
                _loopback_up()
            finally:
                _checked(_libc.setns(self._netns, _CLONE_NEWNET), "setns")

        self.do(make)
        self.pods[name] = str(path)
        return str(path)

    def drop_pod(self, name: str) -> None:
        """Take a pod's namespace away."""
        self.do(self._drop, name)

    def _drop(self, name: str) -> None:
        path = self.pods.pop(name)
        _checked(_libc.umount2(path.encode(), _MNT_DETACH), f"umount {path}")
        os.unlink(path)

    def _drop_all(self) -> None:
        for name in list(self.pods):
            self._drop(name)

    def within(self, path: str, work: Callable[[], T]) -> T:
        """Run `work` in a pod's namespace."""

        def there() -> T:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _checked(_libc.setns(descriptor, _CLONE_NEWNET), "setns")
                return work()
            finally:
                os.close(descriptor)
                _checked(_libc.setns(self._netns, _CLONE_NEWNET), "setns")

        return self.do(there)

    def start(
        self,
        command: str,
        container: str = "",
        pod: str = "",
        *,
        ifname: str = "eth0",
        failpoint: str = "",
        steps: Path | None = None,
        env: Mapping[str, str] | None = None,
        executable: Path | None = None,
        wrap: list[str] | None = None,
        stdin: bytes | None = None,
        **config: Any,
    ) -> Call:
        """Start a call; `config` is laid over the node's configuration, None removes a key."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": pod,
            "CNI_IFNAME": ifname,
            "CNI_PATH": "/opt/cni/bin",
            "PATH": os.environ["PATH"],
            "PODWIRE_FAILPOINT": failpoint,
            "PODWIRE_STEPS": str(steps or ""),
            **(env or {}),
        }
        held = {key: value for key, value in (self.config | config).items() if value is not None}
        text = json.dumps(held).encode() if stdin is None else stdin
        source = os.memfd_create("stdin")
        try:
            os.write(source, text)
            os.lseek(source, 0, os.SEEK_SET)
            process = self.do(
                subprocess.Popen,
                [*(wrap or []), str(executable or self.executable)],
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={name: value for name, value in environment.items() if value},
                text=True,
                errors="replace",
            )
        finally:
            os.close(source)
        self._calls = [call for call in self._calls if call.process.returncode is None]
        self._calls.append(Call(process))
        return self._calls[-1]

    def call(self, command: str, container: str = "", pod: str = "", **options: Any) -> Reply:
        """Run a call to its end."""
        return self.start(command, container, pod, **options).finish()

    def gc(self, *valid: str, **options: Any) -> Reply:
        """GC with these containers' eth0 as the list of what is valid."""
        return self.start_gc(*valid, **options).finish()

    def start_gc(self, *valid: str, **options: Any) -> Call:
        """Start GC with these containers' eth0 as the list of what is valid."""
        listed: dict[str, Any] = {
            "cni.dev/valid-attachments": [{"containerID": each, "ifname": "eth0"} for each in valid]
        }
        return self.start("GC", **listed, **options)

    def holdings(self) -> frozenset[str]:
        """Everything on the node that belongs to somebody: see `audit`."""
        return self.do(audit.network) | audit.files(self.state_dir)

    def quiet(self) -> None:
        """Wait until no process lives in the node's or a pod's namespace, and no lock of the state folder is held."""
        places = {self._identity(self._netns), *(self._identity(path) for path in self.pods.values())}
        wait_until(
            lambda: not audit.processes(places), 20, "processes to end", hint=lambda: str(audit.processes(places))
        )
        assert audit.locks(self.state_dir) == []

    def _identity(self, place: int | str) -> tuple[int, int]:
        found = self.do(os.stat, place)
        return found.st_dev, found.st_ino

    def addresses(self) -> dict[str, list[str]]:
        """The addresses of every pod, loopback left out."""
        return {name: self.within(path, _addresses) for name, path in self.pods.items()}

    def forget_state(self) -> None:
        """Remove the state folder."""
        shutil.rmtree(self.state_dir, ignore_errors=True)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        fcntl.ioctl(asker, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def _addresses() -> list[str]:
    # struct ifreq: 16 bytes of name, then a sockaddr_in.
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        space = ctypes.create_string_buffer(40 * 64)
        request = struct.pack("iL", len(space), ctypes.addressof(space))
        size = struct.unpack("iL", fcntl.ioctl(asker, _SIOCGIFCONF, request))[0]
        for offset in range(0, size, 40):
            entry = space.raw[offset : offset + 40]
            if not entry.startswith(b"lo\0"):
                found.append(socket.inet_ntoa(entry[20:24]))
    for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines():
        digits, *_, name = line.split()
        if name != "lo":
            found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)))
    return found
