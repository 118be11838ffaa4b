"""Addresses of other plugins' pods: which files count, which are let be, and whose they are."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import foreign

LIVE_NETNS = "/proc/self/ns/net"
GONE_NETNS = "/run/netns/cni-00000000-gone"
ADDRESS = "10.244.0.7"


class Disk:
    """The folders of libcni and of two host-locals."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.results, self.networks, self.kindnet = base / "results", base / "networks", base / "cni-ipam-state"
        self.results.mkdir()
        for folder in (self.networks, self.kindnet):
            (folder / "mynet").mkdir(parents=True)
            (folder / "mynet/lock").touch()
            (folder / "mynet/last_reserved_ip.0").write_text("10.244.0.9")

    def cache(self, container: str = "abc", **changed: Any) -> Path:
        """One of libcni's files; a value of None removes the key."""
        entry: dict[str, Any] = {
            "kind": "cniCacheV1",
            "containerId": container,
            "config": "e30=",
            "ifName": "eth0",
            "networkName": "mynet",
            "netns": LIVE_NETNS,
            "result": {"cniVersion": "1.0.0", "ips": [{"address": f"{ADDRESS}/24", "gateway": "10.244.0.1"}]},
        } | changed
        path = self.results / f"mynet-{container}-{entry['ifName']}"
        path.write_text(json.dumps({key: value for key, value in entry.items() if value is not None}))
        return path

    def lease(self, text: str = "abc\r\neth0", address: str = ADDRESS, folder: Path | None = None) -> Path:
        """One of host-local's files."""
        path = (folder or self.networks) / "mynet" / address
        path.write_bytes(text.encode())
        return path

    def survey(self) -> dict[str, str]:
        """Readable addresses, and the files by their paths below the base."""
        taken = foreign.survey(str(self.results), (str(self.networks), str(self.kindnet)))
        return {
            socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address): (
                str(Path(path).relative_to(self.base))
            )
            for address, path in taken.items()
        }


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def age(path: Path) -> None:
    """Make a file older than this boot."""
    before = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 100
    os.utime(path, (before, before))


def test_a_node_without_other_plugins_has_nothing(tmp_path: Path) -> None:
    assert foreign.survey(str(tmp_path / "none"), (str(tmp_path / "no"), str(tmp_path / "nothing"))) == {}
    assert foreign.released_by(str(tmp_path / "none"), "abc") == []


@pytest.mark.parametrize(
    ("result", "addresses"),
    [
        pytest.param({"ip4": {"ip": f"{ADDRESS}/24"}, "ip6": {"ip": "fd00::7/64"}}, [ADDRESS, "fd00::7"], id="0.2"),
        pytest.param({"ips": [{"version": "4", "address": f"{ADDRESS}/24"}]}, [ADDRESS], id="0.4"),
        pytest.param(
            {"ips": [{"address": f"{ADDRESS}/32"}, {"address": "fd00::7/128"}]}, [ADDRESS, "fd00::7"], id="1.1"
        ),
        pytest.param({"ips": [{"address": "127.0.0.1/8"}, {"address": "::1/128"}]}, [], id="loopback"),
        pytest.param({}, [], id="no addresses"),
    ],
)
def test_a_cached_result_of_every_version_gives_its_addresses(disk: Disk, result: Any, addresses: list[str]) -> None:
    disk.cache(result=result)
    assert disk.survey() == dict.fromkeys(addresses, "results/mynet-abc-eth0")


@pytest.mark.parametrize(
    ("changed", "old", "counts"),
    [
        pytest.param({}, True, True, id="its namespace is there"),
        pytest.param({"netns": GONE_NETNS}, False, False, id="its namespace is gone"),
        pytest.param({"netns": "/etc/hostname"}, False, False, id="a file is at its place"),
        pytest.param({"netns": None}, False, True, id="none named, of this boot"),
        pytest.param({"netns": ""}, True, False, id="none named, of an earlier boot"),
    ],
)
def test_a_cached_result_counts_while_its_pod_lives(disk: Disk, changed: Any, old: bool, counts: bool) -> None:
    path = disk.cache(**changed)
    if old:
        age(path)
    assert bool(disk.survey()) == counts


@pytest.mark.parametrize(("sandbox", "counts"), [(LIVE_NETNS, True), (GONE_NETNS, False)], ids=["there", "gone"])
def test_an_older_libcni_tells_the_namespace_in_the_result(disk: Disk, sandbox: str, counts: bool) -> None:
    interfaces = [{"name": "veth1"}, {"name": "eth0", "sandbox": sandbox}]
    age(disk.cache(netns=None, result={"interfaces": interfaces, "ips": [{"address": f"{ADDRESS}/24"}]}))
    assert bool(disk.survey()) == counts


@pytest.mark.parametrize("text", ["abc\r\neth0", "abc\neth0", "abc"], ids=["of today", "of some", "of old"])
def test_a_lease_counts_with_its_container(disk: Disk, text: str) -> None:
    no_addresses = {"cniVersion": "1.0.0"}
    age(disk.lease(text))
    assert disk.survey() == {}
    disk.cache(result=no_addresses)
    assert disk.survey() == {ADDRESS: f"networks/mynet/{ADDRESS}"}
    disk.cache(result=no_addresses, netns=GONE_NETNS)
    assert disk.survey() == {}
    # One interface that lives is enough, whichever was read last.
    disk.cache(result=no_addresses, ifName="eth1")
    disk.cache(result=no_addresses, ifName="eth2", netns=GONE_NETNS)
    assert disk.survey() == {ADDRESS: f"networks/mynet/{ADDRESS}"}


