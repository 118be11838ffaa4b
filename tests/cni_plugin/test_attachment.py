"""Names and records of attachments."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import attachment as module
from cni_plugin import netlink, rtnetlink
from cni_plugin.attachment import Address, Attachment, HostPort, derived_mac, lease_id, link_index, parse
from cni_plugin.call import Call, valid_name
from cni_plugin.ipam import parse_address
from tests.cni_plugin.samples import ADDRESSES, attachment, environment

CONTAINER_IDS = st.from_regex(r"\A[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,199}\Z")
IFNAMES = st.from_regex(r"\A[a-z0-9.@-]{1,15}\Z").filter(lambda name: name not in (".", ".."))
TEXTS = ADDRESSES.map(str)
PORTS = st.builds(
    HostPort,
    st.sampled_from(["tcp", "udp", "sctp"]),
    TEXTS.map(parse_address),
    st.integers(1, 65535),
    st.integers(1, 65535),
)
ROUTES = st.fixed_dictionaries(
    {"dst": st.sampled_from(["0.0.0.0/0", "fd00::/8"]), "gw": TEXTS},
    optional=dict.fromkeys(("mtu", "advmss", "priority", "table", "scope"), st.integers(1, 2**32 - 1)),
)


def fields(one: Attachment) -> dict[str, Any]:
    """Everything that an attachment holds, comparable."""
    ports = [(port.protocol, port.host, port.host_port, port.container_port) for port in one.host_ports]
    addresses = [(each.packed, each.gateway) for each in one.addresses]
    return {name: getattr(one, name) for name in Attachment.__slots__} | {"host_ports": ports, "addresses": addresses}


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
    st.lists(st.tuples(TEXTS, TEXTS), max_size=4),
    st.lists(PORTS, max_size=4),
    st.text(),
    st.lists(ROUTES, max_size=3),
    st.none() | st.tuples(st.text(), st.integers(1, 10**6)),
    st.integers(0, 2**31),
)
def test_a_record_reads_back_to_equal_fields(
    container_id: str,
    ifname: str,
    addresses: list[tuple[str, str]],
    ports: list[HostPort],
    pod: str,
    routes: list[dict[str, Any]],
    sticky: tuple[str, int] | None,
    table: int,
) -> None:
    one = attachment(container_id, ifname, ports=ports, pod=pod, routes=routes, sticky=sticky, table=table)
    one.addresses = [Address(parse_address(text), parse_address(gateway)) for text, gateway in addresses]
    one.mac = b"\x0a\x58\1\2\3\4"
    text = one.text()
    assert text.isascii()
    assert "\n" not in text
    again = parse(text.encode())
    assert fields(again) == fields(one)
    assert (again.lease, again.texts, again.text()) == (one.lease, one.texts, text)


FULL = attachment(
    "c1", "eth0", "10.1.0.5", "fd00::5", ports=[HostPort("tcp", bytes(4), 80, 8080)], sticky=("pods/eth0/uid/u", 300)
)


def test_a_record_is_readable_by_other_tools() -> None:
    record = json.loads(FULL.text())
    assert record.pop("created") == FULL.created
    assert record == {
        "schema": 2,
        "containerID": "c1",
        "ifname": "eth0",
        "network": "pods",
        "pod": "shop/cart",
        "addresses": [["10.1.0.5", "169.254.1.1"], ["fd00::5", "fe80::1"]],
        "hostPorts": [["tcp", "0.0.0.0", 80, 8080]],
        "hostLink": lease_id("c1", "eth0"),
        "group": 0x7077,
        "mtu": 1500,
        "mac": "0a:58:0a:01:00:05",
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
        "table": 0,
        "sticky": ["pods/eth0/uid/u", 300],
        "netns": "/run/netns/c1",
        "netnsCookie": 77,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 1},
        {"schema": 3},
        {"schema": None},
        {"addresses": ["10.1.0.5"]},
        {"addresses": [["10.1.0", "169.254.1.1"]]},
        {"addresses": [["10.1.0.5"]]},
        {"addresses": {}},
        {"hostPorts": [["tcp"]]},
        {"hostPorts": [["icmp", "0.0.0.0", 1, 1]]},
        {"hostPorts": [["tcp", "0.0.0.0", 65536, 1]]},
        {"hostPorts": 5},
        {"routes": "none"},
        {"mac": "rubbish"},
        {"mac": 5},
        {"table": "main"},
        {"sticky": 5},
        {"sticky": ["key"]},
        {"sticky": ["key", "soon"]},
        {"created": "now"},
        {"netnsCookie": None},
    ],
    ids=str,
)
def test_a_record_that_it_does_not_know_is_a_value_error(change: dict[str, Any]) -> None:
    parse(FULL.text().encode())
    with pytest.raises(ValueError, match=r"."):
        parse(json.dumps(json.loads(FULL.text()) | change).encode())


@pytest.mark.parametrize("key", sorted(json.loads(FULL.text())))
def test_a_record_without_one_of_its_fields_is_a_value_error(key: str) -> None:
    record = json.loads(FULL.text())
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
    alias = netlink.attributes(message, 16 + 16)[rtnetlink.IFLA_IFALIAS]
    assert len(alias) <= 255
    assert alias.startswith(module.alias_of(container_id, ifname).encode())


def test_the_mac_tells_the_address() -> None:
    assert derived_mac(b"\x0a\1\0\5").hex(":") == "0a:58:0a:01:00:05"


@given(TEXTS)
def test_macs_are_unicast_and_locally_administered(text: str) -> None:
    mac = derived_mac(parse_address(text))
    assert len(mac) == 6
    assert mac[0] & 3 == module.HOST_MAC[0] & 3 == 2


def test_macs_of_ipv6_differ() -> None:
    assert len({derived_mac(parse_address(f"fd00::{number:x}")) for number in range(1, 500)}) == 499


def test_an_address_has_the_gateway_of_its_family_unless_told_another() -> None:
    assert str(Address(parse_address("10.1.0.5"))) == "10.1.0.5"
    assert Address(parse_address("10.1.0.5")).gateway == parse_address("169.254.1.1")
    assert Address(parse_address("fd00::5")).gateway == parse_address("fe80::1")
    assert Address(parse_address("fd00::5"), parse_address("fd00::1")).gateway == parse_address("fd00::1")
    assert [Address(parse_address(text)).prefix for text in ("10.1.0.5", "fd00::5")] == [32, 128]


def test_the_elements_of_an_attachment_bear_its_lease_id_and_lead_to_the_address_of_their_family() -> None:
    ports = [HostPort("tcp", bytes(16), 80, 8080), HostPort("tcp", bytes(4), 80, 8080)]
    one = attachment("c1", "eth0", "10.1.0.5", "10.2.0.5", "fd00::5", ports=ports)
    assert [(each.set, each.text, each.comment) for each in one.elements()] == [
        ("hostport4", "tcp . 80 : 10.1.0.5 . 8080", one.lease),
        ("hairpin4", "10.1.0.5 . 10.1.0.5", one.lease),
        ("hostport6", "tcp . 80 : fd00::5 . 8080", one.lease),
        ("hairpin6", "fd00::5 . fd00::5", one.lease),
    ]
    assert attachment("c1", "eth0", "10.1.0.5").elements() == []


def test_ports_of_a_family_without_an_address_have_no_element() -> None:
    one = attachment("c1", "eth0", "fd00::5", ports=[HostPort("tcp", bytes(4), 80, 80)])
    assert one.elements() == []


def test_behind_another_plugin_the_addresses_are_not_its_own() -> None:
    ports = [HostPort("udp", bytes(4), 53, 53)]
    assert attachment("c1", "eth0", "10.1.0.5", ports=ports).own_addresses() == ["10.1.0.5"]
    behind = attachment("c1", "eth0", "10.1.0.5", ports=ports, host_link="")
    assert (behind.own_addresses(), behind.texts) == ([], ["10.1.0.5"])
    assert [each.set for each in behind.elements()] == ["hostport4", "hairpin4"]
