"""STATUS: whether ADD would work here. Reads a few files, takes no lock, changes nothing, in a millisecond or two."""

import posix

from cni_plugin import nftables, node
from cni_plugin.call import Call
from cni_plugin.config import Network
from cni_plugin.spec import NOT_AVAILABLE, CniError


def status(call: Call, network: Network) -> None:
    """Raises CniError 50 when ADD could not work here. A full pool is ADD's error, never this verb's."""
    folder = network.state_dir
    while folder and not posix.access(folder, posix.F_OK):
        folder = folder.rpartition("/")[0]
    if not posix.access(f"{folder}/.", posix.W_OK | posix.X_OK):
        raise CniError(
            NOT_AVAILABLE,
            f"the state folder {network.state_dir} cannot be written",
            "mount it read-write, or point the key stateDir elsewhere",
        )
    if 16 in network.widths() and not posix.access("/proc/sys/net/ipv6", posix.F_OK):
        raise CniError(
            NOT_AVAILABLE,
            "the network has an IPv6 range, and this kernel runs without IPv6",
            "take the range out of the conflist, or boot without ipv6.disable=1",
        )
    if node.needs_table(network) and not nftables.Nft().table_exists():
        from cni_plugin import nfttable

        if nfttable.find_nft(call.search) is None:
            raise CniError(
                NOT_AVAILABLE,
                f"the nft table inet {nftables.TABLE} is missing, and so is nft to make it",
                "install the package nftables on this node",
            )
