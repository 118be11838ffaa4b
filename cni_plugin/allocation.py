"""Choosing an attachment's addresses, one out of each range set. The caller holds the lock of the node's claims."""

import posix

from cni_plugin import claims, ipam
from cni_plugin.spec import POOL_EXHAUSTED, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cni_plugin.config import Network


def choose(ledger: "claims.Ledger", network: "Network", is_foreign: "Callable[[bytes], bool]") -> "list[bytes]":
    """An address out of each range set of the network, in their order; all or none.

    `is_foreign` tells whether the node knows an address as somebody else's (a route, an own address). Raises CniError
    100 (a set is exhausted), 101 and 102 (a requested address is taken, or not to be had), and OSError.
    """
    fixed: list[bytes | None] = [None] * len(network.range_sets)
    if network.requested or network.sticky:
        from cni_plugin import reservations

        fixed = reservations.fixed_addresses(ledger, network, is_foreign)
    return [
        address or _next(ledger, range_set, network.cooldown, is_foreign)
        for address, range_set in zip(fixed, network.range_sets, strict=True)
    ]


def _next(
    ledger: "claims.Ledger", range_set: "ipam.RangeSet", cooldown: float, is_foreign: "Callable[[bytes], bool]"
) -> bytes:
    now = claims.boot_time()
    held = foreign = 0
    # Reserved for a pod to come, time of release, address: in this order they are taken when nothing else is left.
    cooling: list[tuple[bool, float, bytes]] = []
    for address in range_set.candidates(_cursor(ledger, range_set)):
        text = ipam.format_address(address)
        if posix.access(f"{ledger.path}/addresses/{text}", posix.F_OK):
            held += 1
            continue
        # A link to another plugin's file; dangling once that plugin has let go.
        if posix.access(f"{ledger.path}/foreign/{text}", posix.F_OK):
            foreign += 1
            continue
        mark = cooling_mark(ledger, text)
        if mark is not None:
            released, seconds, _ = mark
            if now - released < max(cooldown, seconds):
                cooling.append((now - released < seconds, released, address))
                continue
        if is_foreign(address):
            foreign += 1
            continue
        return _taken(ledger, range_set, address)
    for _, _, address in sorted(cooling):
        if not is_foreign(address):
            return _taken(ledger, range_set, address)
    raise CniError(
        POOL_EXHAUSTED,
        f"no IP addresses available in range set: {range_set}: {range_set.size()} usable, {held} held, "
        f"{foreign} known to the node as somebody else's, {len(cooling)} cooling",
        "`podwire-net leases` shows the holders; delete pods or add a range",
    )


def _cursor(ledger: "claims.Ledger", range_set: "ipam.RangeSet") -> "bytes | None":
    try:
        data = claims.read(f"{ledger.path}/cursors/{range_set.name()}")
    except OSError:
        return None
    return data if len(data) == range_set.width else None


def _taken(ledger: "claims.Ledger", range_set: "ipam.RangeSet", address: bytes) -> bytes:
    try:
        claims.write(f"{ledger.path}/cursors/{range_set.name()}", address)
    except OSError:
        pass  # a hint only: the next ADD begins elsewhere
    return address


def cooling_mark(ledger: "claims.Ledger", text: str) -> "tuple[float, int, str] | None":
    """When an address was released (seconds since boot), for how long it is reserved and by which sticky key."""
    try:
        words = posix.readlink(f"{ledger.path}/cooling/{text}").split()
        released = int(words[0]) / 1000
        return (released, int(words[1]), words[2]) if len(words) == 3 else (released, 0, "")
    except (OSError, ValueError, IndexError):
        return None
