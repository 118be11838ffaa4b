"""Reservations on a folder of the test, and what they left there."""

from __future__ import annotations

import os
from collections.abc import Callable

from cni_plugin import claims, ipam
from cni_plugin.attachment import Attachment, HostPort
from cni_plugin.claims import Ledger
from tests.cni_plugin.samples import attachment

ANYWHERE = bytes(4)
NODE = bytes((192, 0, 2, 1))


def nobody(address: bytes) -> bool:
    return False


def pool(subnet: str = "10.1.0.0/29", *excluded: str) -> ipam.RangeSet:
    return ipam.RangeSet([ipam.Range(subnet)], [ipam.parse_exclusion(each) for each in excluded])


def reserve(
    ledger: Ledger,
    container_id: str,
    *,
    ports: list[HostPort] | None = None,
    range_set: ipam.RangeSet | None = None,
    cooldown: float = 30,
    is_foreign: Callable[[bytes], bool] = nobody,
) -> Attachment:
    made = attachment(container_id, ports=ports)
    ledger.reserve(made, range_set or pool(), cooldown, is_foreign)
    return made


def last(one: Attachment) -> int:
    return one.address[3]


def held(ledger: Ledger) -> dict[str, list[str]]:
    """The files that stand for records and claims."""
    folders = (*claims.STATES, "addresses", "ports")
    return {folder: sorted(os.listdir(f"{ledger.path}/{folder}")) for folder in folders}


NOTHING: dict[str, list[str]] = {folder: [] for folder in (*claims.STATES, "addresses", "ports")}
