"""Destinations that pods reach with their own address: the agent's share of the sets nomasq4 and nomasq6.

The plugin fills these sets from what the networks' configurations say, a file each in the ledger's folder `networks`.
The agent's file is one more, named as no network can be: plugin and agent then build the same sets, whoever comes
first, each under the node's lock and in one transaction. Where somebody removed the whole table it is made again with
the elements of every attachment.
"""

import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from cni_plugin import claims, jsontext, netns, nftables, node, rtnetlink
from cni_plugin.agent.settings import Network
from cni_plugin.journal import Journal

NAME = "@peers"
_SEARCH = "/usr/sbin:/sbin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, in words; whether the table was made anew."""

    notes: tuple[str, ...] = ()
    rebuilt: bool = False


def apply(state_dir: str, subnets: "tuple[Network, ...]", *, force: bool = False) -> Outcome:
    """State these subnets, and bring the table to it; with `force` also when all looks right. Raises CniError.

    Only the main thread may: waiting for the node's lock takes a signal. A node without claims has no table, and gets
    none here: the first ADD makes both, and the monitor sees it.
    """
    wanted = jsontext.dumps([str(each) for each in _merged(subnets)])
    return _apply(state_dir, lambda stated: wanted, force=force)


def keep(state_dir: str) -> Outcome:
    """Make the table where somebody removed it, with what was stated last. Raises CniError."""
    return _apply(state_dir, lambda stated: stated, force=False)


def forget(state_dir: str) -> Outcome:
    """Take back what `apply` stated. Raises CniError."""
    return _apply(state_dir, lambda stated: None, force=False)


def _merged(subnets: "tuple[Network, ...]") -> list[Network]:
    # In one order and without what is covered by another: the text is compared.
    four = ipaddress.collapse_addresses(each for each in subnets if isinstance(each, IPv4Network))
    six = ipaddress.collapse_addresses(each for each in subnets if isinstance(each, IPv6Network))
    return [*four, *six]


def _apply(state_dir: str, choose: Callable[[str | None], str | None], *, force: bool) -> Outcome:
    host = rtnetlink.Socket()
    cookie = netns.cookie(host.raw)
    host.close()
    if not claims.exists(state_dir, cookie):
        return Outcome()
    ledger = claims.Ledger(state_dir, cookie)
    nft = nftables.Nft()
    try:
        stated = node.setting(ledger, NAME)
        wanted = choose(stated)
        changed = stated != wanted
        if not changed and not force and (nft.table_exists() or not _needs_table(ledger)):
            return Outcome()
        journal = Journal()
        with ledger.host_lock():
            if wanted is None:
                claims.unlink(f"{ledger.path}/networks/{NAME}")
            elif changed:
                node.set_setting(ledger, NAME, wanted)
            there = nft.table_exists()
            if there or _needs_table(ledger):
                node.settle_table(ledger, nft, _SEARCH, journal, changed or force)
        return Outcome(tuple(journal.notes) if changed or not there else (), not there and bool(journal.notes))
    finally:
        nft.close()
        os.close(ledger.descriptor)


def _needs_table(ledger: claims.Ledger) -> bool:
    """Whether a network's ADD has ever made the table; a state folder alone is no reason for one."""
    return any(not name.startswith((".", "@")) for name in os.listdir(f"{ledger.path}/networks"))
