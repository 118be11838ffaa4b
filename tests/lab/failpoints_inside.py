"""Runs in the plugin's process before the plugin: puts a failpoint around every primitive that changes anything.

Only test builds have it (see `failpoints`), and it takes the place of functions in C modules, so that whatever the
plugin's code becomes, its steps are found when it runs. A step is one call that files, the kernel, other processes
or the caller can notice; asking the kernel something is none. rtnetlink batches are taken apart: each message is a
step. Steps are numbered per process, and processes are named by their descent: `0`, its first child `0.1`.

PODWIRE_FAILPOINT=ACTION:PROCESS:NUMBER:WHEN   kill or stop the process itself, WHEN being before or after the step,
                                               or `fail`, where WHEN is the errno that the step then raises
PODWIRE_STEPS=FILE                             append `PROCESS:NUMBER name` as each step begins, `! ...` as the
                                               failpoint is reached, and `unguarded ...` for an effect without a step
PODWIRE_CLOCK=SECONDS                          the wall clock is off by so much
"""

import _ctypes
import _socket
import fcntl
import posix
import sys
import time
from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SIGKILL, _SIGSTOP = 9, 19
_LOCKS = {6: "F_SETLK", 7: "F_SETLKW", 37: "F_OFD_SETLK", 38: "F_OFD_SETLKW"}
_WRITING = posix.O_WRONLY | posix.O_RDWR | posix.O_CREAT | posix.O_TRUNC
_FLOCK = Struct("=hh4xqqi4x")
_HEADER = Struct("=IHHII")
_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_NFNL_SUBSYS_CTNETLINK, _NFNL_SUBSYS_NFTABLES = 1, 10
_NFT_GETS = {1, 4, 7, 10, 13, 16, 19, 21, 23, 26}
# Audit events (sys.addaudithook) that change nothing outside the process.
_HARMLESS = (
    "import", "compile", "exec", "marshal.", "os.listdir", "os.scandir", "os.getxattr", "socket.__new__",
    "socket.connect", "socket.bind", "fcntl.ioctl", "sys.", "object.__", "code.__new__", "builtins.", "ctypes.dl",
    "time.", "gc.", "cpython.",
)  # fmt: skip

_open, _write, _kill, _getpid = posix.open, posix.write, posix.kill, posix.getpid


class _Guard:
    """What this process is told to do, and how far it has come."""

    def __init__(self, environment: "dict[bytes, bytes]") -> None:
        self.process, self.number, self.children = "0", 0, 0
        self.inside = 0
        action = environment.get(b"PODWIRE_FAILPOINT", b"").decode().split(":")
        self.action, self.at, self.when = action[0], ":".join(action[1:3]), action[-1]
        steps = environment.get(b"PODWIRE_STEPS")
        self.log = _open(steps, posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC) if steps else -1

    def note(self, line: str) -> None:
        if self.log >= 0:
            _write(self.log, line.encode(errors="replace") + b"\n")

    def pass_by(self, real: "Callable[..., Any]", *arguments: "Any") -> "Any":
        """What was judged to be no step."""
        self.inside += 1
        try:
            return real(*arguments)
        finally:
            self.inside -= 1

    def run(self, name: str, real: "Callable[..., Any]", *arguments: "Any", **named: "Any") -> "Any":
        """One step."""
        self.number += 1
        step = f"{self.process}:{self.number}"
        self.note(f"{step} {name}")
        self.inside += 1
        try:
            if step == self.at:
                self._act(name, "before")
            try:
                return real(*arguments, **named)
            finally:
                # A fork returns twice: the child has a name of its own by then.
                if step == self.at and step == f"{self.process}:{self.number}":
                    self._act(name, "after")
        finally:
            self.inside -= 1

    def _act(self, name: str, when: str) -> None:
        if self.action == "fail":
            if when == "before":
                self.note(f"! {self.at} {name}")
                raise OSError(int(self.when), posix.strerror(int(self.when)))
        elif self.when == when:
            self.note(f"! {self.at} {name}")
            _kill(_getpid(), _SIGKILL if self.action == "kill" else _SIGSTOP)


def _guarded(guard: _Guard, name: str, real: "Callable[..., Any]") -> "Callable[..., Any]":
    def wrapped(*arguments: "Any", **named: "Any") -> "Any":
        return guard.run(f"{name} {' '.join(str(each) for each in arguments)[:200]}", real, *arguments, **named)

    return wrapped


def _guarded_open(guard: _Guard) -> "Callable[..., Any]":
    def wrapped(path: "Any", flags: int, *rest: "Any", **named: "Any") -> "Any":
        if not flags & _WRITING or path == "/dev/null":
            return _open(path, flags, *rest, **named)
        return guard.run(f"open {path}", _open, path, flags, *rest, **named)

    return wrapped


