"""Network namespaces: open one by path, enter it, tell one from another.

The identity of a namespace is its cookie (SO_NETNS_COOKIE, Linux 5.14): inode numbers are reused at once.
"""

import _socket
import fcntl
import posix
import sys

from cni_plugin import rtnetlink
from cni_plugin.spec import INVALID_NETNS, KERNEL_REFUSED, UNKNOWN_CONTAINER, CniError

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_SO_NETNS_COOKIE = 71


def open_netns(path: str) -> int:
    """A descriptor of the network namespace at `path`, which the caller closes.

    Raises CniError 3 when nothing is there and 8 when what is there is no network namespace. Never creates,
    and never blocks on a FIFO or device that stands at `path`.
    """
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except FileNotFoundError:
        raise CniError(
            UNKNOWN_CONTAINER,
            f"CNI_NETNS {path!r} does not exist",
            "the sandbox is gone: the runtime makes the namespace before ADD; nothing was created here",
        ) from None
    except (OSError, ValueError) as fault:
        raise CniError(
            INVALID_NETNS,
            f"CNI_NETNS {path!r} cannot be opened: {fault}",
            "give the path of a network namespace, as in /run/netns/NAME or /proc/PID/ns/net",
        ) from None
    try:
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        posix.close(descriptor)
        raise CniError(
            INVALID_NETNS,
            f"CNI_NETNS {path!r} is no network namespace",
            "give the path of a network namespace, as in /run/netns/NAME or /proc/PID/ns/net",
        )
    return descriptor


def enter(descriptor: int) -> None:
    """Move this (single-threaded) process into the namespace; sockets opened before stay where they were."""
    try:
        _setns(descriptor, CLONE_NEWNET)
    except OSError as fault:
        raise _refused(str(fault)) from None


if sys.version_info >= (3, 12):
    _setns = posix.setns
else:

    def _setns(descriptor: int, kind: int) -> None:
        # Python 3.11 has no setns. `_ctypes` alone costs a tenth of what `ctypes` does; it drops errno.
        global _symbol
        import _ctypes

        _symbol = _symbol or _ctypes.dlsym(_ctypes.dlopen(None, 2), "setns")  # type: ignore[arg-type]
        if _ctypes.call_function(_symbol, (descriptor, kind)) != 0:
            raise OSError("setns failed")

    _symbol = 0


def _refused(why: str) -> CniError:
    return CniError(
        KERNEL_REFUSED,
        f"entering the pod's network namespace: {why}",
        "the plugin needs CAP_SYS_ADMIN in the node's namespaces; run it as root on the node",
    )


class inside:  # noqa: N801 - reads as a statement
    """`with inside(sandbox, own)`: the process is in `sandbox` for the block, and back in `own` whatever happens."""

    def __init__(self, sandbox: int, own: int) -> None:
        self._sandbox, self._own = sandbox, own

    def __enter__(self) -> None:
        enter(self._sandbox)

    def __exit__(self, *_: object) -> None:
        enter(self._own)


def socket_in(sandbox: int, own: int) -> "rtnetlink.Socket":
    """A socket of the namespace `sandbox`; the process returns to `own`. Both are descriptors."""
    with inside(sandbox, own):
        return rtnetlink.Socket()


def cookie(socket: "_socket.socket") -> int:
    """The cookie of the namespace in which `socket` was opened; unique until reboot."""
    try:
        return int.from_bytes(socket.getsockopt(_socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
    except OSError as fault:
        raise CniError(KERNEL_REFUSED, f"SO_NETNS_COOKIE: {fault}", "podwire needs Linux 5.14 or later") from None
