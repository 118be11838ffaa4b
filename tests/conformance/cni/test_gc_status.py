"""Cases 80-83: GC removes what no attachment of the runtime's list uses, and STATUS says whether ADD could work.

SPEC.md section 2, GC and STATUS, both since 1.1.0. GC should remove as much as it can of what is not listed.
"""

import signal

import pytest

from tests.conformance.cni.cases import case
from tests.conformance.cni.network import Network
from tests.conformance.cni.test_delete import HOST_PORT
from tests.conformance.cni.workbench import Cni
from tests.lab.netns import Named

STATUS_SECONDS = 0.5
# Section 2, GC, names the first. The second stood there by mistake at first, and libcni fills both (cni#1101).
LIST, FORMER_LIST = "cni.dev/valid-attachments", "cni.dev/attachments"


@pytest.fixture(autouse=True)
def has_gc(request: pytest.FixtureRequest) -> None:
    """GC and STATUS came with 1.1.0."""
    cni: Cni = request.getfixturevalue("cni")
    cni.subject.need_version("1.1.0")


def attach(cni: Cni, *containers: str, network: Network | None = None) -> dict[str, Named]:
    """A pod for each container."""
    pods = dict(zip(containers, cni.pods(len(containers)), strict=True))
    for number, (container, pod) in enumerate(pods.items()):
        ports = {"portMappings": [{"hostPort": 8080 + number, "containerPort": 80, "protocol": "tcp"}]}
        cni.add(container, pod, network=network or cni.network, capabilities=ports if network is None else {}).ok()
    return pods


@case(80, "S", "gc")
def test_gc_keeps_what_is_listed_and_frees_the_rest(cni: Cni) -> None:
    """As after a restart of the runtime: two pods are gone with their namespaces, one lives."""
    cni.with_pool("10.88.1.0/29")
    cni.baseline()
    keep = cni.pod()
    kept = cni.add("keep", keep, capabilities=HOST_PORT).address
    only_keep = cni.holdings()
    for number, pod in enumerate(cni.pods(2)):
        cni.add(f"drop{number}", pod).ok()
        pod.vanish()
    cni.gc("keep").ok()
    cni.restored(only_keep)
    cni.check("keep", keep).ok()
    assert kept not in cni.capacity(8)


@case(80, "S", "gc")
def test_gc_twice_is_as_once(cni: Cni) -> None:
    attach(cni, "keep", "drop")["drop"].vanish()
    cni.gc("keep").ok()
    after = cni.holdings()
    cni.gc("keep").ok()
    cni.restored(after)


@case(80, "S", "gc")
def test_gc_with_an_empty_list_frees_everything(cni: Cni) -> None:
    before = cni.baseline()
    for pod in attach(cni, "one", "two").values():
        pod.vanish()
    cni.gc().ok()
    cni.restored(before)


@case(80, "S", "gc")
@pytest.mark.parametrize("key", [LIST, FORMER_LIST])
def test_gc_keeps_what_either_key_lists(cni: Cni, key: str) -> None:
    """By the specification's key alone the rest is freed; whether by the other one alone is the plugin's choice."""
    cni.baseline()
    keep = cni.pod()
    cni.add("keep", keep).ok()
    only_keep = cni.holdings()
    drop = cni.pod()
    cni.add("drop", drop).ok()
    drop.vanish()
    answer = cni.gc("keep", keys=[key]).pure()
    cni.check("keep", keep).ok()
    if key == LIST:
        answer.ok()
        cni.restored(only_keep)


@case(80, "S", "gc")
def test_gc_without_a_list_never_removes_all(cni: Cni) -> None:
    """The text requires the list, and does not say what its absence means: here more is asked than there."""
    pods = attach(cni, "one", "two")
    held = cni.holdings()
    cni.gc(keys=[]).pure()
    cni.restored(held)
    for container, pod in pods.items():
        cni.check(container, pod).ok()


