"""The peers file: host names within a bounded wait, and what is wrong in it."""

import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from cni_plugin.agent.errors import SourceError
from cni_plugin.agent.peers import Nodes
from cni_plugin.agent.static import FileSource, read
from tests.lab.waiting import wait_until


def nothing(names: Iterable[str], faults: list[str]) -> dict[str, list[str]]:
    return {name: [] for name in names}


def parsed(folder: Path, text: str) -> Nodes:
    path = folder / "peers.toml"
    path.write_text(text)
    return read(path, nothing)


def test_the_file_of_the_documents_is_read(tmp_path: Path) -> None:
    text = '[[node]]\nname = "kind-worker"\naddresses = ["172.18.0.3"]\npod_cidrs = ["10.244.1.0/24"]\n'
    nodes = parsed(tmp_path, text)
    assert [(peer.name, str(peer.addresses[0]), str(peer.pod_cidrs[0])) for peer in nodes.peers] == [
        ("kind-worker", "172.18.0.3", "10.244.1.0/24")
    ]
    assert nodes.faults == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[node]]\nname = "a"\npodcidrs = []\n', "unknown key 'podcidrs'; known are name, addresses, pod_cidrs"),
        ('[[node]]\nname = "a"\naddresses = "1.2.3.4"\n', "addresses is no list of strings"),
        ('[[node]]\nname = "a"\naddresses = [5]\n', "address 5 was passed over: it is no IP address"),
        ('[[node]]\nname = "a"\naddresses = ["10.0.0.256"]\n', "address '10.0.0.256' was passed over"),
        ('[[node]]\nname = "a"\naddresses = ["fe80::1"]\n', "fe80::1 was passed over: no other node can reach it"),
        ('[[node]]\nname = "a"\n[[node]]\nname = "a"\n', "node a stands in the list twice"),
        ('[[node]]\nname = "A b"\n', "node 'A b' was passed over: its name is no name of a node"),
        ('[[node]]\nname = "a"\npod_cidrs = ["10.0.0.1/24"]\n', "it is no subnet (host bits are set)"),
        ('more = 1\n[[node]]\nname = "a"\n', "unknown key 'more'"),
        ("node = [1]\n", "node 1 was passed over: it is no table"),
    ],
    ids=lambda value: value if " " in value and "\n" not in value else "",
)
def test_a_fault_is_told_and_the_rest_is_used(tmp_path: Path, text: str, told: str) -> None:
    nodes = parsed(tmp_path, text)
    assert any(told in each for each in nodes.faults), nodes.faults


@pytest.mark.parametrize("text", ["", "[[node]\n", "other = 1\n", "\x00"], ids=["empty", "half", "no node", "binary"])
def test_a_file_that_says_nothing_is_an_error_not_an_empty_list(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceError, match="the last list stays in force"):
        parsed(tmp_path, text)


def test_host_names_are_resolved_again_and_one_that_fails_keeps_its_addresses(tmp_path: Path) -> None:
    answers: dict[str, list[str]] = {"one.example": ["192.0.2.1"], "two.example": ["192.0.2.2", "2001:db8::2"]}

    def resolver(name: str) -> list[str]:
        if name not in answers:
            raise OSError(-2, "Name or service not known")
        return answers[name]

    path = tmp_path / "peers.toml"
    path.write_text(
        '[[node]]\nname = "one"\naddresses = ["one.example"]\n[[node]]\nname = "two"\naddresses = ["two.example"]\n'
    )
    source = FileSource(path, lambda: None, resolver=resolver)
    source.turn()
    assert source.latest is not None
    assert [[str(each) for each in peer.addresses] for peer in source.latest.peers] == [
        ["192.0.2.1"],
        ["192.0.2.2", "2001:db8::2"],
    ]
    answers["one.example"] = ["192.0.2.7"]
    del answers["two.example"]
    source.turn()
    assert [str(peer.addresses[0]) for peer in source.latest.peers] == ["192.0.2.7", "192.0.2.2"]
    assert source.latest.faults == (
        "host name two.example was not resolved: Name or service not known; it keeps 192.0.2.2, 2001:db8::2",
    )


def test_a_name_server_that_hangs_holds_up_nobody_for_long(tmp_path: Path) -> None:
    release = threading.Event()
    asked: list[str] = []

    def resolver(name: str) -> list[str]:
        asked.append(name)
        release.wait(20)
        return ["192.0.2.9"]

    path = tmp_path / "peers.toml"
    path.write_text('[[node]]\nname = "a"\naddresses = ["slow.example", "192.0.2.1"]\n')
    source = FileSource(path, lambda: None, resolve_seconds=0.1, resolver=resolver)
    try:
        source.turn()
        source.turn()
        assert source.latest is not None
        assert [str(each) for each in source.latest.peers[0].addresses] == ["192.0.2.1"]
        assert "no answer within 0.1 s; it has no address so far" in source.latest.faults[0]
        assert asked == ["slow.example"]
    finally:
        release.set()
    wait_until(lambda: source.turn() and source.latest and not source.latest.faults, 5, "the late answer")
    assert [str(each) for each in source.latest.peers[0].addresses] == ["192.0.2.9", "192.0.2.1"]
