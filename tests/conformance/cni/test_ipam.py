"""Cases 41-49 and 54-56: which addresses are given, and to whom.

Ranges are those of host-local's configuration (`ipam.ranges`), which most plugins with a pool of their own have taken
over. Pools are small here, so that the last address is near.
"""

import ipaddress
import json
import resource
from typing import Any

import pytest

from tests.conformance.cni.cases import case
from tests.conformance.cni.plugin import Answer
from tests.conformance.cni.workbench import Cni, usable
from tests.lab.netns import Named

POOL = "10.88.1.0/29"  # .1 to .6, one of them the gateway


def ask_for(cni: Cni, container: str, address: str) -> Answer:
    """ADD with a request for this address, by the strongest way that the network has; DEL where it is refused."""
    cni.subject.need("requested_address")
    pod, prefix = cni.pod(), "64" if ":" in address else "24"
    if "ips" in cni.network.capabilities:
        return attempt(cni, container, pod, capabilities={"ips": [f"{address}/{prefix}"]})
    return attempt(cni, container, pod, args=f"IP={address};IgnoreUnknown=1")


def attempt(cni: Cni, container: str, pod: Named, **more: Any) -> Answer:
    """ADD, and DEL when it fails: SPEC.md section 3, what a runtime does about a failed ADD."""
    answer = cni.add(container, pod, **more)
    if not answer.succeeded:
        cni.delete(container, pod).ok()
    return answer


@case(41, "S", "static_in_use")
def test_a_requested_address_that_is_in_use_is_refused(cni: Cni) -> None:
    cni.with_pool("10.88.1.0/24")
    first = ask_for(cni, "first", "10.88.1.77")
    assert first.address == "10.88.1.77"
    held = cni.holdings()
    ask_for(cni, "second", "10.88.1.77").refused(*cni.subject.codes("address_in_use"))
    cni.restored(held)


@case(42, "X", "static_outside")
@pytest.mark.parametrize(
    "address", ["10.99.0.5", "10.88.1.0", "10.88.1.255", "10.88.1.1", "2001:db8::5"],
    ids=["outside", "network", "broadcast", "gateway", "other family"],
)  # fmt: skip
def test_a_requested_address_that_nobody_may_have_is_refused(cni: Cni, address: str) -> None:
    network = cni.with_pool("10.88.1.0/24")
    cni.subject.need("requested_address")
    cni.network = network.with_ranges([{"subnet": "10.88.1.0/24", "gateway": "10.88.1.1"}])
    held = cni.baseline()
    ask_for(cni, "abc", address).refused()
    cni.restored(held)


RANGES: dict[str, tuple[Any, bool]] = {
    "host bits in the subnet": ([[{"subnet": "10.88.1.5/24"}]], False),
    "start after end": ([[{"subnet": "10.88.1.0/24", "rangeStart": "10.88.1.9", "rangeEnd": "10.88.1.5"}]], False),
    "start outside": ([[{"subnet": "10.88.1.0/24", "rangeStart": "10.88.2.5"}]], False),
    "end outside": ([[{"subnet": "10.88.1.0/24", "rangeEnd": "10.88.2.5"}]], False),
    "no subnet": ([[{"rangeStart": "10.88.1.5"}]], False),
    "garbage": ([[{"subnet": "10.88.1.0"}]], False),
    "no prefix": ([[{"subnet": "10.88.1.0/33"}]], False),
    "overlap inside a set": ([[{"subnet": "10.88.1.0/24"}, {"subnet": "10.88.0.0/16"}]], False),
    "overlap across sets": ([[{"subnet": "10.88.1.0/24"}], [{"subnet": "10.88.1.128/25"}]], False),
    "mixed families in a set": ([[{"subnet": "10.88.1.0/24"}, {"subnet": "2001:db8:1::/64"}]], False),
    "the same twice": ([[{"subnet": "10.88.1.0/24"}, {"subnet": "10.88.1.0/24"}]], False),
    "a range of one": ([[{"subnet": "10.88.1.0/24", "rangeStart": "10.88.1.9", "rangeEnd": "10.88.1.9"}]], True),
    "two subnets in a set": ([[{"subnet": "10.88.1.0/24"}, {"subnet": "10.88.2.0/24"}]], True),
    "two parts of one subnet": (
        [
            [
                {"subnet": "10.88.1.0/24", "rangeEnd": "10.88.1.20"},
                {"subnet": "10.88.1.0/24", "rangeStart": "10.88.1.30"},
            ]
        ],
        True,
    ),
}


