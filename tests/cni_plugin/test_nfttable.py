"""The table as text, and what becomes of it when nft(8) is fed with it, refuses it, or is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cni_plugin import nftables, nfttable
from tests.cni_plugin.samples import fails

POD, POD6 = bytes((10, 1, 0, 5)), bytes.fromhex("fd00000000000000000000000000000a")
ANYWHERE, ANYWHERE6 = bytes(4), bytes(16)
NODE, NODE6 = bytes((192, 0, 2, 1)), bytes.fromhex("20010db8000000000000000000000001")
GOLDEN = Path(__file__).parent / "golden/table.nft"


ELEMENTS = [
    *nftables.host_port_elements(POD, [("tcp", ANYWHERE, 8080, 80), ("udp", NODE, 53, 5353)], "pw123"),
    *nftables.host_port_elements(POD6, [("tcp", ANYWHERE6, 8080, 80), ("udp", NODE6, 53, 5353)], "pw123"),
    *nftables.host_port_elements(bytes((10, 1, 0, 6)), [("sctp", ANYWHERE, 9, 9)], "pw456"),
]
DESTINATIONS = ["10.244.0.0-10.244.255.255", "224.0.0.0-239.255.255.255", "fd00::-fdff::ffff", "ff00::1"]


def test_the_script_makes_the_whole_table() -> None:
    assert nfttable.table_script(DESTINATIONS, ELEMENTS) == GOLDEN.read_text()


def test_the_script_without_elements_adds_none() -> None:
    script = nfttable.table_script([], [])
    assert script.startswith("create table inet podwire1\n")
    assert "add element" not in script
    assert GOLDEN.read_text().startswith(script)


def test_every_set_of_an_element_is_made_by_the_script_and_filled() -> None:
    lines = GOLDEN.read_text().splitlines()
    made = {line.split()[4] for line in lines if line.startswith(("add map", "add set"))}
    filled = {line.split()[4] for line in lines if line.startswith("add element")}
    assert {each.set for each in ELEMENTS} | {"nomasq4", "nomasq6"} == made == filled


def test_every_rule_is_guarded_by_group_or_destination() -> None:
    rules = [line.split(maxsplit=5)[4:] for line in GOLDEN.read_text().splitlines() if line.startswith("add rule")]
    assert len(rules) == 15
    # The first rule of this chain lets everything by that does not come from a pod.
    assert next(words for chain, words in rules if chain == "guard") == "iifgroup != { 28791, 28792 } accept"
    for chain, words in rules:
        # Nothing of ours may touch traffic that is neither our pods' nor for a hostPort.
        guarded = "group" in words or "fib daddr type local" in words or "@hairpin" in words
        assert chain in ("hostports", "guard") or guarded


def test_every_rule_of_one_family_has_its_twin() -> None:
    rules = [line for line in GOLDEN.read_text().splitlines() if line.startswith("add rule")]
    v4 = [rule for rule in rules if "ip daddr" in rule or "ip saddr" in rule]
    v6 = [rule.replace("ip6", "ip") for rule in rules if "ip6 daddr" in rule or "@hairpin6" in rule]
    names = str.maketrans("6", "4")
    # The node's 127.0.0.0/8 has no twin: [::1]:hostPort cannot be translated.
    assert {rule for rule in v4 if "127.0.0.0/8" not in rule} == {rule.translate(names) for rule in v6}


def test_destinations_are_replaced_in_one_script() -> None:
    flush = "flush set inet podwire1 nomasq4\nflush set inet podwire1 nomasq6\n"
    assert nfttable.no_masquerade_script(["10.0.0.0-10.0.0.9", "fd00::1", "10.1.0.1"]) == (
        f"{flush}add element inet podwire1 nomasq4 {{ 10.0.0.0-10.0.0.9, 10.1.0.1 }}\n"
        "add element inet podwire1 nomasq6 { fd00::1 }\n"
    )
    assert nfttable.no_masquerade_script([]) == flush


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
    assert nfttable.find_nft(f"/nonexistent:{folder}:/usr/sbin") == f"{folder}/nft"
    (folder / "nft").chmod(0o644)
    assert nfttable.find_nft(str(folder)) != f"{folder}/nft"
    (folder / "nft").chmod(0o755)
    monkeypatch.chdir(folder)
    # A relative entry of PATH is somebody's mistake, or an attack.
    for search in (".", "", "bin", "::"):
        assert nfttable.find_nft(search) in (None, "/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/bin/nft")


def test_the_script_reaches_nft_whole(folder: Path) -> None:
    put_nft(folder, f'[ "$*" = "-f -" ] && exec /bin/cat > {folder}/seen')
    script = "add rule\n" * 50_000
    nfttable.run_script(script, str(folder))
    assert (folder / "seen").read_text() == script


def test_a_refused_script_is_code_107_with_the_first_line_of_nft(folder: Path) -> None:
    put_nft(folder, "/bin/cat > /dev/null; echo 'Error: No such file'; echo '^^^^' >&2; exit 1")
    with fails(107, "nft refused the table inet podwire1: Error: No such file", "nft list table inet podwire1"):
        nfttable.run_script("create table inet podwire1\n", str(folder))


def test_a_silent_refusal_is_told_as_such(folder: Path) -> None:
    put_nft(folder, "exit 1")
    with fails(107, "no message"):
        nfttable.run_script("add rule\n" * 50_000, str(folder))


def test_nft_that_dies_by_a_signal_is_code_107(folder: Path) -> None:
    put_nft(folder, "kill -9 $$")
    with fails(107, "no message"):
        nfttable.run_script("create table inet podwire1\n", str(folder))


RACE = "/bin/cat > /dev/null; echo '-:1:1-27: Error: File exists'; echo 'create table inet podwire1'; exit 1"


def test_a_table_that_another_call_made_meanwhile_is_success(folder: Path) -> None:
    put_nft(folder, RACE)
    nfttable.run_script("create table inet podwire1\n", str(folder))


def test_another_script_that_meets_what_exists_is_refused(folder: Path) -> None:
    put_nft(folder, RACE)
    with fails(107, "File exists"):
        nfttable.run_script("add element inet podwire1 nomasq4 { 10.0.0.1 }\n", str(folder))


def test_nft_gets_no_variables_of_the_caller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_DEBUG_OUTPUT", "/x")
    put_nft(folder, f"/usr/bin/env > {folder}/seen")
    nfttable.run_script("", str(folder))
    names = {line.partition("=")[0] for line in (folder / "seen").read_text().splitlines()}
    assert names <= {"PATH", "PWD", "SHLVL", "_"}
