"""Which network namespaces are alive, by cookie.

Found are those that a process is in (every /proc/PID/ns/net) and those that a mount pins (type nsfs). One that only a
descriptor or a socket holds is not, so not being found proves nothing while a veth still leads somewhere: a pair goes
with either of its namespaces.
"""

import os
import re
import threading
from pathlib import Path

from cni_plugin import netns, rtnetlink
from cni_plugin.spec import CniError

_MOUNT = re.compile(r"\S+ \S+ \S+ net:\[\d+\] (\S+) .* - nsfs ")
PINNED = Path("/run/netns")


def cookies(more: list[str]) -> dict[int, str]:
    """The cookie of every namespace that a process or mount shows, or a path of `more` leads to, with such a path.

    Works in a thread of its own: setns(2) moves only the thread that calls it.
    """
    found: dict[int, str] = {}
    worker = threading.Thread(target=_visit, args=([*more, *_pinned(), *_of_processes()], found), daemon=True)
    worker.start()
    worker.join()
    return found


def pinned_by_runtimes() -> list[Path]:
    """What container runtimes pin for pods: the namespaces named cni-* in /run/netns."""
    try:
        return sorted(path for path in PINNED.iterdir() if path.name.startswith("cni-"))
    except OSError:
        return []


def _pinned() -> list[str]:
    mounts = Path("/proc/self/mountinfo").read_text(errors="replace")
    escaped = [matched[1] for line in mounts.splitlines() if (matched := _MOUNT.match(line))]
    return [re.sub(r"\\([0-7]{3})", lambda each: chr(int(each[1], 8)), path) for path in escaped]


def _of_processes() -> list[str]:
    return [f"/proc/{name}/ns/net" for name in os.listdir("/proc") if name.isdigit()]


def _visit(paths: list[str], found: dict[int, str]) -> None:
    seen: set[tuple[int, int]] = set()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue  # a process that ended, a namespace that went
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        try:
            descriptor = netns.open_netns(path)
        except CniError:
            continue
        try:
            netns.enter(descriptor)
        except CniError:
            continue
        finally:
            os.close(descriptor)
        socket = rtnetlink.Socket()
        found.setdefault(netns.cookie(socket.raw), path)
        socket.close()
