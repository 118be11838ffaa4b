"""Cases 57-60 and 65-67: a plugin that is killed, stopped, or met by another version of itself.

Where a black box stands when it is killed is not known, so the moments are spread over the time that an ADD takes,
with `--conformance-seed` for their choice; `--soak` tries ten times as many.
"""

import signal
from collections.abc import Iterator

import pytest

from tests.conformance.cni.cases import case
from tests.conformance.cni.plugin import Answer
from tests.conformance.cni.runtime import Runtime
from tests.conformance.cni.test_add_failures import moment
from tests.conformance.cni.test_delete import HOST_PORT
from tests.conformance.cni.workbench import Cni
from tests.lab.netns import Named

KILLS = 12
TEN_YEARS = 10 * 365 * 86400


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How many moments are tried."""
    return KILLS * 10 if request.config.getoption("--soak", False) else KILLS


def killed(cni: Cni, count: int, number: signal.Signals = signal.SIGKILL) -> Iterator[tuple[str, Named]]:
    """Containers whose ADD was ended at some moment, with their pods; what they held is for the caller to clear."""
    ports = {"runtimeConfig": HOST_PORT} if "portMappings" in cni.network.entry.get("capabilities", {}) else {}
    first = cni.pod()
    times = []
    for _ in range(2):
        times.append(cni.call("ADD", "typical", first, **ports).ok().seconds)
        cni.call("DEL", "typical", first).ok()
    for attempt, pod in enumerate(cni.pods(count)):
        running = cni.start("ADD", f"killed{attempt}", pod, **ports)
        running.feed()
        # Spread evenly, and shaken: every part of the call is met, the end included.
        moment(running, min(times) * (attempt + cni.random.random()) / count)
        running.signal(number)
        if number == signal.SIGKILL:
            running.kill()
        else:
            running.finish()
        yield f"killed{attempt}", pod


@case(57, "X", "kill9_then_del")
@pytest.mark.parametrize("netns", ["there", "gone"])
def test_del_clears_what_a_killed_add_left(cni: Cni, kills: int, netns: str) -> None:
    cni.with_pool("10.88.1.0/28")
    before = cni.baseline()
    for container, pod in killed(cni, kills):
        if netns == "gone":
            pod.vanish()
        cni.call("DEL", container, pod if netns == "there" else "").ok()
    cni.all_free(13, 14)
    cni.restored(before)


@case(57, "X", "kill9_then_del")
def test_a_killed_del_can_be_repeated(cni: Cni, kills: int) -> None:
    cni.with_pool("10.88.1.0/28")
    before = cni.baseline()
    typical = 0.05
    for attempt, pod in enumerate(cni.pods(kills)):
        cni.call("ADD", "abc", pod).ok()
        running = cni.start("DEL", "abc", pod)
        running.feed()
        moment(running, typical * (attempt + cni.random.random()) / kills)
        running.kill()
        typical = max(typical, cni.call("DEL", "abc", pod).ok().seconds) if attempt == 0 else typical
        cni.call("DEL", "abc", pod).ok()
    cni.all_free(13, 14)
    cni.restored(before)


@case(58, "X", "kill9_then_add")
def test_add_succeeds_after_a_killed_one_at_the_latest_after_del(cni: Cni, kills: int) -> None:
    """A runtime that does not know whether ADD was done calls DEL, or the same ADD again."""
    cni.with_pool("10.88.1.0/28")
    before = cni.baseline()
    for container, pod in killed(cni, kills):
        again = cni.call("ADD", container, pod).pure()
        if not again.succeeded:
            cni.call("DEL", container, pod).ok()
            again = cni.call("ADD", container, pod).ok()
        if cni.network.version >= "0.4.0":
            cni.call("CHECK", container, pod, prevResult=again.document).ok()
        cni.call("DEL", container, pod).ok()
    cni.all_free(13, 14)
    cni.restored(before)


@case(59, "X", "kill9_then_gc")
def test_gc_clears_what_killed_adds_left(cni: Cni, kills: int) -> None:
    cni.subject.need_version("1.1.0")
    cni.with_pool("10.88.1.0/28")
    before = cni.baseline()
    for _, pod in killed(cni, kills):
        pod.vanish()
    cni.gc().ok()
    cni.all_free(13, 14)
    cni.restored(before)


@case(60, "X", "sigterm_midway")
def test_a_terminated_add_is_cleared_by_del(cni: Cni, kills: int) -> None:
    cni.with_pool("10.88.1.0/28")
    before = cni.baseline()
    for container, pod in killed(cni, kills, signal.SIGTERM):
        cni.call("DEL", container, pod).ok()
    cni.all_free(13, 14)
    cni.restored(before)


@case(65, "X", "lock_holder")
def test_a_stopped_call_does_not_stop_the_node(cni: Cni) -> None:
    """It may hold a lock: others wait for a bounded time, then say 11 (try again later), and lose nothing."""
    limit = cni.subject.profile.state.lock_seconds
    cni.with_pool("10.88.1.0/28")
    typical = cni.call("ADD", "typical", cni.pod()).ok().seconds
    for attempt in range(6):
        running = cni.start("ADD", f"stopped{attempt}", cni.pod())
        running.feed()
        moment(running, cni.random.uniform(0.2, 0.9) * typical)
        running.signal(signal.SIGSTOP)
        try:
            pod = cni.pod()
            answer = cni.call("ADD", f"other{attempt}", pod, seconds=limit + 5)
            if not answer.succeeded:
                answer.refused(11)
        finally:
            running.kill()
        assert answer.seconds < limit
        cni.call("DEL", f"other{attempt}", pod).ok()


@case(65, "X", "lock_holder")
def test_a_lock_that_is_held_for_ever_is_given_up_in_time(cni: Cni) -> None:
    cni.subject.need_state()
    state = cni.subject.profile.state
    if not state.locks:
        pytest.skip(f"profile {cni.subject.profile.name} names no lock files (state.locks)")
    cni.with_pool("10.88.1.0/28")
    cni.call("ADD", "first", cni.pod()).ok()
    held = cni.site.locks_below(state.folder, state.locks)
    assert held, f"no file of {state.folder} matches {state.locks}"
    pod = cni.pod()
    try:
        cni.call("ADD", "abc", pod, seconds=state.lock_seconds + 5).refused(11)
    finally:
        for lock in held:
            lock.release()
    cni.call("ADD", "abc", pod).ok()
    cni.all_free(11, 12)


@case(66, "X", "clock_jump")
def test_an_address_freed_in_the_future_is_not_stuck_there(cni: Cni) -> None:
    """A time namespace gives one DEL a boot clock that is ten years ahead; the others have this machine's."""
    cni.with_pool("10.88.1.0/29")
    count = len(cni.capacity(8))
    later = ["unshare", "--time", "--boottime", str(TEN_YEARS), "--monotonic", str(TEN_YEARS), "--fork", "--"]
    for number, pod in enumerate(cni.pods(count)):
        cni.call("ADD", f"abc{number}", pod, wrap=later).ok()
        cni.call("DEL", f"abc{number}", pod, wrap=later).ok()
    assert len(cni.capacity(8)) == count


