"""The role behind another plugin, which made interface and addresses: hostPorts only, prevResult passed on.

It is recorded, claimed and collected like every attachment, but has no link and no addresses of its own. The
node's 127.0.0.1 is not among the hosts: for that the other plugin's link would have to be opened to it.
"""

import posix

from cni_plugin import claims, netns, nftables, node, prevresult, removal, rtnetlink, verbs
from cni_plugin.attachment import Address, Attachment
from cni_plugin.call import Call
from cni_plugin.config import Network
from cni_plugin.journal import Journal
from cni_plugin.netlink import Refusal
from cni_plugin.spec import ALREADY_ATTACHED, NFT_FAILURE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def add(call: Call, network: Network, journal: Journal) -> "dict[str, Any]":
    """Lead the pod's hostPorts to the addresses of prevResult; returns prevResult. Raises CniError."""
    previous = network.prev_result or {}
    if not network.host_ports:
        return previous
    sandbox = netns.open_netns(call.netns)
    own = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
    host = rtnetlink.Socket()
    ledger = claims.Ledger(network.state_dir, netns.cookie(host.raw))
    with ledger.attachment_lock(call.container_id, call.ifname):
        found = ledger.find(call.container_id, call.ifname)
        if found is not None:
            if found[0] == "attachments":
                raise CniError(
                    ALREADY_ATTACHED,
                    f"container {call.container_id} has hostPorts for {call.ifname} already",
                    "the specification wants DEL before another ADD of the same container id and interface",
                )
            removal.dismantle(ledger, host, *found)
        nft = nftables.Nft()
        node.ensure_table(ledger, network, nft, call.search, journal)
        attachment = Attachment(
            container_id=call.container_id,
            ifname=call.ifname,
            network=network.name,
            pod=call.pod,
            netns=call.netns,
            netns_cookie=netns.cookie(netns.socket_in(sandbox, own).raw),
            host_link="",
            group=0,
            mtu=0,
            mac=b"",
            addresses=[Address(address) for address, _ in prevresult.addresses(previous)],
            routes=[],
            table=0,
            host_ports=network.host_ports,
            sticky=None,
            created=claims.boot_time(),
        )
        ledger.reserve(attachment, lambda: None)
        try:
            verbs.add_elements(ledger, network, nft, attachment, call.search, journal)
            ledger.complete(attachment)
        except BaseException as fault:
            removal.dismantle(ledger, host, "pending", attachment)
            if isinstance(fault, Refusal):
                raise CniError(NFT_FAILURE, f"hostPorts of {call.container_id}: the kernel says {fault}") from None
            raise
    return previous
