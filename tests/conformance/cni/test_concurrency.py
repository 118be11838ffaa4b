"""Cases 50-53: many calls at once. Nothing is given twice, nothing is lost."""

from concurrent.futures import ThreadPoolExecutor

from tests.conformance.cni import site
from tests.conformance.cni.cases import case
from tests.conformance.cni.plugin import Answer
from tests.conformance.cni.workbench import Cni

AT_ONCE = 20


@case(50, "X", "concurrent_200")
def test_200_pods_at_once_get_200_addresses(cni: Cni) -> None:
    """Twenty at a time; what is left afterwards is what was there before."""
    cni.with_pool("10.88.0.0/24")
    before = cni.baseline()
    pods = {f"pod{number}": pod for number, pod in enumerate(cni.pods(200))}
    with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
        added = list(threads.map(lambda item: cni.add(*item), pods.items()))
        given = [address for answer in added for address in answer.addresses]
        assert len(given) == len(set(given)) == 200
        for answer in threads.map(lambda item: cni.delete(*item), pods.items()):
            answer.ok()
    cni.restored(before)


@case(51, "X", "concurrent_same_key")
def test_of_20_adds_of_one_attachment_one_succeeds(cni: Cni) -> None:
    before = cni.baseline()
    pod = cni.pod()
    with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
        answers = list(threads.map(lambda _: cni.call("ADD", "abc", pod), range(AT_ONCE)))
    winners = [answer for answer in answers if answer.succeeded]
    for answer in answers:
        answer.pure()
    assert len(winners) == 1, f"{len(winners)} of {AT_ONCE} succeeded"
    inside = site.links(pod)
    assert set(site.addresses(inside["eth0"])) == {entry["address"] for entry in winners[0].result["ips"]}
    cni.delete("abc", pod).ok()
    cni.restored(before)


@case(52, "X", "add_del_race")
def test_add_and_del_of_one_attachment_end_there_or_gone(cni: Cni) -> None:
    before = cni.baseline()
    pod = cni.pod()
    with ThreadPoolExecutor(max_workers=2) as threads:
        for _ in range(10):
            adding = threads.submit(cni.call, "ADD", "abc", pod)
            deleting = threads.submit(cni.call, "DEL", "abc", pod)
            added: Answer = adding.result().pure()
            deleting.result().pure()
            present = "eth0" in site.links(pod)
            assert added.succeeded or not present, f"ADD failed and left its interface: {added}"
            if present and cni.network.version >= "0.4.0":
                # What survived must be whole: CHECK finds half an attachment.
                cni.call("CHECK", "abc", pod, prevResult=added.document).ok()
            cni.delete("abc", pod).ok()
    cni.restored(before)


@case(53, "X", "gc_during_adds")
def test_gc_and_adds_at_the_same_time_leave_nothing_half_made(cni: Cni) -> None:
    """The runtime promises not to do this; one that restarts meanwhile cannot keep the promise.

    What is listed survives. What is being added is not listed yet: it ends whole, or DEL finds nothing left of it.
    """
    cni.subject.need_version("1.1.0")
    before = cni.baseline()
    keep = cni.pod()
    cni.add("keep", keep).ok()
    pods = {f"pod{number}": pod for number, pod in enumerate(cni.pods(20))}
    with ThreadPoolExecutor(max_workers=5) as threads:
        adding = [threads.submit(cni.add, container, pod) for container, pod in pods.items()]
        for _ in range(3):
            cni.gc("keep").pure()
        added = [each.result().ok() for each in adding]
    given = [address for answer in added for address in answer.addresses]
    assert len(given) == 20
    cni.check("keep", keep).ok()
    for container, pod in pods.items():
        cni.delete(container, pod).ok()
        assert set(site.links(pod)) == {"lo"}
    cni.delete("keep", keep).ok()
    cni.restored(before)
