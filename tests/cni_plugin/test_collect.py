"""GC: which attachments may go by either kind of list, and what is no list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import collect, netns, rtnetlink
from cni_plugin.attachment import Attachment
from cni_plugin.claims import Ledger
from cni_plugin.journal import Journal
from tests.cni_plugin.children import ended, fork
from tests.cni_plugin.conftest import Clock
from tests.cni_plugin.holdings import reserve
from tests.cni_plugin.samples import configuration, fails, network

BAD_NAME = {"containerID": "a", "ifname": 5}
SPECIFIED, OLDER, SANDBOXES = "cni.dev/valid-attachments", "cni.dev/attachments", "podwire.dev/gc"


@pytest.fixture
def host() -> Iterator[rtnetlink.Socket]:
    socket = rtnetlink.Socket()
    yield socket
    socket.close()


@pytest.fixture
def condemned(ledger: Ledger, host: rtnetlink.Socket) -> Any:
    """Whether a GC with these lists would remove an attachment."""

    def condemned(seen: Attachment, **lists: Any) -> bool:
        return collect._Judge(configuration(**lists), ledger, host).condemns(seen)

    return condemned


GARBLED: list[Any] = [
    {},
    "a",
    ["a"],
    [None],
    [{"ifname": "e"}],
    [{"containerID": 5}],
    [{"containerID": "a", "ifname": 5}],
]


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        pytest.param({}, [f"{SPECIFIED} is missing, and so is {SANDBOXES}: nothing was removed"], id="none"),
        *[pytest.param({key: value}, [key], id=f"{key} {value!r}") for key in (SPECIFIED, OLDER) for value in GARBLED],
        pytest.param({SPECIFIED: [], OLDER: 5}, [OLDER], id="one right, one wrong"),
        *[
            pytest.param({SANDBOXES: value}, [words], id=f"{value!r}")
            for value, words in (
                ([], "must be of type dict"),
                ({}, "containers is no list of container ids"),
                ({"containers": "a", "asOf": 1}, "containers is no list of container ids"),
                ({"containers": [5], "asOf": 1}, "containers is no list of container ids"),
                ({"containers": []}, "asOf null is no time in seconds since boot"),
                ({"containers": [], "asOf": "1"}, 'asOf "1" is no time'),
                ({"containers": [], "asOf": True}, "asOf true is no time"),
                ({"containers": [], "asOf": 0}, "asOf 0 is no time"),
                ({"containers": [], "asOf": -1}, "asOf -1 is no time"),
                ({"containers": [], "asOf": 1e12}, "asOf 1000000000000.0 is no time"),
            )
        ],
        pytest.param({SANDBOXES: {}, SPECIFIED: 5}, [SANDBOXES, SPECIFIED], id="both wrong"),
    ],
)
def test_what_is_no_list_is_code_7(host: rtnetlink.Socket, lists: dict[str, Any], words: list[str]) -> None:
    with fails(7, *words, "see docs/configuration.md"):
        collect._Judge(configuration(**lists), None, host)


def test_a_node_without_claims_stays_without_a_folder(tmp_path: Path) -> None:
    def work(**lists: Any) -> None:
        collect.collect(configuration(**lists), network("GC", stateDir=str(tmp_path / "state")), Journal())

    assert ended(fork(lambda: work(**{SPECIFIED: []}))) == 0
    assert os.listdir(tmp_path) == []


KEPT = [
    pytest.param({SPECIFIED: [{"containerID": "c1", "ifname": "eth0"}]}, id="the specification's key"),
    pytest.param({OLDER: [{"containerID": "c1", "ifname": "eth0"}]}, id="the older key"),
    pytest.param({SPECIFIED: [], OLDER: [{"containerID": "c1", "ifname": "eth0"}]}, id="either key"),
    pytest.param({SPECIFIED: [{"containerID": "c1"}]}, id="without an interface"),
    pytest.param({SPECIFIED: [{"containerID": "c1", "ifname": None}]}, id="interface null"),
    pytest.param({SPECIFIED: [{"containerID": "c1", "ifname": ""}]}, id="interface empty"),
]
GONE = [
    pytest.param({SPECIFIED: []}, id="an empty list"),
    pytest.param({SPECIFIED: [{"containerID": "c2", "ifname": "eth0"}]}, id="another container"),
    pytest.param({SPECIFIED: [{"containerID": "c1", "ifname": "net1"}]}, id="another interface"),
]


@pytest.mark.parametrize("lists", KEPT)
def test_what_a_list_names_is_kept(ledger: Ledger, clock: Clock, condemned: Any, lists: dict[str, Any]) -> None:
    seen = reserve(ledger, "c1")
    clock.now += 1
    assert not condemned(seen, **lists)


@pytest.mark.parametrize("lists", GONE)
def test_what_the_lists_of_the_specification_miss_goes(
    ledger: Ledger, clock: Clock, condemned: Any, lists: dict[str, Any]
) -> None:
    seen = reserve(ledger, "c1")
    # Made in the very moment of the call: it cannot be in the list.
    assert not condemned(seen, **lists)
    clock.now += 0.001
    assert condemned(seen, **lists)
    assert os.listdir(f"{ledger.path}/absent") == []


def sandboxes(as_of: float, *containers: str) -> dict[str, Any]:
    return {SANDBOXES: {"containers": list(containers), "asOf": as_of}}


def test_two_successive_lists_of_sandboxes_must_miss_a_container(ledger: Ledger, clock: Clock, condemned: Any) -> None:
    seen = reserve(ledger, "c1")
    first, second = clock.now + 10, clock.now + 20
    clock.now += 30
    assert not condemned(seen, **sandboxes(first))
    assert os.readlink(f"{ledger.path}/absent/{seen.lease}") == str(int(first * 1000))
    # The same list again, or an older one that was late, is no second one.
    assert not condemned(seen, **sandboxes(first))
    assert not condemned(seen, **sandboxes(first - 5))
    assert not condemned(seen, **sandboxes(first))
    assert condemned(seen, **sandboxes(second))
    assert condemned(seen, **sandboxes(clock.now))


def test_a_list_with_the_container_in_between_begins_anew(ledger: Ledger, clock: Clock, condemned: Any) -> None:
    seen = reserve(ledger, "c1")
    clock.now += 100
    assert not condemned(seen, **sandboxes(clock.now - 30))
    assert not condemned(seen, **sandboxes(clock.now - 20, "c1", "c2"))
    assert os.listdir(f"{ledger.path}/absent") == []
    assert not condemned(seen, **sandboxes(clock.now - 10))
    assert condemned(seen, **sandboxes(clock.now))


def test_an_attachment_that_is_younger_than_the_list_stays(ledger: Ledger, clock: Clock, condemned: Any) -> None:
    before = clock.now
    clock.now += 10
    seen = reserve(ledger, "c1")
    clock.now += 10
    for as_of in (before, before + 5, before + 10):
        assert not condemned(seen, **sandboxes(as_of))
    assert os.listdir(f"{ledger.path}/absent") == []
    assert not condemned(seen, **sandboxes(before + 11))
    assert condemned(seen, **sandboxes(before + 12))


def test_a_namespace_that_lives_keeps_its_attachment(
    ledger: Ledger, clock: Clock, condemned: Any, host: rtnetlink.Socket
) -> None:
    seen = reserve(ledger, "c1")
    seen.netns = "/proc/self/ns/net"
    seen.netns_cookie = netns.cookie(host.raw)
    clock.now += 10
    for step in range(3):
        assert not condemned(seen, **sandboxes(clock.now + step / 10 - 1))
    # The path is there, but it is another namespace's by now.
    seen.netns_cookie += 1
    assert condemned(seen, **sandboxes(clock.now))


def test_the_lists_of_the_specification_protect_beside_a_list_of_sandboxes(
    ledger: Ledger, clock: Clock, condemned: Any
) -> None:
    seen = reserve(ledger, "c1")
    clock.now += 10
    named = {SPECIFIED: [{"containerID": "c1", "ifname": "eth0"}]}
    for _ in range(3):
        clock.now += 1
        assert not condemned(seen, **named, **sandboxes(clock.now))
    assert not condemned(seen, **{SPECIFIED: []}, **sandboxes(clock.now - 0.5))
    assert condemned(seen, **{SPECIFIED: []}, **sandboxes(clock.now))


@pytest.mark.parametrize("mark", ["rubbish", "-"])
def test_a_garbled_mark_of_absence_is_made_anew(ledger: Ledger, clock: Clock, condemned: Any, mark: str) -> None:
    seen = reserve(ledger, "c1")
    clock.now += 10
    os.symlink(mark, f"{ledger.path}/absent/{seen.lease}")
    assert not condemned(seen, **sandboxes(clock.now - 1))
    assert condemned(seen, **sandboxes(clock.now))


def test_a_release_takes_the_mark_of_absence_along(ledger: Ledger, clock: Clock, condemned: Any) -> None:
    seen = reserve(ledger, "c1")
    clock.now += 10
    assert not condemned(seen, **sandboxes(clock.now))
    ledger.release(seen)
    assert os.listdir(f"{ledger.path}/absent") == []
