"""Names and records of attachments."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import attachment as module
from cni_plugin import rtnetlink
from cni_plugin.attachment import Attachment, HostPort, lease_id, link_index, parse
from cni_plugin.config import Call, valid_name
from tests.cni_plugin.samples import attachment, environment

CONTAINER_IDS = st.from_regex(r"\A[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,199}\Z")
IFNAMES = st.from_regex(r"\A[a-z0-9.@-]{1,15}\Z").filter(lambda name: name not in (".", ".."))
PORTS = st.builds(
    HostPort,
    st.sampled_from(["tcp", "udp", "sctp"]),
    st.binary(min_size=4, max_size=4),
    st.integers(1, 65535),
    st.integers(1, 65535),
)


def fields(one: Attachment) -> dict[str, Any]:
    ports = [(port.protocol, port.host, port.host_port, port.container_port) for port in one.host_ports]
    return {name: getattr(one, name) for name in Attachment.__slots__} | {"host_ports": ports}


def test_lease_ids_are_what_they_were_in_every_release() -> None:
    # DEL finds links of an earlier release by these names.
    assert lease_id("c1", "eth0") == "pw7dnj5mjg581uu"
    assert lease_id("c1", "eth0", 1) == "pw3i85cav2ufadc"


@given(CONTAINER_IDS, IFNAMES, st.integers(0, 3))
def test_a_lease_id_is_a_link_name_that_the_kernel_takes(container_id: str, ifname: str, salt: int) -> None:
    lease = lease_id(container_id, ifname, salt)
    assert len(lease) == 15
    assert lease.isalnum()
    assert lease.isascii()
    assert lease.startswith("pw")
    assert Call(environment(CNI_IFNAME=lease)).ifname == lease


def test_lease_ids_differ_by_container_interface_and_salt() -> None:
    ids = {lease_id(c, i, s) for c in ("c1", "c2", "c11") for i in ("eth0", "eth1", "1eth0") for s in range(4)}
    assert len(ids) == 36


def test_bytes_that_are_not_utf_8_have_a_lease_id_too() -> None:
    assert lease_id("c1", "eth\udcff") != lease_id("c1", "eth\udcfe")


def test_link_indices_are_apart_from_the_kernels_own_and_differ_by_attempt() -> None:
    found = [link_index(lease_id("c1", "eth0"), attempt) for attempt in range(8)]
    assert len(set(found)) == 8
    assert all(100_000 <= index < 100_000 + (1 << 20) for index in found)


@given(
    CONTAINER_IDS,
    IFNAMES,
    st.binary(min_size=4, max_size=4),
    st.lists(PORTS, max_size=4),
    st.text(),
    st.lists(st.sampled_from(["0.0.0.0/0", "10.0.0.0/8"])),
)
def test_a_record_reads_back_to_equal_fields(
    container_id: str, ifname: str, address: bytes, ports: list[HostPort], pod: str, routes: list[str]
) -> None:
    one = attachment(container_id, ifname, address=address, ports=ports, pod=pod, routes=routes)
    text = one.text()
    assert text.isascii()
    assert "\n" not in text
    again = parse(text.encode())
    assert fields(again) == fields(one)
    assert (again.lease, again.mac, again.text()) == (one.lease, one.mac, text)


def test_a_record_is_readable_by_other_tools() -> None:
    one = attachment(address=b"\x0a\1\0\5", ports=[HostPort("tcp", bytes(4), 80, 8080)])
    record = json.loads(one.text())
    del record["created"]
    assert record == {
        "schema": 1,
        "containerID": "c1",
        "ifname": "eth0",
        "network": "pods",
        "pod": "shop/cart",
        "address": "10.1.0.5",
        "hostPorts": [["tcp", "0.0.0.0", 80, 8080]],
        "hostLink": lease_id("c1", "eth0"),
        "group": 0x7077,
        "mtu": 1500,
        "routes": ["0.0.0.0/0"],
        "netns": "/run/netns/c1",
        "netnsCookie": 77,
    }


@pytest.mark.parametrize(
    "change",
    [{"schema": 2}, {"schema": None}, {"address": "10.1.0"}, {"hostPorts": [["tcp"]]}, {"hostPorts": 5}],
    ids=str,
)
def test_a_record_that_it_does_not_know_is_a_value_error(change: dict[str, Any]) -> None:
    record = json.loads(attachment(address=b"\x0a\1\0\5").text()) | change
    with pytest.raises(ValueError, match=r"."):
        parse(json.dumps(record).encode())


@pytest.mark.parametrize("key", sorted(json.loads(attachment(address=b"\x0a\1\0\5").text())))
def test_a_record_without_one_of_its_fields_is_a_value_error(key: str) -> None:
    record = json.loads(attachment(address=b"\x0a\1\0\5").text())
    del record[key]
    with pytest.raises(ValueError, match=f"not a record: KeyError '{key}'"):
        parse(json.dumps(record).encode())


def test_the_alias_names_the_owner_before_the_pod() -> None:
    assert attachment().alias == "podwire c1 eth0 shop/cart"
    assert attachment(pod="").alias == "podwire c1 eth0"


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param("n/" + "p" * 500, id="long"),
        pytest.param("n/" + "é" * 300, id="wide"),
        pytest.param("n/\udcff", id="not UTF-8"),
        pytest.param("", id="unknown"),
    ],
)
def test_the_longest_owner_fits_an_alias_whatever_the_pod_is_called(pod: str) -> None:
    container_id, ifname = "c" * 200, "e" * 15
    assert valid_name(container_id)
    message = rtnetlink.describe_link(1, attachment(container_id, ifname, pod=pod).alias, ())
    alias = rtnetlink.attributes(message, 16 + 16)[rtnetlink.IFLA_IFALIAS]
    assert len(alias) <= 255
    assert alias.startswith(module.alias_of(container_id, ifname).encode())


def test_the_mac_tells_the_address() -> None:
    assert attachment(address=b"\x0a\1\0\5").mac.hex(":") == "0a:58:0a:01:00:05"
    # Unicast, locally administered.
    for mac in (attachment(address=bytes(4)).mac, module.HOST_MAC):
        assert mac[0] & 3 == 2


def test_the_elements_of_an_attachment_bear_its_lease_id() -> None:
    one = attachment(address=b"\x0a\1\0\5", ports=[HostPort("tcp", bytes(4), 80, 8080)])
    assert [(each.set, each.text, each.comment) for each in one.elements()] == [
        ("hostport4", "tcp . 80 : 10.1.0.5 . 8080", one.lease),
        ("hairpin4", "10.1.0.5 . 10.1.0.5", one.lease),
    ]
    assert attachment(address=b"\x0a\1\0\5").elements() == []