@case(67, "X", "two_versions")
@pytest.mark.parametrize("order", ["upgrade", "downgrade"])
def test_another_version_understands_or_refuses_the_state(cni: Cni, order: str) -> None:
    """What one version added, the other frees; and it never gives out an address that is in use."""
    other = cni.subject.other
    if other is None:
        pytest.skip("no other version was given (--other-plugin)")
    cni.with_pool("10.88.1.0/28")
    cni.network = cni.network.at("1.0.0" if "1.0.0" in cni.subject.versions else cni.network.version)
    own, foreign = cni.runtime, Runtime(cni.site, [other.parent, *cni.subject.search])
    first, second = (own, foreign) if order == "downgrade" else (foreign, own)
    pods = cni.pods(6)
    living = [first.add(cni.network, f"abc{number}", pod).ok() for number, pod in enumerate(pods[:3])]
    later: list[Answer] = []
    for number, pod in enumerate(pods[3:]):
        answer = second.add(cni.network, f"later{number}", pod).pure()
        later += [answer] if answer.succeeded else []
    given = [address for answer in (*living, *later) for address in answer.addresses]
    assert len(given) == len(set(given)), given
    for number, pod in enumerate(pods[:3]):
        second.delete(cni.network, f"abc{number}", pod).ok()
    assert not {"eth0"} & {name for pod in pods[:3] for name in pod.run(["ip", "-br", "link"]).stdout.split()}
