"""The list of nodes from an API server: list and watch as clients must keep them, in trouble of every kind."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cni_plugin.agent.kubernetes import Backoff, KubernetesSource
from tests.lab.kubeapi import KubeApi
from tests.lab.kubeobjects import kubeconfig, node
from tests.lab.waiting import wait_until


@pytest.fixture
def api() -> Iterator[KubeApi]:
    """A server with two nodes."""
    with KubeApi() as made:
        made.put(node("a", ["192.0.2.1", "2001:db8::1"], ["10.244.0.0/24", "fd00::/112"]))
        made.put(node("b", ["192.0.2.2"], ["10.244.1.0/24"]))
        yield made


class Follower:
    """A source, and how often it said that its list changed."""

    def __init__(self, path: Path, watch_seconds: float = 30.0, timeout: float = 2.0) -> None:
        self.changes = 0
        self.source = KubernetesSource(path, self._changed, timeout, watch_seconds, Backoff(0.05, 0.2))
        self.source.start()

    def _changed(self) -> None:
        self.changes += 1

    @property
    def names(self) -> list[str]:
        """The nodes of the latest list."""
        return [peer.name for peer in self.source.latest.peers] if self.source.latest else []

    def wait(self, *names: str) -> None:
        """Until the list has these nodes."""
        what = f"the nodes {', '.join(names)}"
        wait_until(lambda: self.names == list(names), 10, what, hint=lambda: f"{self.names} {self.source.fault}")

    def wait_fault(self, text: str) -> None:
        """Until the fault holds this; "" until there is none."""

        def right() -> bool:
            return text in self.source.fault if text else not self.source.fault

        wait_until(right, 10, f"the fault {text!r}", hint=lambda: self.source.fault)


@pytest.fixture
def follow(api: KubeApi, tmp_path: Path) -> Iterator[Callable[..., Follower]]:
    """Makes sources that follow the server."""
    made: list[Follower] = []

    def start(token: str | None = None, **options: float) -> Follower:
        path = tmp_path / "kubeconfig"
        path.write_text(kubeconfig(api.url, token) if token is not None else kubeconfig(api.url))
        made.append(Follower(path, **options))
        return made[-1]

    yield start
    for each in made:
        each.source.stop()
    api.close()
    for thread in threading.enumerate():
        if thread.name == "source kubernetes":
            thread.join(5)


def test_a_list_then_changes_as_they_come(api: KubeApi, follow: Callable[..., Follower]) -> None:
    follower = follow()
    follower.wait("a", "b")
    latest = follower.source.latest
    assert latest is not None
    assert [str(each) for each in latest.peers[0].addresses] == ["192.0.2.1", "2001:db8::1"]
    assert [str(each) for each in latest.peers[0].pod_cidrs] == ["10.244.0.0/24", "fd00::/112"]
    api.put(node("c", ["192.0.2.3"], []))
    follower.wait("a", "b", "c")
    api.delete("a")
    follower.wait("b", "c")
    assert api.asked("watch=1") == 1
    assert api.asked("resourceVersion=0") == 1


def test_a_heartbeat_is_no_change(api: KubeApi, follow: Callable[..., Follower]) -> None:
    follower = follow()
    follower.wait("a", "b")
    for _ in range(20):
        api.put(node("a", ["192.0.2.1", "2001:db8::1"], ["10.244.0.0/24", "fd00::/112"], ready=False))
    api.put(node("c", [], []))
    follower.wait("a", "b", "c")
    assert follower.changes == 2


def test_a_dropped_watch_goes_on_where_it_was(api: KubeApi, follow: Callable[..., Follower]) -> None:
    follower = follow()
    follower.wait("a", "b")
    wait_until(lambda: api.watching == 1, 5, "the watch")
    api.put(node("c", [], []))
    follower.wait("a", "b", "c")
    version = follower.source.version
    api.drop()
    api.put(node("d", [], []))
    follower.wait("a", "b", "c", "d")
    assert follower.source.lists == 1
    assert any(f"resourceVersion={version}&" in each for each in api.requests)


def test_the_end_of_a_watch_by_the_server_is_no_fault(api: KubeApi, follow: Callable[..., Follower]) -> None:
    follower = follow(watch_seconds=1.0)
    follower.wait("a", "b")
    wait_until(lambda: api.asked("watch=1") >= 3, 10, "the third watch")
    assert (follower.source.lists, follower.source.fault) == (1, "")


def test_a_bookmark_moves_the_version_on(api: KubeApi, follow: Callable[..., Follower]) -> None:
    api.bookmark_seconds = 0.1
    follower = follow()
    follower.wait("a", "b")
    # All past is forgotten, but the bookmark tells a version that is not.
    before = int(follower.source.version)
    wait_until(lambda: api.watching == 1, 5, "the watch")
    api.forget()
    wait_until(lambda: int(follower.source.version) > before, 5, "a bookmark")
    api.drop()
    api.put(node("c", [], []))
    follower.wait("a", "b", "c")
    assert follower.source.lists == 1


@pytest.mark.parametrize("as_status", [False, True], ids=["as an event", "as a status"])
def test_410_gone_lists_anew(api: KubeApi, follow: Callable[..., Follower], as_status: bool) -> None:
    api.trouble.gone_as_status = as_status
    follower = follow()
    follower.wait("a", "b")
    api.stop()
    api.delete("a")
    api.put(node("c", [], []))
    api.forget()
    api.start()
    follower.wait("b", "c")
    follower.wait_fault("")
    assert follower.source.lists == 2


def test_an_outage_keeps_the_last_list_and_ends_by_itself(api: KubeApi, follow: Callable[..., Follower]) -> None:
    follower = follow()
    follower.wait("a", "b")
    api.stop()
    follower.wait_fault("the API server cannot be asked to watch nodes")
    assert follower.names == ["a", "b"]
    contact = follower.source.contact
    api.start()
    follower.wait_fault("")
    assert (follower.source.contact or 0) > (contact or 0)
    api.put(node("c", [], []))
    follower.wait("a", "b", "c")


def test_a_silent_connection_is_given_up(api: KubeApi, follow: Callable[..., Follower]) -> None:
    follower = follow(watch_seconds=1.0, timeout=0.3)
    follower.wait("a", "b")
    api.trouble.silent = True
    follower.wait_fault("watch nodes")
    api.trouble.silent = False
    api.put(node("c", [], []))
    follower.wait("a", "b", "c")
    assert follower.source.lists == 1


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ("forbidden", "403 'nodes is forbidden: User"),
        ("status", "500 'trouble on command'"),
        ("token", "401 'Unauthorized'; is the token in the kubeconfig valid?"),
    ],
    ids=["forbidden", "server error", "wrong token"],
)
def test_a_refusal_is_told_and_asked_again(
    api: KubeApi, follow: Callable[..., Follower], tmp_path: Path, trouble: str, told: str
) -> None:
    api.trouble.forbidden, api.trouble.status = trouble == "forbidden", 500 if trouble == "status" else 0
    follower = follow("another" if trouble == "token" else None)
    follower.wait_fault(told)
    assert follower.source.latest is None
    api.trouble.forbidden, api.trouble.status = False, 0
    (tmp_path / "kubeconfig").write_text(kubeconfig(api.url))
    follower.wait("a", "b")
    follower.wait_fault("")


def test_a_line_that_is_no_json_ends_the_watch_and_loses_nothing(api: KubeApi, follow: Callable[..., Follower]) -> None:
    follower = follow()
    follower.wait("a", "b")
    api.trouble.garbage = True
    follower.wait_fault("answered what is not understood (watch nodes)")
    api.trouble.garbage = False
    api.put(node("c", [], []))
    follower.wait("a", "b", "c")


def test_a_long_list_comes_in_pages(api: KubeApi, follow: Callable[..., Follower]) -> None:
    follower = follow()
    follower.wait("a", "b")
    api.stop()
    for number in range(1100):
        api.put(node(f"n{number:04}", [f"10.9.{number // 250}.{number % 250}"], []))
    api.forget()
    api.start()
    wait_until(lambda: len(follower.names) == 1102, 20, "all nodes", hint=lambda: follower.source.fault)
    assert api.asked("continue=") == 2


def test_names_and_addresses_that_are_none_are_faults_of_the_list(
    api: KubeApi, follow: Callable[..., Follower]
) -> None:
    bad = node("c", ["not an address", "127.0.0.1"], ["10.244.3.7/24"])
    bad["spec"]["podCIDRs"].append(7)
    api.put(bad)
    api.put({**node("d", [], []), "metadata": {"name": "<script>"}})
    follower = follow()
    follower.wait("a", "b", "c")
    assert follower.source.latest is not None
    faults = "\n".join(follower.source.latest.faults)
    for text in ("'not an address'", "127.0.0.1 was passed over", "'10.244.3.7/24'", "CIDR 7 ", "'<script>'"):
        assert text in faults


@pytest.mark.parametrize(
    "text", ["", "{", "apiVersion: v1\nkind: Config\n", "clusters: 5"], ids=["empty", "no YAML", "no context", "odd"]
)
def test_a_kubeconfig_that_cannot_be_used_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    follower = Follower(path)
    follower.wait_fault(f"kubeconfig {path} cannot be used")
    follower.source.stop()


def test_pauses_double_up_to_a_bound_and_are_never_all_alike() -> None:
    low, high = Backoff(0.5, 30, lambda: 0.0), Backoff(0.5, 30, lambda: 1.0)
    assert [low.next() for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15]
    assert [high.next() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    low.reset()
    assert low.next() == 0.25