@case(43, "S", "range_validation")
@pytest.mark.parametrize("what", RANGES)
def test_ranges_are_judged_as_host_local_does(cni: Cni, what: str) -> None:
    """An operator moves a configuration from host-local: what it refused is refused, what it took is taken."""
    cni.subject.need("ipam", "ipv4")
    ranges, valid = RANGES[what]
    pod = cni.pod()
    answer = cni.call("ADD", "abc", pod, network=cni.network.with_ranges(*ranges))
    if valid:
        assert answer.address.startswith("10.88.")
    else:
        answer.refused()


@case(43, "S", "range_validation")
@pytest.mark.parametrize(("subnet", "pods"), [("10.88.1.0/30", 1), ("10.88.1.0/29", 5)])
def test_network_broadcast_and_gateway_are_never_given(cni: Cni, subnet: str, pods: int) -> None:
    """host-local's gateway is the first address unless one is given; a routed plugin may give that one as well."""
    cni.with_pool(subnet)
    given = cni.capacity(pods + 4)
    assert given <= usable(subnet)
    assert len(given) in (pods, pods + 1)


@case(44, "S", "multi_range")
@pytest.mark.parametrize(
    "pools",
    [("10.88.1.0/24", "10.88.2.0/24"), ("10.88.1.0/24", "2001:db8:88::/64"), ("2001:db8:88::/64",)],
    ids=["two of IPv4", "dual stack", "IPv6"],
)
def test_a_pod_gets_one_address_of_each_set(cni: Cni, pools: tuple[str, ...]) -> None:
    cni.with_pool(*pools)
    given = [ipaddress.ip_address(address) for address in cni.add("abc", cni.pod()).addresses]
    assert len(given) == len(pools)
    for address, pool in zip(given, pools, strict=True):
        assert address in ipaddress.ip_network(pool)


@case(45, "X", "dual_stack_partial_fail")
@pytest.mark.parametrize("short", ["2001:db8:88::/126", "10.88.2.0/30"], ids=["IPv6 is short", "IPv4 is short"])
def test_a_pod_gets_all_its_addresses_or_none(cni: Cni, short: str) -> None:
    """The set that is empty decides, and what was taken of the other is given back."""
    cni.with_pool("10.88.1.0/28" if ":" in short else "2001:db8:99::/124", short)
    for number, pod in enumerate(cni.pods(6)):
        answer = attempt(cni, f"abc{number}", pod)
        if not answer.succeeded:
            break
        assert len(answer.addresses) == 2
    else:
        pytest.fail(f"{short} had addresses for six pods")
    answer.refused(*cni.subject.codes("pool_exhausted"))
    held = cni.holdings()
    for number, pod in enumerate(cni.pods(20)):
        attempt(cni, f"more{number}", pod).refused()
    cni.restored(held)


@case(46, "S", "exhausted")
def test_a_full_pool_is_an_error_until_an_address_is_freed(cni: Cni) -> None:
    cni.with_pool(POOL)
    pods = {f"abc{number}": pod for number, pod in enumerate(cni.pods(6))}
    last = None
    for container, pod in pods.items():
        answer = attempt(cni, container, pod)
        if not answer.succeeded:
            break
        last = container, answer.address
    else:
        answer = attempt(cni, "one-more", cni.pod())
    answer.refused(*cni.subject.codes("pool_exhausted"))
    held = cni.holdings()
    attempt(cni, "still", cni.pod()).refused()
    cni.restored(held)
    assert last is not None
    cni.delete(last[0], pods[last[0]]).ok()
    assert cni.add("fresh", cni.pod()).address == last[1]


