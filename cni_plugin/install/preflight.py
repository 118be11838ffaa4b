"""preflight: everything on a node that keeps an installation from working, all at once, and nothing is changed.

What the doctor judges is judged by the doctor, on the node as it is to be: with our network in it.
"""

import errno
import ipaddress
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from functools import cached_property

from cni_plugin import config, jsontext, rtnetlink
from cni_plugin.install import kubelet, manifest, probe, runtime
from cni_plugin.install.journal import Journal, JournalError, describe
from cni_plugin.install.options import Options
from cni_plugin.install.places import AGENT_UNIT
from cni_plugin.install.site import NodeError, Site
from cni_plugin.net import conflists, doctor, kernel, render
from cni_plugin.net.findings import ERROR, NOTE, WARNING, Finding, ordered
from cni_plugin.net.node import Node
from cni_plugin.net.registry import Complaint

_DOCTORS = ("kernel", "nft", "inotify", "conntrack", "forwarding", "firewall", "networkd")
_OLDEST_CONTAINERD, _OLDEST_GLIBC = (1, 6), (2, 36)
_NEEDED_BYTES = 400 << 20
_AGENT_PORT = 9474
_AGENT_PROTOCOL = 113
# Of the agent's tunnel (cni_plugin.agent.vxlan, which is not imported for one number).
_AGENT_GROUP = 28793
_IPv4Or6 = ipaddress.IPv4Network | ipaddress.IPv6Network


class Prospective(Node):
    """The node as the installation will make it."""

    def __init__(self, site: Site, options: Options) -> None:
        super().__init__(site.places.netd, site.places.cni_bin, site.places.run)
        self._options = options

    @cached_property
    def networks(self) -> list[config.Network]:
        """Ours, beside those that are there."""
        ours = []
        if self._options.cni:
            document = jsontext.loads(
                render.render(render.Options(list(self._options.pod_cidrs), list(self._options.cluster_cidrs))).encode()
            )
            ours = [conflists.judged({**document["plugins"][0], "cniVersion": "1.0.0", "name": document["name"]})]
        return [*ours, *conflists.networks(self.conflists)]


def examine(site: Site, options: Options) -> list[Finding]:
    """Every finding, the worst first."""
    faults = [Finding("options", ERROR, fault, "podwire-node install --help") for fault in options.faults()]
    found = list(faults)
    node = Prospective(site, options)
    if options.cni and not faults:
        found += doctor.examine(node, _DOCTORS)
    for name, look in _CHECKS.items():
        if faults and name in _OF_NETWORK:
            continue
        try:
            found += [Finding(name, *complaint) for complaint in look(site, options, node)]
        except (OSError, NodeError, kernel.ToolError, kubelet.EndpointError, subprocess.SubprocessError) as fault:
            found.append(Finding(name, ERROR, f"{fault}", getattr(fault, "details", "")))
    return ordered(found)


def _machine(site: Site, options: Options, node: Node) -> Iterator[Complaint]:
    if os.geteuid() != 0:
        yield ERROR, f"this runs as uid {os.geteuid()}", "run podwire-node as root"
    payload = manifest.read(manifest.own())
    arch = manifest.ARCHITECTURES.get(platform.machine(), platform.machine())
    if payload.arch != arch:
        yield ERROR, f"the payload is for {payload.arch}, and this node is {arch}", f"build --payload --arch {arch}"
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    if (matched := re.search(r"(\d+)\.(\d+)", libc)) and (int(matched[1]), int(matched[2])) < _OLDEST_GLIBC:
        yield ERROR, f"{libc} is older than 2.36, which the payload's interpreter was built for", "a newer node image"


def _kernel(site: Site, options: Options, node: Node) -> Iterator[Complaint]:
    yield from probe.run(vxlan=options.cni and options.agent and options.mode == "vxlan", table=options.cni)
    if options.cni and options.agent and options.mode == "auto":
        for _, what, _fix in probe.run(vxlan=True, table=False):
            yield NOTE, f"{what}; nodes that share no link with this one cannot be reached", ""


def _containerd(site: Site, options: Options, node: Node) -> Iterator[Complaint]:
    try:
        found = runtime.look(site)
    except NodeError as fault:
        yield ERROR, f"the container runtime does not answer: {fault}", "systemctl start containerd"
        return
    name, version = str(found["runtime"]["name"]), str(found["runtime"]["version"])
    matched = re.match(r"v?(\d+)\.(\d+)", version)
    if name != "containerd":
        yield WARNING, f"the container runtime is {name} {version}: podwire is tested with containerd", ""
    elif matched is None:
        yield WARNING, f"containerd calls its version {version!r}", "1.6 or later is needed"
    elif (int(matched[1]), int(matched[2])) < _OLDEST_CONTAINERD:
        yield ERROR, f"containerd is {version}, and 1.6 is needed", "upgrade containerd"


def _conflists(site: Site, options: Options, node: Node) -> Iterator[Complaint]:
    if not options.cni:
        return
    ours = site.places.conflist
    for file in node.conflists:
        if file.path == ours:
            continue
        if file.fault:
            yield WARNING, f"{file.path} cannot be read by the runtime: {file.fault}", f"rm {file.path}  # or mend it"
        elif file.path.name < ours.name:
            fix = "./install.sh kind --replace-kindnet" if "kindnet" in file.path.name else f"mv {file.path} /root/"
            yield ERROR, f"{file.path} sorts before {ours.name}: pods would go on getting that network", fix
        else:
            yield (
                NOTE,
                f"{file.path} stays, and pods get {ours.name} from then on; it is used again after uninstall",
                "",
            )


