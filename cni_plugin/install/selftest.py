"""The plugin tried on this node before anything uses it: ADD, CHECK and DEL between two scratch network namespaces.

`run` starts this module as a child of its own, which leaves the node's namespaces, so that the node is untouched:
links, routes, the nft table and forwarding are those of a namespace that ends with the child. What was made is read
back by pyroute2, not by the plugin.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

import cni_plugin
from cni_plugin.install.site import NodeError, Site
from cni_plugin.net import kernel

SECONDS = 60.0
CALL_SECONDS = 20.0
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
_MS_REC_PRIVATE = 0x4000 | 0x40000
SUBNET, SUBNET6 = "192.0.2.0/29", "2001:db8:0:1::/125"
CONTAINER = "podwire-self-test"


class SelfTestError(NodeError):
    """The plugin does not do on this node what it should; the text has the call, its answer and what is missing."""


def run(site: Site, plugin: Path) -> str:
    """Try this executable; returns what was tried in words. Raises NodeError."""
    program = [sys.executable, "-s", "-P", "-m", "cni_plugin.install.selftest", str(plugin)]
    packages = str(Path(cni_plugin.__file__).parents[1])
    environment = {"PYTHONPATH": packages, "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")}
    # Ours and not the child's: one that has to be killed cleans up nothing.
    with (
        tempfile.TemporaryDirectory(prefix="podwire-self-test-") as scratch,
        subprocess.Popen(
            [*program, scratch],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as child,
    ):
        try:
            answer, errors = child.communicate(timeout=SECONDS)
        except BaseException as fault:
            # With the plugin that it called, which is in its session.
            os.killpg(child.pid, signal.SIGKILL)
            if not isinstance(fault, subprocess.TimeoutExpired):
                raise
            raise SelfTestError(f"the self-test of {plugin} did not end within {SECONDS:g} s") from None
    if child.returncode != 0:
        said = errors.strip().splitlines()
        raise SelfTestError(
            f"the self-test of {plugin} failed: {said[-1] if said else f'exit code {child.returncode}'}",
            "podwire-node preflight  # tells what this kernel lacks",
        )
    return answer.strip()


def main(plugin: Path, scratch: Path) -> str:
    """Leave the node's namespaces and try the plugin in each way, in an empty folder. Raises SelfTestError."""
    tried = []
    unshare()
    ipv6 = Path("/proc/sys/net/ipv6").is_dir()
    families = "IPv4 and IPv6" if ipv6 else "IPv4"
    tried.append(_call(plugin, "VERSION", {}, "")["supportedVersions"][-1])
    _life(plugin, scratch / "plain", ipv6=False, table=False)
    tried.append("plain")
    if kernel.nft_program() is not None:
        _life(plugin, scratch / "table", ipv6=ipv6, table=True)
        tried.append(f"masquerade and hostPort, {families}")
    return f"CNI {tried[0]}: {'; '.join(tried[1:])}"


def unshare() -> None:
    """Leave the node's network and mount namespaces. Raises SelfTestError."""
    libc = ctypes.CDLL(None, use_errno=True)
    for what, done in (
        ("unshare(CLONE_NEWNET | CLONE_NEWNS)", libc.unshare(CLONE_NEWNET | CLONE_NEWNS)),
        ("mount --make-rprivate /", libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None)),
    ):
        if done != 0:
            raise SelfTestError(f"{what}: {os.strerror(ctypes.get_errno())}", "it needs root, and CAP_SYS_ADMIN")


class _Pod:
    """A network namespace that a child holds until its stdin ends."""

    def __enter__(self) -> "_Pod":
        code = (
            "import ctypes, os, sys\n"
            f"if ctypes.CDLL(None, use_errno=True).unshare({CLONE_NEWNET}): sys.exit(1)\n"
            "os.write(1, b'.')\nos.read(0, 1)"
        )
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._child.stdout is not None
        if self._child.stdout.read(1) != b".":
            raise SelfTestError("no second network namespace could be made", "see `sysctl user.max_net_namespaces`")
        self.path = f"/proc/{self._child.pid}/ns/net"
        return self

    def __exit__(self, *_: object) -> None:
        self._child.communicate()