def test_a_lease_without_any_result_counts_in_its_boot(disk: Disk) -> None:
    path = disk.lease(folder=disk.kindnet)
    disk.lease(address="fd00:10:244::7")
    disk.cache("other", result={}, netns=GONE_NETNS)
    assert disk.survey() == {
        ADDRESS: f"cni-ipam-state/mynet/{ADDRESS}",
        "fd00:10:244::7": "networks/mynet/fd00:10:244::7",
    }
    age(path)
    assert list(disk.survey()) == ["fd00:10:244::7"]


def test_the_result_is_preferred_to_the_lease(disk: Disk) -> None:
    disk.lease()
    disk.cache()
    assert disk.survey() == {ADDRESS: "results/mynet-abc-eth0"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"kind": "cniCacheV1"}',
        b'{"kind": "cniCacheV1", "containerId": 7, "result": {}}',
        b'{"kind": "cniCacheV1", "containerId": "abc", "result": []}',
        b'{"kind": "cniCacheV2", "containerId": "abc", "result": {"ips": [{"address": "10.244.0.7/24"}]}}',
        b'{"kind": "cniCacheV1", "containerId": "abc", "netns": 7, "result": {"ips": {"address": "10.244.0.7/24"}}}',
        b'{"kind": "cniCacheV1", "containerId": "abc", "netns": "\\u0000", "result": {"ips": [{"address": "::7"}]}}',
        b'{"kind": "cniCacheV1", "containerId": "abc", "result": {"ips": [7, {}, {"address": "x"}]}}',
        b'{"kind": "cniCacheV1", "containerId": "abc", "result": {"ip4": "10.244.0.7/24", "interfaces": "eth0"}}',
        b"[" * 60_000,
        b'"' + b"x" * 100_000 + b'"',
        bytes(range(256)),
    ],
)
def test_a_malformed_result_is_passed_over(disk: Disk, content: bytes) -> None:
    (disk.results / "mynet-abc-eth0").write_bytes(content)
    disk.cache("good")
    assert disk.survey() == {ADDRESS: "results/mynet-good-eth0"}


def test_a_file_too_long_is_passed_over_even_if_it_is_well_formed(disk: Disk) -> None:
    disk.cache(config="x" * (1 << 16))
    disk.lease("abc\r\neth0" + " " * (1 << 12))
    assert disk.survey() == {}


@pytest.mark.parametrize("name", ["10.244.0", "10.244.0.7.8", "10.244.0.07", "::1%lo", "0x7", "lock2", "10.244.0.7 "])
def test_a_lease_that_is_named_by_no_address_is_passed_over(disk: Disk, name: str) -> None:
    disk.lease(address=name)
    assert disk.survey() == {}


def test_links_and_special_files_are_passed_over(disk: Disk, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "10.244.0.8").write_text("abc\r\neth0")
    (disk.networks / "linked").symlink_to(outside)
    (disk.networks / "mynet/10.244.0.9").symlink_to(outside / "10.244.0.8")
    (disk.networks / "mynet/10.244.0.10").mkdir()
    os.mkfifo(disk.networks / "mynet/10.244.0.11")
    os.mkfifo(disk.results / "mynet-abc-eth0")
    disk.cache("abc", ifName="eth1").rename(outside / "result")
    (disk.results / "mynet-abc-eth2").symlink_to(outside / "result")
    assert disk.survey() == {}


def test_a_folder_that_is_a_link_itself_is_where_the_administrator_put_it(disk: Disk, tmp_path: Path) -> None:
    disk.cache()
    disk.results.rename(tmp_path / "elsewhere")
    disk.results.symlink_to(tmp_path / "elsewhere")
    assert disk.survey() == {ADDRESS: "results/mynet-abc-eth0"}


def test_a_container_releases_what_its_own_files_hold(disk: Disk, tmp_path: Path) -> None:
    links = tmp_path / "foreign"
    links.mkdir()
    for address, target in {
        "10.244.0.1": disk.cache("abc"),
        "10.244.0.2": disk.lease("abc\r\neth0", "10.244.0.2"),
        "10.244.0.3": disk.lease("abcd\r\neth0", "10.244.0.3"),
        "10.244.0.4": disk.cache("x-abc-y"),
        "10.244.0.5": disk.networks / "mynet/10.244.0.5",
        "10.244.0.6": disk.networks,
    }.items():
        (links / address).symlink_to(target)
    (links / "10.244.0.9").write_text("abc\r\neth0")
    assert foreign.released_by(str(links), "abc") == ["10.244.0.1", "10.244.0.2"]
    assert foreign.released_by(str(links), "x-abc-y") == ["10.244.0.4"]
    assert foreign.released_by(str(links), "") == []
    (links / "10.244.0.1").readlink().unlink()
    assert foreign.released_by(str(links), "abc") == ["10.244.0.2"]
