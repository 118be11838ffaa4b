"""What a machine, or a lab node, holds: taken before and after, the difference says what was left or lost.

Only what stays put by itself is compared: no counters, no dynamic neighbours, no expiring routes, no sets
with a timeout.
"""

import contextlib
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.netns import Namespace, children

# Every process the tests start inherits this variable, so a forgotten one is known whatever its parent is by then.
# A session within a session (the demo, run by a test) appends to it: the outer one knows the inner one's processes.
MARK = "PODWIRE_TEST_SESSION"


def begin_session() -> None:
    """From here on, processes of this process carry its mark."""
    os.environ[MARK] = os.environ.get(MARK, "") + secrets.token_hex(4)


def run_mark() -> str:
    """The mark of the outermost session that this process belongs to."""
    return os.environ.get(MARK, "")[:8]


_MACHINE_FOLDERS = (
    "/run",
    "/run/containerd",
    "/run/containerd/s",
    "/run/netns",
    "/run/podwire",
    "/etc/cni",
    "/etc/cni/net.d",
    "/opt/cni",
    "/opt/cni/bin",
    "/var/lib/cni",
    "/var/lib/cni/networks",
    "/var/lib/cni/results",
    "/var/lib/containerd",
    "/var/lib/podwire",
)
# Other programs write here too: of what is new, only names that this project, Python or mktemp choose count.
_SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_OUR_NAMES = ("podwire", "pw-", "tmp")
# Folders that ip(8), mount(8) and iptables(8) make at their first use and keep.
_TOOLS_OWN = {"/run/netns", "/run/mount", "/run/xtables.lock"}
_SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/*",
    "net/ipv4/conf/default/*",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/default/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_max",
    "fs/file-max",
    "fs/nr_open",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
)

Run = Callable[[list[str]], str]


@dataclass(frozen=True)
class Snapshot:
    """Things by kind; each thing is a line of text a person can look up."""

    kinds: Mapping[str, frozenset[str]]

    def difference(self, later: "Snapshot") -> list[str]:
        """`+ kind: thing` for what is new in `later`, `- kind: thing` for what it lacks. Empty when equal."""
        lines = []
        for kind in self.kinds:
            before, after = self.kinds[kind], later.kinds[kind]
            lines += [f"+ {kind}: {thing}" for thing in sorted(after - before)]
            lines += [f"- {kind}: {thing}" for thing in sorted(before - after)]
        return lines


def of_machine() -> Snapshot:
    """This machine, as seen from the caller's own namespaces."""
    return Snapshot(
        {
            **network(_run_here),
            "sysctl": frozenset(_sysctls()),
            "mount": frozenset(_mounts(Path("/proc/self/mounts"))),
            "file": frozenset(_files()),
            "cgroup": frozenset(_cgroups()),
            "process": frozenset(_marked_processes()),
        }
    )


def of_node(namespace: Namespace, base: Path) -> Snapshot:
    """One lab node: its kernel objects, its plugin's claims, its processes."""
    return Snapshot(
        {
            **network(lambda argv: namespace.run(argv).stdout),
            "mount": frozenset(_mounts(Path(f"/proc/{namespace.pid}/mounts"))),
            "claim": frozenset(_claims(base / "run/podwire")),
            "cni result": frozenset(_names(base / "var-lib/cni/results")),
            "process": frozenset(_descendants(namespace.pid)),
        }
    )


def settled(before: Snapshot, take: Callable[[], Snapshot], seconds: float = 10) -> list[str]:
    """The difference, once nothing changes it any more for the better, or after `seconds`.

    The kernel takes a network namespace down some time after its last user, and its veth peers with it.
    """
    deadline = time.monotonic() + seconds
    while True:
        difference = before.difference(take())
        if not difference or time.monotonic() >= deadline:
            return difference
        time.sleep(0.1)


def _run_here(argv: list[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        # No nft, or no permission: nothing to compare, before and after alike.
        return ""


def network(run: Run) -> dict[str, frozenset[str]]:
    """Links, addresses, routes, rules, permanent neighbours and nft objects where `run` runs commands."""
    return {
        "link": frozenset(
            f"{link['ifname']} index {link['ifindex']} group {link.get('group', 'default')} mtu {link['mtu']}"
            for link in _json(run(["ip", "-j", "link", "show"]))
        ),
        "address": frozenset(
            f"{address['local']}/{address['prefixlen']} dev {link['ifname']}"
            for link in _json(run(["ip", "-j", "address", "show"]))
            for address in link.get("addr_info", [])
            if not address.get("dynamic")
        ),
        "route": frozenset(
            " ".join(f"{key} {route[key]}" for key in ("type", "dst", "gateway", "dev", "table") if key in route)
            for family in ("-4", "-6")
            for route in _json(run(["ip", "-j", family, "route", "show", "table", "all"]))
            if route.get("protocol") != "ra" and "expires" not in route
        ),
        "rule": frozenset(
            json.dumps(rule, sort_keys=True)
            for family in ("-4", "-6")
            for rule in _json(run(["ip", "-j", family, "rule", "show"]))
        ),
        "neighbour": frozenset(
            f"{entry['dst']} dev {entry['dev']}"
            for entry in _json(run(["ip", "-j", "neighbour", "show", "nud", "permanent"]))
            if entry.get("dst") and entry.get("dev")
        ),
        "nft": frozenset(_nft(run(["nft", "-j", "list", "ruleset"]))),
    }


def _json(text: str) -> list[dict[str, Any]]:
    # `ip -j` prints nothing, or an empty object, where it has nothing to say.
    return [entry for entry in json.loads(text or "[]") if entry]


def _nft(text: str) -> Iterator[str]:
    """One line per table, chain, rule and element; of the plugin's own table, which stays on a node, the elements."""
    if not text:
        return
    for entry in json.loads(text)["nftables"]:
        for kind, value in entry.items():
            if kind == "metainfo":
                continue
            place = f"{value['family']} {value.get('table', value.get('name', ''))}"
            if kind in ("set", "map") and not {"dynamic", "timeout"} & set(value.get("flags", [])):
                for element in value.get("elem", []):
                    # The pool's own network: configuration, made with the table, not by a pod.
                    if value["name"] not in ("nomasq4", "nomasq6"):
                        yield f"{place} {value['name']} element {json.dumps(element, sort_keys=True)}"
            if not place.startswith("inet podwire"):
                value = {k: v for k, v in value.items() if k not in ("elem", "handle")}
                yield f"{place} {kind} {json.dumps(_without_counts(value), sort_keys=True)}"


def _without_counts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: None if key == "counter" else _without_counts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_counts(item) for item in value]
    return value


def _sysctls() -> Iterator[str]:
    for pattern in _SYSCTLS:
        for file in sorted(Path("/proc/sys").glob(pattern)):
            with contextlib.suppress(OSError):
                yield f"{file.relative_to('/proc/sys')} = {file.read_text().strip()}"


def _mounts(table: Path) -> Iterator[str]:
    for line in table.read_text().splitlines():
        device, place, kind = line.split()[:3]
        if place not in _TOOLS_OWN:
            yield f"{device} on {place} type {kind}"


def _files() -> Iterator[str]:
    for folder in _MACHINE_FOLDERS:
        for name in _names(Path(folder)):
            if f"{folder}/{name}" not in _TOOLS_OWN:
                yield f"{folder}/{name}"
    for folder in _SHARED_FOLDERS:
        for name in _names(Path(folder)):
            if name.startswith(_OUR_NAMES):
                yield f"{folder}/{name}"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _claims(state: Path) -> Iterator[str]:
    """What the plugin holds; `cooling` addresses are free again after their time and do not count."""
    for kind in ("attachments", "pending", "deleting", "addresses", "ports"):
        for file in state.glob(f"*/{kind}/*"):
            yield f"{kind}/{file.name}"


def _cgroups() -> Iterator[str]:
    root = Path("/sys/fs/cgroup")
    for folder in (*root.glob("podwire-*"), *root.glob("*/podwire-*")):
        yield str(folder)


def _marked_processes() -> Iterator[str]:
    session = os.environ.get(MARK)
    if session is None:
        return
    # Pods have an environment of their own; their cgroup is named after the session.
    needle, cgroup = f"\0{MARK}={session}".encode(), f"/podwire-{session}"
    spared = set(_ancestry(os.getpid()))
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in spared:
            continue
        with contextlib.suppress(OSError):
            marked = needle in b"\0" + (entry / "environ").read_bytes()
            if marked or cgroup in (entry / "cgroup").read_text():
                yield _process(int(entry.name))


def _process(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{pid} (started at tick {started}) {command[:160]}"


def _ancestry(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _descendants(pid: int) -> Iterable[str]:
    for child in children(pid):
        with contextlib.suppress(OSError):
            yield _process(child)
        yield from _descendants(child)
