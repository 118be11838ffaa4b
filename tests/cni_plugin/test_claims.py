"""Who holds which address and hostPort: on a folder of this test, with a made-up namespace cookie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cni_plugin import claims, ipam
from cni_plugin.attachment import HostPort
from cni_plugin.claims import Ledger
from tests.cni_plugin.children import ended, fork
from tests.cni_plugin.holdings import ANYWHERE, NODE, NOTHING, held, last, pool, reserve
from tests.cni_plugin.samples import COOKIE, attachment, fails

ANYWHERE6, NODE6 = bytes(16), ipam.parse_address("2001:db8::1")
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_the_folder_is_made_for_its_owner_alone(ledger: Ledger) -> None:
    assert ledger.path.endswith(f"/run/state/{BOOT}-{COOKIE}")
    for path in (ledger.state_dir, ledger.path, f"{ledger.path}/addresses"):
        assert os.stat(path).st_mode & 0o777 == 0o700
    assert os.stat(ledger.lock_path).st_mode & 0o777 == 0o600
    assert held(ledger) == NOTHING


def test_a_node_without_claims_is_told_without_making_a_folder(tmp_path: Path) -> None:
    assert not claims.exists(str(tmp_path), COOKIE)
    assert os.listdir(tmp_path) == []
    Ledger(str(tmp_path), COOKIE)
    assert claims.exists(str(tmp_path), COOKIE)
    assert not claims.exists(str(tmp_path), COOKIE + 1)


def test_claims_are_hard_links_to_the_record_through_its_whole_life(ledger: Ledger) -> None:
    made = reserve(ledger, "c1", ports=[HostPort("tcp", ANYWHERE, 80, 8080), HostPort("udp", NODE, 53, 53)])
    assert made.texts == ["10.1.0.1"]
    paths = ["addresses/10.1.0.1", "ports/tcp-80-0.0.0.0", "ports/udp-53-192.0.2.1"]

    def assert_recorded_in(state: str) -> None:
        record = os.stat(f"{ledger.path}/{state}/{made.lease}")
        assert record.st_mode & 0o777 == 0o600
        assert Path(f"{ledger.path}/{state}/{made.lease}").read_text() == made.text()
        assert [os.stat(f"{ledger.path}/{path}").st_ino for path in paths] == [record.st_ino] * 3
        found = ledger.find("c1", "eth0")
        assert found is not None
        assert (found[0], found[1].text()) == (state, made.text())
        assert sum(map(len, held(ledger).values())) == 4
        assert ledger.missing_claims(made) == []

    assert_recorded_in("pending")
    ledger.complete(made)
    assert_recorded_in("attachments")
    ledger.begin_delete(made, "attachments")
    assert_recorded_in("deleting")
    ledger.begin_delete(made, "deleting")
    assert_recorded_in("deleting")
    ledger.release(made)
    assert held(ledger) == NOTHING
    assert ledger.find("c1", "eth0") is None
    assert ledger.missing_claims(made) == paths


@pytest.mark.parametrize("state", claims.STATES)
def test_a_release_finds_the_record_in_every_state(ledger: Ledger, state: str) -> None:
    made = reserve(ledger, "c1", ports=[HostPort("tcp", ANYWHERE, 80, 80)])
    if state != "pending":
        os.rename(f"{ledger.path}/pending/{made.lease}", f"{ledger.path}/{state}/{made.lease}")
    ledger.release(made)
    ledger.release(made)
    assert held(ledger) == NOTHING


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        pytest.param(HostPort("tcp", ANYWHERE, 80, 1), HostPort("tcp", ANYWHERE, 80, 2), True, id="both anywhere"),
        pytest.param(HostPort("tcp", ANYWHERE, 80, 1), HostPort("tcp", NODE, 80, 2), True, id="anywhere, then one"),
        pytest.param(HostPort("tcp", NODE, 80, 1), HostPort("tcp", ANYWHERE, 80, 2), True, id="one, then anywhere"),
        pytest.param(HostPort("tcp", NODE, 80, 1), HostPort("tcp", NODE, 80, 2), True, id="same address"),
        pytest.param(HostPort("tcp", NODE, 80, 1), HostPort("tcp", b"\n\0\0\1", 80, 2), False, id="other address"),
        pytest.param(HostPort("tcp", ANYWHERE, 80, 1), HostPort("udp", ANYWHERE, 80, 2), False, id="other protocol"),
        pytest.param(HostPort("tcp", ANYWHERE, 80, 1), HostPort("tcp", ANYWHERE, 8080, 2), False, id="longer port"),
        pytest.param(HostPort("tcp", ANYWHERE, 8080, 1), HostPort("tcp", ANYWHERE, 80, 2), False, id="shorter port"),
        pytest.param(HostPort("tcp", ANYWHERE, 80, 1), HostPort("tcp", ANYWHERE6, 80, 2), False, id="other family"),
        pytest.param(HostPort("tcp", ANYWHERE6, 80, 1), HostPort("tcp", ANYWHERE, 80, 2), False, id="IPv6, then IPv4"),
        pytest.param(HostPort("tcp", NODE6, 80, 1), HostPort("tcp", ANYWHERE, 80, 2), False, id="one of IPv6 beside"),
        pytest.param(HostPort("tcp", NODE6, 80, 1), HostPort("tcp", ANYWHERE6, 80, 2), True, id="one, then any"),
        pytest.param(HostPort("tcp", ANYWHERE6, 80, 1), HostPort("tcp", NODE6, 80, 2), True, id="any, then one"),
    ],
)
def test_a_host_port_has_one_holder(ledger: Ledger, first: HostPort, second: HostPort, clash: bool) -> None:
    reserve(ledger, "c1", ports=[first])
    before = held(ledger)
    if not clash:
        reserve(ledger, "c2", ports=[second])
        return
    with fails(109, f"hostPort {second} is held by shop/cart (10.1.0.1)"):
        reserve(ledger, "c2", ports=[HostPort("sctp", ANYWHERE, 9, 9), second])
    assert held(ledger) == before


def test_a_held_port_without_a_readable_record_is_held_all_the_same(ledger: Ledger) -> None:
    Path(f"{ledger.path}/ports/tcp-80-0.0.0.0").write_text("rubbish")
    with fails(109, "an attachment without a readable record"):
        reserve(ledger, "c1", ports=[HostPort("tcp", ANYWHERE, 80, 80)])


def test_a_stale_release_keeps_its_hands_off_another_owners_claims(ledger: Ledger) -> None:
    ports = [HostPort("tcp", ANYWHERE, 80, 80)]
    tight = pool("10.1.0.1/32")
    stale = reserve(ledger, "old", tight, ports=ports)
    ledger.release(stale)
    fresh = reserve(ledger, "new", tight, ports=ports, cooldown=0)
    assert fresh.texts == stale.texts
    before = held(ledger)
    ledger.release(stale)
    assert held(ledger) == before
    assert ledger.missing_claims(fresh) == []
    assert ledger.missing_claims(stale) == ["addresses/10.1.0.1", "ports/tcp-80-0.0.0.0"]
    assert os.listdir(f"{ledger.path}/cooling") == []


def test_one_container_may_have_several_interfaces(ledger: Ledger) -> None:
    for ifname in ("eth0", "net1"):
        reserve(ledger, "c1", ifname=ifname)
    found = ledger.find("c1", "net1")
    assert found is not None
    assert last(found[1]) == 2
    ledger.release(found[1])
    assert ledger.find("c1", "net1") is None
    assert ledger.find("c1", "eth0") is not None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "it is empty", id="empty"),
        pytest.param(b"{", "", id="torn"),
        pytest.param(b"[]", "not a record", id="list"),
        pytest.param(b"{}", "not a record: KeyError 'schema'", id="no schema"),
        pytest.param(b'{"schema": 3}', "schema 3, this version reads 2", id="newer schema"),
        pytest.param(b'{"schema": 2}', "not a record: KeyError", id="fields missing"),
        pytest.param(b"\xff\xfe", "not UTF-8", id="binary"),
        pytest.param(None, "Is a directory", id="folder"),
    ],
)
def test_an_unreadable_record_is_code_104_to_its_own_call_and_passed_over_by_others(
    ledger: Ledger, content: bytes | None, words: str
) -> None:
    good = reserve(ledger, "good")
    path = Path(ledger.path, "attachments", attachment("bad").lease)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    Path(ledger.path, "attachments", ".draft").write_bytes(b"")
    with fails(104, str(path) if content is not None else ledger.path, words):
        ledger.find("bad", "eth0")
    assert [one.lease for one in ledger.records(*claims.STATES)] == [good.lease]


def test_records_of_other_boots_go_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    other = "00000000-1111-2222-3333-444444444444"
    precious = tmp_path / "elsewhere"
    state = tmp_path / "state"
    for folder in (precious, state / f"{other}-1/attachments", state / f"{other}-22/addresses"):
        folder.mkdir(parents=True)
    for file in (precious / "file", state / f"{other}-1/attachments/pw1", state / f"{other}-22/lock"):
        file.write_text("x")
    (state / f"{other}-1/addresses").symlink_to(precious)
    (state / f"{other}-333").symlink_to(precious)
    kept = [f"{BOOT}-99999", other, f"{other}-", f"{other}-abc", f"{other}x1", "data", "0" * 40, f"x{other}-1"]
    for name in kept:
        (state / name).mkdir()
    ledger = Ledger(str(state), COOKIE)
    assert sorted(os.listdir(state)) == sorted([*kept, f"{BOOT}-{COOKIE}", "lock"])
    assert (precious / "file").read_text() == "x"
    assert held(ledger) == NOTHING


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_state_folder_that_cannot_be_is_code_104(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with fails(104, f"state folder {tmp_path}/{place}", "key stateDir"):
        Ledger(f"{tmp_path}/{place}", COOKIE)


def test_many_processes_get_distinct_addresses(ledger: Ledger) -> None:
    range_set = pool("10.1.0.0/25")

    def work(number: int) -> None:
        own = Ledger(ledger.state_dir, COOKIE)
        for turn in range(8):
            made = reserve(own, f"p{number}-{turn}", range_set, cooldown=0)
            own.complete(made)
            if turn % 4 == 3:
                own.release(made)

    children = [fork(lambda number=number: work(number)) for number in range(10)]  # type: ignore[misc]
    assert [ended(child) for child in children] == [0] * 10
    records = list(ledger.records(*claims.STATES))
    assert len(records) == len({one.texts[0] for one in records}) == 60
    assert all(ledger.missing_claims(one) == [] for one in records)
    assert len(held(ledger)["addresses"]) == 60
    assert last(reserve(ledger, "x", range_set)) not in {last(one) for one in records}
