"""The nft table and its elements: golden bytes by the layout of linux/netfilter/nf_tables.h, and the whole script."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cni_plugin import nftables
from cni_plugin.nftables import Element
from cni_plugin.rtnetlink import NLM_F_CREATE
from tests.cni_plugin.samples import fails

POD = bytes((10, 1, 0, 5))
ANYWHERE = bytes(4)
NODE = bytes((192, 0, 2, 1))
GOLDEN = Path(__file__).parent / "golden/table.nft"

WILDCARD, SPECIFIC, HAIRPIN = nftables.host_port_elements(
    POD, [("tcp", ANYWHERE, 8080, 80), ("udp", NODE, 53, 5353)], "pw123"
)


@pytest.mark.parametrize(
    ("element", "name", "key", "data", "text"),
    [
        # Each part of a concatenation begins at a multiple of four bytes; ports are big-endian.
        (WILDCARD, "hostport4", "06000000 1f900000", "0a010005 00500000", "tcp . 8080 : 10.1.0.5 . 80"),
        (
            SPECIFIC,
            "hostport4ip",
            "c0000201 11000000 00350000",
            "0a010005 14e90000",
            "192.0.2.1 . udp . 53 : 10.1.0.5 . 5353",
        ),
        (HAIRPIN, "hairpin4", "0a010005 0a010005", "", "10.1.0.5 . 10.1.0.5"),
    ],
    ids=["any address", "one address", "hairpin"],
)
def test_an_element_has_the_key_and_data_of_its_set(
    element: Element, name: str, key: str, data: str, text: str
) -> None:
    assert element.set == name
    assert element.key == bytes.fromhex(key)
    assert element.data == bytes.fromhex(data)
    assert (element.text, element.comment) == (text, "pw123")


@pytest.mark.parametrize(("protocol", "number"), [("tcp", 6), ("udp", 17), ("sctp", 132)])
def test_protocols_have_their_numbers(protocol: str, number: int) -> None:
    (element, _) = nftables.host_port_elements(POD, [(protocol, ANYWHERE, 1, 1)], "pw")
    assert element.key[0] == number


def test_an_attachment_without_host_ports_has_no_elements() -> None:
    assert nftables.host_port_elements(POD, [], "pw") == []


# Header; nfgenmsg: NFPROTO_INET, version, res_id; TABLE 1, SET 2, ELEMENTS 3 > LIST_ELEM 1 > KEY 1 > VALUE 1,
# DATA 2 > VALUE 1, USERDATA 6 (comment 0, length, text). Nested attributes bear 0x8000. The rest is native order.
@pytest.mark.skipif(sys.byteorder != "little", reason="golden bytes of little-endian machines")
@pytest.mark.parametrize(
    ("raw", "golden"),
    [
        pytest.param(
            nftables._element_message(12, NLM_F_CREATE, WILDCARD),
            "68000000 0c0a 0504 00000000 00000000  01 00 0000"
            "  0d00 0100 706f647769726531 00000000  0e00 0200 686f7374706f727434 00 0000"
            "  3400 0380  3000 0180  1000 0180 0c00 0100 06000000 1f900000"
            "  1000 0280 0c00 0100 0a010005 00500000  0c00 0600 00 06 707731323300",
            id="add to a map",
        ),
        pytest.param(
            nftables._element_message(12, NLM_F_CREATE, HAIRPIN),
            "58000000 0c0a 0504 00000000 00000000  01 00 0000"
            "  0d00 0100 706f647769726531 00000000  0d00 0200 6861697270696e34 00 000000"
            "  2400 0380  2000 0180  1000 0180 0c00 0100 0a010005 0a010005  0c00 0600 00 06 707731323300",
            id="add to a set",
        ),
        pytest.param(
            nftables._element_message(14, 0, SPECIFIC, with_data=False),
            "50000000 0e0a 0500 00000000 00000000  01 00 0000"
            "  0d00 0100 706f647769726531 00000000  1000 0200 686f7374706f7274346970 00"
            "  1c00 0380  1800 0180  1400 0180 1000 0100 c0000201 11000000 00350000",
            id="delete",
        ),
        pytest.param(
            nftables._element_message(13, 0, HAIRPIN, with_data=False),
            "4c000000 0d0a 0100 00000000 00000000  01 00 0000"
            "  0d00 0100 706f647769726531 00000000  0d00 0200 6861697270696e34 00 000000"
            "  1800 0380  1400 0180  1000 0180 0c00 0100 0a010005 0a010005",
            id="get, which asks for no acknowledgement",
        ),
    ],
)
def test_element_messages_are_byte_for_byte_what_the_headers_say(raw: bytes, golden: str) -> None:
    assert raw.hex(" ") == bytes.fromhex(golden).hex(" ")


def test_the_script_makes_the_whole_table() -> None:
    elements = [
        *(WILDCARD, SPECIFIC, HAIRPIN),
        *nftables.host_port_elements(bytes((10, 1, 0, 6)), [("sctp", ANYWHERE, 9, 9)], "pw456"),
    ]
    script = nftables.table_script(["10.244.0.0-10.244.255.255", "224.0.0.0-239.255.255.255"], elements)
    assert script == GOLDEN.read_text()


def test_the_script_without_elements_adds_none() -> None:
    script = nftables.table_script([], [])
    assert script.startswith("create table inet podwire1\n")
    assert "add element" not in script
    assert GOLDEN.read_text().startswith(script)


def test_every_hook_is_guarded_by_group_or_destination() -> None:
    rules = [line for line in GOLDEN.read_text().splitlines() if line.startswith("add rule")]
    assert len(rules) == 8
    for rule in rules:
        chain = rule.split()[4]
        # Nothing of ours may touch traffic that is neither our pods' nor for a hostPort.
        assert chain == "hostports" or "group" in rule or "fib daddr type local" in rule or "@hairpin4" in rule


def test_destinations_are_replaced_in_one_script() -> None:
    assert nftables.no_masquerade_script(["10.0.0.0-10.0.0.9", "10.1.0.1"]) == (
        "flush set inet podwire1 nomasq4\nadd element inet podwire1 nomasq4 { 10.0.0.0-10.0.0.9, 10.1.0.1 }\n"
    )
    assert nftables.no_masquerade_script([]) == "flush set inet podwire1 nomasq4\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a search path, whose nft does what a test says."""
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def put_nft(folder: Path, text: str) -> None:
    program = folder / "nft"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def test_nft_is_found_on_the_search_path_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nft(folder, "exit 0")
    assert nftables.find_nft(f"/nonexistent:{folder}:/usr/sbin") == f"{folder}/nft"
    (folder / "nft").chmod(0o644)
    assert nftables.find_nft(str(folder)) != f"{folder}/nft"
    (folder / "nft").chmod(0o755)
    monkeypatch.chdir(folder)
    # A relative entry of PATH is somebody's mistake, or an attack.
    for search in (".", "", "bin", "::"):
        assert nftables.find_nft(search) in (None, "/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/bin/nft")


