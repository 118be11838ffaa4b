"""What the node needs once: when the table is made or changed, with what in it, and the MTU of the ways out."""

from __future__ import annotations

import os
import posix
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import config, node
from cni_plugin.attachment import HostPort
from cni_plugin.claims import Ledger
from cni_plugin.ipam import parse_address
from cni_plugin.journal import Journal
from tests.cni_plugin.holdings import pool, reserve
from tests.cni_plugin.samples import fails, ipam_with, network

V4, V6 = [{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]


def stated(*sets: Any, **changes: Any) -> config.Network:
    return network(**ipam_with(ranges=list(sets) or [V4]), **changes)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(stated, False, id="IPv4 alone"),
        pytest.param(lambda: stated(ipMasq=True), True, id="masquerade"),
        pytest.param(lambda: stated(capabilities={"portMappings": True}), True, id="hostPorts declared"),
        pytest.param(
            lambda: stated(runtimeConfig={"portMappings": [{"hostPort": 1, "containerPort": 1}]}), True, id="a hostPort"
        ),
        # Its guard chain is what stops forged sources there.
        pytest.param(lambda: stated(V6), True, id="IPv6"),
        pytest.param(lambda: stated(V4, V6), True, id="dual stack"),
    ],
)
def test_the_table_is_needed_where_something_of_it_is_used(made: Callable[[], config.Network], expected: bool) -> None:
    assert node.needs_table(made()) is expected


