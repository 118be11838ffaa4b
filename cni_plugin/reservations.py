"""Addresses that are not for anybody: requested by the call, or kept for a pod that comes back."""

import posix

from cni_plugin import ipam
from cni_plugin.allocation import cooling_mark
from cni_plugin.attachment import parse
from cni_plugin.claims import Ledger, boot_time, read, sticky_name
from cni_plugin.spec import ADDRESS_IN_USE, ADDRESS_NOT_AVAILABLE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cni_plugin.config import Network


def fixed_addresses(ledger: Ledger, network: "Network", is_foreign: "Callable[[bytes], bool]") -> "list[bytes | None]":
    """For each range set the requested address, else the one kept for this pod, else None.

    Raises CniError 101 when a requested address is taken, and 102 when no range set may hand it out.
    """
    fixed: list[bytes | None] = [None] * len(network.range_sets)
    for address in network.requested:
        fixed[_position(address, network, fixed)] = address
        _must_be_free(ledger, address, is_foreign)
    if network.sticky:
        key = sticky_name(network.sticky[0])
        for address in _kept(ledger, key):
            for position, each in enumerate(network.range_sets):
                if fixed[position] is None and each.allows(address) and _is_kept(ledger, address, key, is_foreign):
                    fixed[position] = address
    return fixed


def _position(address: bytes, network: "Network", fixed: "list[bytes | None]") -> int:
    text = ipam.format_address(address)
    for position, each in enumerate(network.range_sets):
        if each.allows(address) and fixed[position] is None:
            return position
    inside = [each for each in network.range_sets if each.range_of(address)]
    if not inside:
        why = f"outside the ranges {'; '.join(map(str, network.range_sets))}"
    elif not any(each.allows(address) for each in inside):
        why = "a gateway, or excluded"
    else:
        why = "the second one out of the same range set, which gives one"
    raise CniError(ADDRESS_NOT_AVAILABLE, f"requested address {text} is {why}", "request another address, or none")


def _must_be_free(ledger: Ledger, address: bytes, is_foreign: "Callable[[bytes], bool]") -> None:
    text = ipam.format_address(address)
    if posix.access(f"{ledger.path}/addresses/{text}", posix.F_OK):
        try:
            holder = parse(read(f"{ledger.path}/addresses/{text}"))
            who = f"held by {holder.pod or holder.container_id}"
        except (OSError, ValueError):
            who = "held by an attachment without a readable record"
    elif posix.access(f"{ledger.path}/foreign/{text}", posix.F_OK):
        who = f"another plugin's ({posix.readlink(f'{ledger.path}/foreign/{text}')})"
    elif is_foreign(address):
        who = "known to the node as somebody else's (`ip route get` tells whose)"
    else:
        return
    raise CniError(ADDRESS_IN_USE, f"requested address {text} is {who}", "delete that pod, or request another address")


def _kept(ledger: Ledger, key: str) -> "list[bytes]":
    try:
        return [ipam.parse_address(text) for text in posix.readlink(f"{ledger.path}/sticky/{key}").split(",")]
    except (OSError, ValueError):
        return []


def _is_kept(ledger: Ledger, address: bytes, key: str, is_foreign: "Callable[[bytes], bool]") -> bool:
    # The mark is gone, or another pod's, when the address was lent on in between.
    text = ipam.format_address(address)
    mark = cooling_mark(ledger, text)
    return (
        mark is not None
        and mark[2] == key
        and boot_time() - mark[0] < mark[1]
        and not posix.access(f"{ledger.path}/addresses/{text}", posix.F_OK)
        and not is_foreign(address)
    )