def test_the_script_reaches_nft_whole(folder: Path) -> None:
    put_nft(folder, f'[ "$*" = "-f -" ] && exec /bin/cat > {folder}/seen')
    script = "add rule\n" * 50_000
    nftables.run_script(script, str(folder))
    assert (folder / "seen").read_text() == script


def test_a_refused_script_is_code_107_with_the_first_line_of_nft(folder: Path) -> None:
    put_nft(folder, "/bin/cat > /dev/null; echo 'Error: No such file'; echo '^^^^' >&2; exit 1")
    with fails(107, "nft refused the table inet podwire1: Error: No such file", "nft list table inet podwire1"):
        nftables.run_script("create table inet podwire1\n", str(folder))


def test_a_silent_refusal_is_told_as_such(folder: Path) -> None:
    put_nft(folder, "exit 1")
    with fails(107, "no message"):
        nftables.run_script("add rule\n" * 50_000, str(folder))


def test_nft_that_dies_by_a_signal_is_code_107(folder: Path) -> None:
    put_nft(folder, "kill -9 $$")
    with fails(107, "no message"):
        nftables.run_script("create table inet podwire1\n", str(folder))


RACE = "/bin/cat > /dev/null; echo '-:1:1-27: Error: File exists'; echo 'create table inet podwire1'; exit 1"


def test_a_table_that_another_call_made_meanwhile_is_success(folder: Path) -> None:
    put_nft(folder, RACE)
    nftables.run_script("create table inet podwire1\n", str(folder))


def test_another_script_that_meets_what_exists_is_refused(folder: Path) -> None:
    put_nft(folder, RACE)
    with fails(107, "File exists"):
        nftables.run_script("add element inet podwire1 nomasq4 { 10.0.0.1 }\n", str(folder))


def test_nft_gets_no_variables_of_the_caller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_DEBUG_OUTPUT", "/x")
    put_nft(folder, f"/usr/bin/env > {folder}/seen")
    nftables.run_script("", str(folder))
    names = {line.partition("=")[0] for line in (folder / "seen").read_text().splitlines()}
    assert names <= {"PATH", "PWD", "SHLVL", "_"}