def _guarded_fcntl(guard: _Guard, real: "Callable[..., Any]") -> "Callable[..., Any]":
    def wrapped(descriptor: int, command: int, *rest: "Any") -> "Any":
        if command not in _LOCKS:
            return guard.pass_by(real, descriptor, command, *rest)
        kind, _, position, _, _ = _FLOCK.unpack(rest[0])
        what = "unlock" if kind == fcntl.F_UNLCK else "lock"
        name = f"{_LOCKS[command]} {what} {'key' if position else 'node'}"
        return guard.run(name, real, descriptor, command, *rest)

    return wrapped


def _guarded_fork(guard: _Guard, real: "Callable[[], int]") -> "Callable[[], int]":
    def fork() -> int:
        guard.children += 1
        name = f"{guard.process}.{guard.children}"
        child = real()
        if child == 0:
            guard.process, guard.number, guard.children = name, 0, 0
            guard.run("begin", int)
        return child

    def wrapped() -> int:
        child: int = guard.run("fork", fork)
        return child

    return wrapped


def _messages(data: bytes) -> "list[tuple[int, bytes]]":
    found, offset = [], 0
    while offset + 16 <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        found.append((kind, data[offset : offset + length]))
        offset += length + (-length % 4)
    return found


def _asks_only(protocol: int, kind: int) -> bool:
    if protocol == _NETLINK_ROUTE:
        return kind & 3 == 2  # RTM_NEW, RTM_DEL, RTM_GET, RTM_SET
    subsystem, number = kind >> 8, kind & 0xFF
    if subsystem == _NFNL_SUBSYS_NFTABLES:
        return number in _NFT_GETS
    return subsystem == _NFNL_SUBSYS_CTNETLINK and number == 1


def _socket_class(guard: _Guard) -> "type[_socket.socket]":
    class Socket(_socket.socket):
        def sendmsg(self, buffers: "Any", *rest: "Any") -> int:
            data = b"".join(buffers)
            if self.family != _socket.AF_NETLINK:
                return int(guard.run("sendmsg", super().sendmsg, [data], *rest))
            held = _messages(data)
            send = super().sendmsg
            if all(_asks_only(self.proto, kind) for kind, _ in held):
                return int(guard.pass_by(send, [data], *rest))
            if self.proto != _NETLINK_ROUTE:
                kinds = " ".join(f"{kind:#x}" for kind, _ in held)
                return int(guard.run(f"netfilter {kinds}", send, [data], *rest))
            return sum(guard.run(f"rtnetlink {kind}", send, [each], *rest) for kind, each in held)

        def send(self, data: "Any", *rest: "Any") -> int:
            return int(guard.run("send", super().send, data, *rest))

        def sendto(self, data: "Any", *rest: "Any") -> int:
            return int(guard.run("sendto", super().sendto, data, *rest))

    return Socket


def _watch(guard: _Guard) -> None:
    def hook(event: str, arguments: "tuple[Any, ...]") -> None:
        if guard.inside or event.startswith(_HARMLESS):
            return
        if event == "open":
            path, _, flags = arguments
            if path == "/dev/null" or not (isinstance(flags, int) and flags & _WRITING):
                return
        guard.note(f"unguarded {event} {arguments}")

    sys.addaudithook(hook)


def _shift_clock(seconds: float) -> None:
    wall, broken_down, clock = time.time, time.gmtime, time.clock_gettime
    time.time = lambda: wall() + seconds
    time.gmtime = lambda at=None: broken_down(wall() + seconds if at is None else at)
    time.clock_gettime = lambda number: clock(number) + (seconds if number == time.CLOCK_REALTIME else 0)


def install() -> None:
    """Put the failpoints in place, as the environment asks."""
    environment = posix.environ
    guard = _Guard(environment)
    if shift := environment.get(b"PODWIRE_CLOCK"):
        _shift_clock(float(shift))
    for name in (
        "write", "writev", "pwrite", "sendfile", "rename", "replace", "link", "symlink", "unlink", "remove", "mkdir",
        "rmdir", "mkfifo", "mknod", "truncate", "ftruncate", "chmod", "fchmod", "chown", "utime", "posix_spawn",
        "posix_spawnp", "execve", "execv", "setns", "unshare", "fsync", "fdatasync", "copy_file_range",
    ):  # fmt: skip
        if hasattr(posix, name):
            setattr(posix, name, _guarded(guard, name, getattr(posix, name)))
    posix.open = _guarded_open(guard)
    posix.fork = _guarded_fork(guard, posix.fork)
    fcntl.fcntl = _guarded_fcntl(guard, fcntl.fcntl)
    fcntl.flock = _guarded(guard, "flock", fcntl.flock)
    fcntl.lockf = _guarded(guard, "lockf", fcntl.lockf)
    # Python 3.11 has no setns(2): the plugin calls it in libc, and nothing else.
    _ctypes.call_function = _guarded(guard, "setns", _ctypes.call_function)
    setattr(_socket, "socket", _socket_class(guard))  # noqa: B010
    if guard.log >= 0:
        _watch(guard)


install()