class Table:
    """Whether the nft table is there, and a program nft that keeps what it is fed with and then makes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "nft").write_text(f"#!/bin/sh\n/bin/cat > {folder}/script\n")
        (folder / "nft").chmod(0o755)
        self.missing = True

    def table_exists(self) -> bool:
        return not self.missing

    def ensure(self, ledger: Ledger, one: config.Network) -> str:
        """The script that was run, or nothing."""
        script = self.folder / "script"
        script.unlink(missing_ok=True)
        nft: Any = self
        node.ensure_table(ledger, one, nft, str(self.folder), Journal())
        self.missing = False
        return script.read_text() if script.exists() else ""


@pytest.fixture
def table(tmp_path: Path) -> Table:
    (tmp_path / "bin").mkdir()
    return Table(tmp_path / "bin")


def destinations(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith("add element") and "nomasq" in line]


def test_a_missing_table_is_made_with_the_elements_of_every_recorded_attachment(ledger: Ledger, table: Table) -> None:
    ports = [HostPort("tcp", bytes(4), 80, 8080), HostPort("tcp", bytes(16), 80, 8080)]
    both = (pool(), pool("fd00::/64"))
    one = reserve(ledger, "c1", *both, ports=ports)
    ledger.complete(one)
    reserve(ledger, "c2", *both, ports=[HostPort("udp", bytes(16), 53, 53)])
    going = reserve(ledger, "c3", *both, ports=[HostPort("udp", bytes(4), 99, 99)])
    ledger.begin_delete(going, "pending")
    script = table.ensure(ledger, stated(V4, V6))
    assert script.startswith("create table inet podwire1\n")
    assert "tcp . 80" in script
    assert ": 10.1.0.1 . 8080" in script
    assert ": fd00::1 . 8080" in script
    assert ": fd00::2 . 53" in script
    assert "10.1.0.3" not in script
    assert table.ensure(ledger, stated(V4, V6)) == ""


def test_destinations_without_masquerade_are_those_of_all_networks_and_multicast(ledger: Ledger, table: Table) -> None:
    assert destinations(table.ensure(ledger, stated(V4, V6, noMasquerade=["10.0.0.0/8"]))) == [
        "add element inet podwire1 nomasq4 { 10.0.0.0-10.255.255.255, 224.0.0.0-239.255.255.255 }",
        "add element inet podwire1 nomasq6 { fd00:1::-fd00:1::ffff:ffff:ffff:ffff, "
        "ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff }",
    ]
    other = stated([{"subnet": "192.168.0.0/24"}], name="other")
    script = table.ensure(ledger, other)
    assert script.startswith("flush set inet podwire1 nomasq4\nflush set inet podwire1 nomasq6\n")
    assert "10.0.0.0-10.255.255.255, 192.168.0.0-192.168.0.255, 224.0.0.0" in script
    assert "fd00:1::" in script
    assert table.ensure(ledger, other) == ""
    assert sorted(os.listdir(f"{ledger.path}/networks")) == ["other", "pods"]


def test_a_changed_network_replaces_what_it_said(ledger: Ledger, table: Table) -> None:
    table.ensure(ledger, stated(noMasquerade=["172.16.0.0/12"]))
    script = table.ensure(ledger, stated(noMasquerade=["192.168.0.0/16"]))
    assert "172.16.0.0" not in script
    assert "192.168.0.0-192.168.255.255" in script


def test_a_role_without_ranges_says_nothing_of_destinations(ledger: Ledger, table: Table) -> None:
    behind = network(
        chained=["portMappings"],
        ipam=None,
        prevResult={"ips": [{"address": "10.9.0.5/24"}]},
        runtimeConfig={"portMappings": [{"hostPort": 1, "containerPort": 1}]},
    )
    assert destinations(table.ensure(ledger, behind)) == [
        "add element inet podwire1 nomasq4 { 224.0.0.0-239.255.255.255 }",
        "add element inet podwire1 nomasq6 { ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff }",
    ]
    assert os.listdir(f"{ledger.path}/networks") == []


@pytest.mark.parametrize("garbage", ["", "{", "5", '["rubbish"]', "[5]", '{"a": 1}', "\udcff"])
def test_a_garbled_setting_of_another_network_is_passed_over(ledger: Ledger, table: Table, garbage: str) -> None:
    Path(f"{ledger.path}/networks/broken").write_bytes(garbage.encode("utf-8", "surrogateescape"))
    Path(f"{ledger.path}/networks/.draft").write_text('["1.0.0.0/8"]')
    script = table.ensure(ledger, stated())
    assert destinations(script)[0] == (
        "add element inet podwire1 nomasq4 { 10.1.0.0-10.1.0.255, 224.0.0.0-239.255.255.255 }"
    )


@pytest.mark.parametrize("name", ["open", "rename", "listdir"])
def test_settings_that_cannot_be_kept_are_code_104(
    ledger: Ledger, table: Table, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = getattr(posix, name)

    def refuse(path: str, *rest: Any) -> Any:
        if "/networks" in path and (name != "open" or rest[0] & posix.O_CREAT):
            raise OSError(28, "No space left on device", path)
        return real(path, *rest)

    with monkeypatch.context() as broken:
        broken.setattr(posix, name, refuse)
        with fails(104, "No space left on device", "key stateDir"):
            table.ensure(ledger, stated())
    assert table.missing


class Route:
    """A route over a link, with an MTU of its own or 0."""

    def __init__(self, index: int, mtu: int = 0) -> None:
        self.index, self.mtu = index, mtu


class Host:
    """Routes by destination, and links with the MTU that is their index."""

    def __init__(self, routes: dict[str, Route]) -> None:
        self._routes = {parse_address(text): each for text, each in routes.items()}

    def route(self, destination: bytes) -> Route | None:
        return self._routes.get(destination)

    def link_at(self, index: int) -> Route | None:
        return Route(index, index)


DEFAULT4, DEFAULT6 = "198.51.100.1", "2001:db8::1"


@pytest.mark.parametrize(
    ("sets", "wide", "routes", "expected"),
    [
        pytest.param([V4], [], {}, 1500, id="no route"),
        pytest.param([V4], [], {DEFAULT4: Route(1400)}, 1400, id="default route"),
        pytest.param([V4], [], {DEFAULT4: Route(1400, 1300)}, 1300, id="a route with an MTU of its own"),
        pytest.param([V4], [], {DEFAULT4: Route(1400, 9000)}, 1400, id="a route with more than its link has"),
        pytest.param([V4], [], {DEFAULT4: Route(0)}, 1500, id="a route without a link"),
        pytest.param([V4], [], {DEFAULT6: Route(1280)}, 1500, id="the other family's"),
        pytest.param([V4, V6], [], {DEFAULT4: Route(1500), DEFAULT6: Route(1280)}, 1280, id="the smaller of two"),
        pytest.param([V4], ["10.0.0.0/8"], {DEFAULT4: Route(1500), "10.1.1.0": Route(1450)}, 1450, id="tunnel behind"),
        pytest.param(
            [V4], ["10.0.0.0/8"], {DEFAULT4: Route(1500), "10.0.255.255": Route(1450)}, 1450, id="tunnel before"
        ),
        pytest.param([V4], [], {DEFAULT4: Route(1500), "10.1.1.0": Route(1450)}, 1500, id="nobody's neighbours"),
        pytest.param(
            [V4], ["10.1.0.0/24"], {DEFAULT4: Route(1500), "10.1.1.0": Route(1450)}, 1500, id="only the own subnet"
        ),
        pytest.param(
            [V6], ["fd00::/8"], {DEFAULT6: Route(1500), "fd00:1:0:1::": Route(1420)}, 1420, id="tunnel of IPv6"
        ),
    ],
)
def test_the_mtu_is_the_smallest_of_the_ways_out(
    sets: list[Any], wide: list[str], routes: dict[str, Route], expected: int
) -> None:
    host: Any = Host(routes)
    assert node.way_out_mtu(host, stated(*sets, noMasquerade=wide)) == expected


def test_a_setting_that_is_not_there_is_code_106(tmp_path: Path) -> None:
    with fails(106, f"reading {tmp_path}/none", "is /proc mounted?"):
        node.read_setting(f"{tmp_path}/none")
    with fails(106, "to 1: [Errno 2]", "sysctl -w"):
        node.write_setting(f"{tmp_path}/none", "1")
    with fails(106, "IPv6 is off in this kernel"):
        node.read_setting("/proc/sys/net/ipv6/conf/no such link/disable_ipv6")


def test_settings_are_read_and_written_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "setting")
    Path(path).write_text("0\n")
    assert node.read_setting(path) == "0"
    node.write_setting(path, "1")
    assert node.read_setting(path) == "1"
