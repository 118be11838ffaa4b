"""Reservations on a folder of the test, and what they left there."""

from __future__ import annotations

import os
import posix
from collections.abc import Callable
from typing import Any

import pytest

from cni_plugin import allocation, claims, config, ipam
from cni_plugin.attachment import Address, Attachment, HostPort
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
    *pools: ipam.RangeSet,
    ifname: str = "eth0",
    ports: list[HostPort] | None = None,
    cooldown: int = 30,
    is_foreign: Callable[[bytes], bool] = nobody,
    requested: tuple[str, ...] = (),
    sticky: tuple[str, int] | None = None,
) -> Attachment:
    """Reserve as ADD does: an address out of each pool, and the hostPorts."""
    network = config.Network()
    network.range_sets, network.cooldown = list(pools) or [pool()], cooldown
    network.requested, network.sticky = [ipam.parse_address(text) for text in requested], sticky
    made = attachment(container_id, ifname, ports=ports, sticky=sticky)

    def choose() -> None:
        made.addresses = [Address(address) for address in allocation.choose(ledger, network, is_foreign)]

    ledger.reserve(made, choose)
    return made


def last(one: Attachment) -> int:
    """The last byte of the first address."""
    return one.addresses[0].packed[-1]


def held(ledger: Ledger) -> dict[str, list[str]]:
    """The files that stand for records and claims."""
    folders = (*claims.STATES, "addresses", "ports")
    return {folder: sorted(os.listdir(f"{ledger.path}/{folder}")) for folder in folders}


NOTHING: dict[str, list[str]] = {folder: [] for folder in (*claims.STATES, "addresses", "ports")}

# What changes a file system; an `open` counts where it may make a file.
CHANGES = ("open", "write", "rename", "link", "symlink", "unlink", "mkdir", "rmdir")


def breaking(monkeypatch: pytest.MonkeyPatch, step: int, code: int, for_good: bool = False) -> Callable[[], int]:
    """The change of the file system with this number fails, and with `for_good` every later one; counts them."""
    count = 0

    def broken(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            if real is not posix_open or arguments[1] & posix.O_CREAT:
                count += 1
                if count == step or (for_good and count > step):
                    raise OSError(code, os.strerror(code), arguments[0])
            return real(*arguments, **named)

        return call

    posix_open = posix.open
    for name in CHANGES:
        monkeypatch.setattr(posix, name, broken(getattr(posix, name)))
    return lambda: count
