"""What the checks look at: the node's places, and each reading of them made once."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cni_plugin import config, nftables
from cni_plugin.net import conflists, kernel, state
from cni_plugin.net.kernel import Kernel, Link

_SYSCTL = Path("/proc/sys")


@dataclass
class Node:
    """The node whose namespaces this process is in. `state_dir` None is what the configuration says."""

    netd: Path = conflists.NETD
    bin: Path = conflists.BIN
    stated_dir: Path | None = None

    @cached_property
    def conflists(self) -> list[conflists.ConfFile]:
        """The runtime's configuration files, in its order."""
        return conflists.read(self.netd)

    @cached_property
    def networks(self) -> list[config.Network]:
        """podwire's networks that the plugin accepts."""
        return conflists.networks(self.conflists)

    @cached_property
    def state_dir(self) -> Path:
        """The state folder: as stated, else as the conflist says."""
        return self.stated_dir or conflists.state_dir(self.conflists)

    @cached_property
    def state(self) -> state.State:
        """The node's claims."""
        return state.read(self.state_dir)

    @cached_property
    def kernel(self) -> Kernel:
        """Links, routes, neighbours and addresses."""
        return kernel.read()

    @cached_property
    def ruleset(self) -> list[dict[str, Any]]:
        """The whole nft ruleset."""
        return kernel.nft("list", "ruleset")

    @cached_property
    def pod_links(self) -> list[Link]:
        """The links that podwire made."""
        return [link for link in self.kernel.links if link.ours]

    @property
    def wants_ipv6(self) -> bool:
        """Whether a network gives IPv6 addresses, or a pod has one."""
        ranges = [each.subnet for one in self.networks for ranged in one.range_sets for each in ranged.ranges]
        return any(":" in each for each in [*ranges, *self.pod_addresses])

    @property
    def pod_addresses(self) -> list[str]:
        """The addresses that pods have."""
        return [address for record in self.state.records for address in record.addresses]

    @property
    def needs_table(self) -> bool:
        """Whether an attachment or a network uses the nft table."""
        attached = any(
            record.attachment.group == nftables.GROUP_MASQUERADE or record.attachment.host_ports
            for record in self.state.records
        )
        # A network that was never used has no table yet, and needs none.
        return attached or bool(self.state.networks)


def sysctl(name: str) -> str | None:
    """The value of `net/ipv4/ip_forward` and its like; None where the kernel does not have it."""
    try:
        return (_SYSCTL / name).read_text().strip()
    except FileNotFoundError:
        return None


def number(name: str) -> int | None:
    """A sysctl's value as a number, or None."""
    text = sysctl(name)
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None