def _life(plugin: Path, state: Path, *, ipv6: bool, table: bool) -> None:
    state.mkdir()
    ranges = [[{"subnet": SUBNET}], [{"subnet": SUBNET6}]] if ipv6 else [[{"subnet": SUBNET}]]
    configuration: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "name": CONTAINER,
        "type": "podwire",
        "ipam": {"ranges": ranges},
        "ipMasq": table,
        "stateDir": str(state),
        "log": "none",
    }
    if table:
        configuration["capabilities"] = {"portMappings": True}
        configuration["runtimeConfig"] = {"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "tcp"}]}
    with _Pod() as pod:
        result = _call(plugin, "ADD", configuration, pod.path)
        addresses = [each["address"] for each in result["ips"]]
        _see(pod.path, addresses, present=True)
        if table and not _elements():
            raise SelfTestError("ADD with a hostPort left no element in the nft table")
        _call(plugin, "CHECK", {**configuration, "prevResult": result}, pod.path)
        _call(plugin, "DEL", {**configuration, "prevResult": result}, pod.path)
        _see(pod.path, addresses, present=False)
    left = [str(path) for name in ("attachments", "addresses", "ports") for path in state.glob(f"*/{name}/*")]
    if left or (table and _elements()):
        raise SelfTestError(f"DEL left {', '.join(left) or 'an element in the nft table'}")


def _call(plugin: Path, command: str, configuration: dict[str, Any], netns: str) -> dict[str, Any]:
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": CONTAINER,
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(plugin.parent),
        "PATH": os.environ["PATH"],
    }
    try:
        done = subprocess.run(
            [plugin],
            env=environment,
            input=json.dumps(configuration).encode() if configuration else b"",
            capture_output=True,
            timeout=CALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise SelfTestError(f"{command}: {fault}") from None
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0:
        raise SelfTestError(f"{command} ended with {done.returncode}: {said or done.stderr.decode(errors='replace')}")
    answer: dict[str, Any] = json.loads(said) if said else {}
    return answer


def _see(netns: str, addresses: list[str], *, present: bool) -> None:
    """Link, addresses and routes on both sides, as the kernel has them."""
    ours = [link for link in kernel.read().links if link.ours]
    routes = {route.destination for route in kernel.read().host_routes}
    inside = _addresses_in(netns)
    wanted = {address.partition("/")[0] for address in addresses}
    routed = {destination.partition("/")[0] for destination in routes}
    if present:
        if len(ours) != 1 or not ours[0].up:
            raise SelfTestError(f"after ADD the host end is missing or down: {ours}")
        for what, found in (("the host's routes", routed), ("the pod's addresses", inside)):
            if not wanted <= found:
                raise SelfTestError(f"after ADD {', '.join(sorted(wanted - found))} is not among {what}")
    # The answer to DEL does not wait for the kernel, which unlists a link at once.
    elif ours or wanted & routed or wanted & inside:
        raise SelfTestError(
            f"after DEL there is still {[link.name for link in ours] or sorted(wanted & routed | inside)}"
        )


def _addresses_in(netns: str) -> set[str]:
    found: set[str] = set()
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise SelfTestError(f"entering {netns}: {os.strerror(ctypes.get_errno())}")
        with IPRoute() as route:
            for message in route.get_addr():
                found.add(str(dict(message["attrs"])["IFA_ADDRESS"]))
    finally:
        libc.setns(own, CLONE_NEWNET)
        os.close(own)
        os.close(descriptor)
    return found


def _elements() -> list[kernel.Element]:
    return kernel.elements(kernel.table() or [])


if __name__ == "__main__":
    # Where no umount would follow, nothing was mounted: the scratch folder is all there is on a disk.
    try:
        print(main(Path(sys.argv[1]), Path(sys.argv[2])))
    except (NodeError, kernel.ToolError, KeyError, ValueError, OSError) as fault:
        print(f"{type(fault).__name__}: {fault}" if not isinstance(fault, NodeError) else str(fault), file=sys.stderr)
        sys.exit(1)