@case(47, "X", "no_quick_reuse")
def test_a_freed_address_is_not_given_at_once(cni: Cni) -> None:
    """Connections to the old pod, and caches of its address, are still alive."""
    cni.with_pool("10.88.1.0/28")
    pod = cni.pod()
    first = cni.add("first", pod).address
    cni.delete("first", pod).ok()
    assert cni.add("second", cni.pod()).address != first


@case(47, "X", "no_quick_reuse")
def test_a_freed_address_rests_while_others_are_free(cni: Cni) -> None:
    cni.subject.need("cooldown")
    cni.with_pool("10.88.1.0/28")
    freed = set()
    for number, pod in enumerate(cni.pods(6)):
        address = cni.add(f"abc{number}", pod).address
        assert address not in freed
        cni.delete(f"abc{number}", pod).ok()
        freed.add(address)


@case(48, "X", "reservations")
def test_a_pod_of_the_same_name_gets_its_address_again(cni: Cni) -> None:
    cni.subject.need("sticky")
    cni.with_pool("10.88.1.0/28")
    annotations = {"io.kubernetes.cri.pod-annotations": cni.subject.profile.sticky_annotations}
    named: dict[str, Any] = {
        "args": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
        "capabilities": annotations,
    }
    pod = cni.pod()
    first = cni.add("first", pod, **named).address
    cni.delete("first", pod).ok()
    assert first not in cni.capacity(10), "the address was lent to others while some were free"
    assert cni.add("second", cni.pod(), **named).address == first


@case(49, "X", "exclusions")
def test_excluded_addresses_are_never_given(cni: Cni) -> None:
    cni.subject.need("exclusions")
    cni.with_pool(POOL)
    cni.network = cni.network.with_ipam(exclude=["10.88.1.2", "10.88.1.4/31"])
    assert cni.capacity(8).isdisjoint({"10.88.1.2", "10.88.1.4", "10.88.1.5"})


@case(54, "X", "range_changed")
def test_after_a_change_of_range_old_leases_live_and_new_ones_are_of_the_new_range(cni: Cni) -> None:
    old_network = cni.with_pool(POOL)
    pod = cni.pod()
    old = cni.add("old", pod)
    new_network = cni.with_pool("10.88.2.0/29")
    assert cni.add("new", cni.pod()).address.startswith("10.88.2.")
    if cni.network.version >= "0.4.0":
        cni.check("old", pod).ok()
    cni.delete("old", pod, network=new_network).ok()
    cni.network = old_network
    assert old.address in cni.capacity(8)


@case(55, "X", "big_pool")
@pytest.mark.parametrize("pool", ["10.88.0.0/13", "2001:db8:88::/64"], ids=["/13", "IPv6 /64"])
def test_a_big_pool_costs_no_more_than_a_small_one(cni: Cni, pool: str) -> None:
    """In processor time: an allocator that lists its pool would need seconds for half a million addresses."""
    cni.with_pool("2001:db8:99::/120" if ":" in pool else "10.128.0.0/28")
    small = processor_seconds(cni)
    cni.network = cni.network.named("big")
    cni.with_pool(pool)
    big = processor_seconds(cni)
    assert big < 2 * small + 0.05, f"{small:.3f} s with a small pool, {big:.3f} s with {pool}"


def processor_seconds(cni: Cni) -> float:
    """What the cheapest of three ADDs takes."""
    costs = []
    for number, pod in enumerate(cni.pods(3)):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        cni.add(f"{cni.network.name}{number}", pod).ok()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(costs)


@case(56, "S", "parallel_networks")
def test_networks_of_different_names_keep_their_books_apart(cni: Cni) -> None:
    """SPEC.md section 1: a network's name is unique. DEL of one may not free what the other gave to the container."""
    cni.with_pool(POOL)
    second = cni.network.named("second").with_ranges("10.88.2.0/29").with_ipam(routes=[{"dst": "172.31.0.0/16"}])
    pod = cni.pod()
    first = cni.add("abc", pod).address
    cni.add("abc", pod, "net1", network=second).ok()
    cni.delete("abc", pod, "net1", network=second).ok()
    assert first not in cni.capacity(8)
    assert json.loads(pod.run(["ip", "-j", "link", "show", "eth0"]).stdout)