@case(80, "S", "gc")
def test_gc_of_one_network_leaves_another_alone(cni: Cni) -> None:
    other = cni.network.named("other")
    if cni.subject.has("ipam") and cni.subject.has("ipv4"):
        other = other.with_ranges("10.89.0.0/24")
    pods = attach(cni, "theirs", network=other)
    held = cni.holdings()
    cni.gc().ok()
    cni.restored(held)
    cni.check("theirs", pods["theirs"], network=other).ok()


@case(81, "S", "status")
def test_status_is_content_on_a_fresh_node(cni: Cni) -> None:
    cni.status().ok()


@case(81, "S", "status")
def test_status_tells_of_a_full_pool_or_not_and_is_content_when_it_is_not_full(cni: Cni) -> None:
    """SPEC.md, STATUS: a full pool should be an error. None is let pass: it keeps one leak from draining the node."""
    cni.with_pool("10.88.1.0/30")
    for number, pod in enumerate(cni.pods(4)):
        if not cni.add(f"abc{number}", pod).succeeded:
            cni.delete(f"abc{number}", pod).ok()
            break
    else:
        pytest.fail("a /30 had addresses for four pods")
    full = cni.status()
    if not full.succeeded:
        full.refused(50, 51)
    cni.delete("abc0").ok()
    cni.status().ok()


@case(81, "S", "status")
def test_status_tells_that_the_state_cannot_be_written(cni: Cni) -> None:
    """SPEC.md, STATUS: 50 or 51 when the plugin is not available."""
    cni.subject.need_state()
    folder = cni.subject.profile.state.folder
    cni.site.space.run(["mkdir", "-p", folder])
    cni.site.space.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder])
    cni.status().refused(50, 51)


@case(81, "S", "status")
def test_status_tells_that_the_delegate_is_missing(cni: Cni) -> None:
    """SPEC.md, STATUS: if the plugin delegates, it must ask the delegate as well."""
    cni.subject.need("delegated_ipam")
    network = cni.network.with_ipam(type="there-is-none")
    cni.call("STATUS", network=network).refused()


@case(81, "S", "status")
def test_status_tells_that_the_configuration_is_invalid(cni: Cni) -> None:
    cni.subject.need("ipam", "ipv4")
    cni.status(cni.network.with_ranges("10.88.0.0/99")).refused()


def status_seconds(cni: Cni) -> float:
    """How long STATUS may take: half a second for each plugin, more where the machine itself is slow now."""
    return max(STATUS_SECONDS * len(cni.network.plugins), 4 * cni.status().ok().seconds)


@case(82, "R", "status_bounded")
def test_status_does_not_wait_for_a_lock(cni: Cni) -> None:
    """containerd asks at each poll of kubelet, without a deadline and holding a lock of its own."""
    cni.subject.need_state()
    cni.add("abc", cni.pod()).ok()
    state = cni.subject.profile.state
    if not state.locks:
        pytest.skip(f"profile {cni.subject.profile.name} names no lock files (state.locks)")
    allowed = status_seconds(cni)
    held = cni.site.locks_below(state.folder, state.locks)
    assert held, f"no file of {state.folder} matches {state.locks}"
    try:
        assert cni.status().ok().seconds < allowed
    finally:
        for lock in held:
            lock.release()


@case(82, "R", "status_bounded")
def test_status_does_not_wait_for_a_stopped_add(cni: Cni) -> None:
    allowed = status_seconds(cni)
    running = cni.start("ADD", "abc", cni.pod())
    running.feed()
    running.signal(signal.SIGSTOP)
    try:
        assert cni.status().ok().seconds < allowed
    finally:
        running.kill()


@case(83, "X", "status_read_only")
def test_status_changes_nothing(cni: Cni) -> None:
    """Not even on a node where nothing has been added yet."""
    before = cni.site.holdings(cni.subject.profile.state.folder)
    forwarding = cni.site.space.run(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout
    cni.status().ok()
    after = cni.site.holdings(cni.subject.profile.state.folder)
    assert before.difference(after) == []
    assert cni.site.space.run(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == forwarding
