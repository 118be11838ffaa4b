"""DEL of an attachment whose record cannot be read, in a namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cni_plugin import netns, salvage
from cni_plugin.attachment import HostPort
from cni_plugin.call import Call
from cni_plugin.claims import Ledger
from cni_plugin.journal import Journal
from tests.cni_plugin.children import ended, fork
from tests.cni_plugin.holdings import NOTHING, held, pool, reserve
from tests.cni_plugin.samples import environment
from tests.lab.netns import Namespace

pytestmark = pytest.mark.root

BOTH = (pool(), pool("fd00::/64"))
PORTS = [HostPort("tcp", bytes(4), 80, 80), HostPort("tcp", bytes(16), 80, 80)]


@pytest.fixture(scope="module")
def node() -> Iterator[Namespace]:
    """Where the elements of a table are looked for."""
    with Namespace() as node:
        yield node


def released(ledger: Ledger, node: Namespace, container_id: str = "c1") -> list[str]:
    """The notes of a salvage that runs in the node's namespace; its failure fails the test."""
    notes = Path(ledger.state_dir, "notes")

    def work() -> None:
        netns.enter(netns.open_netns(f"/proc/{node.pid}/ns/net"))
        journal = Journal()
        call = Call(environment("DEL", CNI_CONTAINERID=container_id))
        salvage.release(ledger, call, "record cannot be read", journal)
        notes.write_text("\n".join(journal.notes))

    assert ended(fork(work)) == 0
    return notes.read_text().splitlines()


def truncate(record: Path) -> None:
    record.write_bytes(b"")


def tear(record: Path) -> None:
    record.write_bytes(record.read_bytes()[:100])


def replace(record: Path) -> None:
    record.unlink()
    record.write_text("rubbish")


def make_folder(record: Path) -> None:
    record.unlink()
    record.mkdir()


def make_link(record: Path) -> None:
    record.unlink()
    record.symlink_to("/etc/passwd")


@pytest.mark.parametrize("spoil", [truncate, tear, replace, make_folder, make_link])
@pytest.mark.parametrize("state", ["pending", "attachments", "deleting"])
def test_what_a_broken_record_claims_is_given_back_and_nothing_else(
    ledger: Ledger, node: Namespace, spoil: Callable[[Path], None], state: str
) -> None:
    other = reserve(ledger, "c2", *BOTH, ports=[HostPort("udp", bytes(16), 53, 53)])
    before = held(ledger)
    mine = reserve(ledger, "c1", *BOTH, ports=PORTS)
    if state != "pending":
        os.rename(f"{ledger.path}/pending/{mine.lease}", f"{ledger.path}/{state}/{mine.lease}")
    spoil(Path(ledger.path, state, mine.lease))
    (note,) = released(ledger, node)
    what, _, names = note.partition("; released all the same: ")
    assert what == "record cannot be read"
    assert set(names.split(", ")) == {"10.1.0.2", "fd00::2", "tcp-80-0.0.0.0", "tcp-80-::"}
    assert held(ledger) == before
    assert ledger.missing_claims(other) == []
    assert sorted(os.listdir(f"{ledger.path}/cooling")) == ["10.1.0.2", "fd00::2"]
    assert ledger.find("c1", "eth0") is None


def test_claims_of_nobody_known_stay(ledger: Ledger, node: Namespace) -> None:
    Path(f"{ledger.path}/addresses/10.1.0.9").write_text("rubbish")
    truncate(Path(ledger.path, "pending", reserve(ledger, "c3").lease))
    assert released(ledger, node) == ["record cannot be read; released all the same: nothing was claimed"]
    assert held(ledger)["addresses"] == ["10.1.0.1", "10.1.0.9"]


def test_a_second_salvage_finds_nothing(ledger: Ledger, node: Namespace) -> None:
    mine = reserve(ledger, "c1", *BOTH, ports=PORTS)
    truncate(Path(ledger.path, "pending", mine.lease))
    released(ledger, node)
    assert held(ledger) == NOTHING
    assert released(ledger, node) == ["record cannot be read; released all the same: nothing was claimed"]
