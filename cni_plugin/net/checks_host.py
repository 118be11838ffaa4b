"""Checks of the machine: kernel, nft, inotify, connection tracking."""

import platform
import re
from collections.abc import Iterator

from cni_plugin.net import kernel, state
from cni_plugin.net.findings import ERROR, WARNING
from cni_plugin.net.node import Node, number
from cni_plugin.net.registry import Complaint, check
from cni_plugin.spec import CniError

_OLDEST_NFT = (0, 9, 8)
# What kubelet, the runtime and the pods' log readers of one node have been seen to need.
_INOTIFY = {"max_user_instances": 512, "max_user_watches": 65536}
_NEARLY = 0.9


@check("kernel", "a kernel that tells network namespaces apart (SO_NETNS_COOKIE, Linux 5.14), by trying")
def netns_cookie(node: Node) -> Iterator[Complaint]:
    try:
        state.own_cookie()
    except CniError as fault:
        yield ERROR, f"Linux {platform.release()}: {fault.message}", "boot Linux 5.14 or later"


@check("nft", "the program nft, 0.9.8 or later")
def nft_program(node: Node) -> Iterator[Complaint]:
    program = kernel.nft_program()
    if program is None:
        severity = ERROR if node.needs_table or node.networks else WARNING
        yield severity, "nft is not installed: masquerade and hostPorts need it", "apt-get install nftables"
        return
    said = kernel.run([program, "--version"])
    matched = re.search(r"v(\d+)\.(\d+)(?:\.(\d+))?", said)
    if matched is None:
        yield WARNING, f"{program} --version says {said.strip()[:60]!r}", "install nftables 0.9.8 or later"
    elif tuple(int(part or 0) for part in matched.groups()) < _OLDEST_NFT:
        yield ERROR, f"{program} is {matched[0]}, and podwire needs 0.9.8", "apt-get install nftables"


@check("inotify", "fs.inotify limits that are too low for kubelet and the runtime")
def inotify(node: Node) -> Iterator[Complaint]:
    for name, enough in _INOTIFY.items():
        limit = number(f"fs/inotify/{name}")
        if limit is not None and limit < enough:
            what = f"fs.inotify.{name} is {limit}: kubelet, runtime and log readers may run out"
            yield WARNING, what, f"sysctl -w fs.inotify.{name}={enough}"


@check("conntrack", "a connection tracking table that is nearly full")
def conntrack(node: Node) -> Iterator[Complaint]:
    folder = "net/netfilter/nf_conntrack"
    count, most = number(f"{folder}_count"), number(f"{folder}_max")
    if count is not None and most and count > _NEARLY * most:
        what = f"{count} of {most} tracked connections are in use: new ones will be dropped"
        yield ERROR if count >= most else WARNING, what, f"sysctl -w net.netfilter.nf_conntrack_max={most * 2}"