def _addresses(site: Site, options: Options, node: Node) -> Iterator[Complaint]:
    """Addresses and routes of the node inside the subnet that its pods are to get."""
    ours = {rtnetlink.ROUTE_PROTOCOL, _AGENT_PROTOCOL}
    for subnet in _networks(options.pod_cidrs) if options.cni else ():
        held: dict[str, list[str]] = {}
        for address, link, _ in node.kernel.addresses:
            if ipaddress.ip_address(address) in subnet and not _is_tunnel(node, link):
                held.setdefault(link, []).append(address)
        for route in node.kernel.routes:
            if not route.destination or route.protocol in ours:
                continue
            other = ipaddress.ip_network(route.destination, strict=False)
            if other.version == subnet.version and other.overlaps(subnet) and route.destination not in held:
                held.setdefault(route.link, []).append(f"route {route.destination}")
        pods = [link for link in held if _is_veth(node, link)]
        if pods:
            what = f"{len(pods)} pods of another plugin have addresses of {subnet}: they stay out of the pool"
            yield NOTE, what, "delete those pods after the installation, so that they get the new network"
        for link in sorted(set(held) - set(pods)):
            what = f"{link or 'no link'} has {', '.join(held[link][:3])} inside the pod CIDR {subnet}"
            yield ERROR, what, f"give another --pod-cidr, or remove what is left of another network: ip link del {link}"


def _is_veth(node: Node, link: str) -> bool:
    found = node.kernel.by_name.get(link)
    return found is not None and found.kind == "veth"


def _is_tunnel(node: Node, link: str) -> bool:
    """The agent's own: it has the first address of the node's pod CIDR."""
    found = node.kernel.by_name.get(link)
    return found is not None and found.kind == "vxlan" and found.group == _AGENT_GROUP


def _networks(subnets: tuple[str, ...]) -> list[_IPv4Or6]:
    return [ipaddress.ip_network(subnet, strict=False) for subnet in subnets]


def _node_addresses(site: Site, options: Options, node: Node) -> Iterator[Complaint]:
    for subnet in _networks(options.cluster_cidrs) if options.cni else ():
        for address, link, _ in node.kernel.addresses:
            if ipaddress.ip_address(address) in subnet and not (_is_veth(node, link) or _is_tunnel(node, link)):
                what = f"the node's own address {address} ({link}) lies in the cluster CIDR {subnet}"
                yield WARNING, what, "pods would reach it without masquerade; give another --cluster-cidr"


def _disk(site: Site, options: Options, node: Node) -> Iterator[Complaint]:
    places = site.places
    folders = [places.home, places.lib, places.etc]
    if options.cni:
        folders += [places.cni_bin, places.netd]
    for folder in folders:
        there = next(each for each in (folder, *folder.parents) if each.is_dir())
        flags = os.statvfs(there).f_flag
        if flags & os.ST_RDONLY or not os.access(there, os.W_OK):
            yield ERROR, f"{there} cannot be written, and {folder} has to be", f"mount -o remount,rw {there}"
    there = next(each for each in (places.home, *places.home.parents) if each.is_dir())
    free = shutil.disk_usage(there).free
    if free < _NEEDED_BYTES:
        yield ERROR, f"{there} has {free >> 20} MiB free, and {_NEEDED_BYTES >> 20} are needed", f"df -h {there}"


def _systemd(site: Site, options: Options, node: Node) -> Iterator[Complaint]:
    wanted = [name for name, applies in (("agent", options.cni and options.agent), ("shim", options.shim)) if applies]
    if wanted and not site.systemd.available():
        what = f"the {' and the '.join(wanted)} run under systemd, which is not this machine's init"
        yield ERROR, what, "install with --no-agent and without --shim"


def _agent_port(site: Site, options: Options, node: Node) -> Iterator[Complaint]:
    if not (options.cni and options.agent) or (site.systemd.available() and site.systemd.active(AGENT_UNIT)):
        return
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind(("127.0.0.1", _AGENT_PORT))
        except OSError as fault:
            if fault.errno == errno.EADDRINUSE:
                what = f"127.0.0.1:{_AGENT_PORT}, where the agent tells its health, is taken"
                yield ERROR, what, f"ss -ltnp sport = :{_AGENT_PORT}  # names the program"


def _kubelet(site: Site, options: Options, node: Node) -> Iterator[Complaint]:
    if options.shim:
        found = kubelet.survey(site.places)
        kubelet.edits(site.places, f"unix://{site.places.shim_socket}")
        if not found.kubelet:
            yield NOTE, "there is no kubelet here: whoever calls the runtime is to use the shim's socket", ""


def _journal(site: Site, options: Options, node: Node) -> Iterator[Complaint]:
    try:
        journal = Journal(site.places).load()
    except JournalError as fault:
        yield ERROR, str(fault), fault.details
        return
    if journal.transaction is not None and not journal.transaction["complete"]:
        yield NOTE, f"the {describe(journal.transaction)}: it is undone first", "podwire-node rollback"
    if journal.document["removing"]:
        yield NOTE, "an uninstall has begun and is not finished: the installation takes its place", ""
    for path in (site.places.executable, site.places.loopback) if options.cni and journal.is_empty else ():
        if path.exists() and not path.is_symlink() and path == site.places.executable:
            yield NOTE, f"{path} is there already: it is kept, and comes back after uninstall", ""


_Look = Callable[[Site, Options, Node], Iterator[Complaint]]
_CHECKS: dict[str, _Look] = {
    "machine": _machine,
    "kernel-features": _kernel,
    "runtime": _containerd,
    "conflists": _conflists,
    "addresses": _addresses,
    "node-addresses": _node_addresses,
    "disk": _disk,
    "systemd": _systemd,
    "agent-port": _agent_port,
    "kubelet": _kubelet,
    "journal": _journal,
}
_OF_NETWORK = ("addresses", "node-addresses")
