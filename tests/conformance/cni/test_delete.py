"""Cases 68-75: DEL needs nothing but its arguments, frees what is its own, and touches nothing else.

SPEC.md section 2, DEL: a plugin should complete without error even if things are missing, and must accept more calls.
In the words of 0.4.0, without CNI_NETNS or prevResult it should clean up as much as possible and succeed.
"""

from typing import Any

import pytest

from tests.conformance.cni import site, traffic
from tests.conformance.cni.cases import case
from tests.conformance.cni.workbench import Cni

HOST_PORT = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}


@case(68, "S", "del_needs_nothing")
@pytest.mark.parametrize(
    "how",
    [
        "twice",
        "never added",
        "namespace gone",
        "namespace not given",
        "no prevResult",
        "prevResult of nothing",
        "prevResult of another address",
    ],
)
def test_del_succeeds_and_frees_the_address(cni: Cni, how: str) -> None:
    before = cni.baseline()
    pod = cni.pod()
    more: dict[str, Any] = {}
    target: Any = pod
    if how != "never added":
        cni.add("abc", pod).ok()
    if how == "twice":
        cni.delete("abc", pod).ok()
    if how in ("namespace gone", "namespace not given"):
        # A runtime leaves CNI_NETNS out when the container, and its namespace with it, is gone.
        pod.vanish()
        target = "" if how == "namespace not given" else pod.path
    if how == "no prevResult":
        more["forgetful"] = True
    if how == "prevResult of nothing":
        more["prevResult"] = {"cniVersion": cni.network.version}
    if how == "prevResult of another address":
        more["prevResult"] = {
            "cniVersion": cni.network.version,
            "interfaces": [{"name": "eth0", "sandbox": pod.path}],
            "ips": [{"address": "10.88.0.250/24", "interface": 0}],
        }
    cni.delete("abc", target, **more).ok()
    cni.restored(before)


@case(68, "S", "del_needs_nothing")
@pytest.mark.parametrize("wrong", [{"cniVersion": 7, "ips": "none"}, "text", []], ids=["types", "a text", "a list"])
def test_a_prev_result_that_is_none_keeps_nobody_from_being_deleted(cni: Cni, wrong: Any) -> None:
    """A refusal is possible here, if DEL without prevResult then succeeds: runtimes with a broken cache do that."""
    before = cni.baseline()
    pod = cni.pod()
    cni.add("abc", pod).ok()
    cni.call("DEL", "abc", pod, prevResult=wrong).pure()
    cni.delete("abc", pod, forgetful=True).ok()
    cni.restored(before)


@case(68, "S", "del_needs_nothing")
def test_an_address_is_free_again_without_the_namespace(cni: Cni) -> None:
    cni.with_pool("10.88.1.0/29")
    for number, pod in enumerate(cni.pods(12)):
        cni.add(f"abc{number}", pod).ok()
        pod.vanish()
        cni.delete(f"abc{number}").ok()


@case(69, "X", "del_other_owner")
def test_a_stale_del_does_not_touch_the_next_owner_of_an_address(cni: Cni) -> None:
    cni.with_pool("10.88.1.0/29")
    old, attachments = {}, []
    for number, pod in enumerate(cni.pods(12)):
        name = f"old{number}"
        answer = cni.add(name, pod, capabilities=HOST_PORT)
        if not answer.succeeded:
            break
        old[answer.address] = (name, pod)
        attachments.append(cni.runtime.attachments[cni.network.name, name, "eth0"])
        cni.delete(name, pod).ok()
    pod = cni.pod()
    fresh = cni.add("fresh", pod, capabilities=HOST_PORT)
    held, inside = cni.holdings(), site.shape(pod)
    assert fresh.address in old, "the pool is small, so an address has to come again"
    name, former = old[fresh.address]
    cni.runtime.attachments[cni.network.name, name, "eth0"] = attachments[list(old).index(fresh.address)]
    cni.delete(name, former).ok()
    cni.delete(name, former, forgetful=True).ok()
    cni.restored(held)
    assert site.shape(pod) == inside


@case(70, "X", "del_foreign_link")
def test_a_foreign_link_with_the_name_of_ours_is_left_alone(cni: Cni) -> None:
    """The pod died with its link; somebody else then has that name."""
    cni.subject.need("host_end")
    pod = cni.pod()
    result = cni.add("abc", pod).result
    names = cni.host_links(result)
    pod.vanish()
    for name in names:
        cni.site.space.run(["ip", "link", "delete", name], check=False)
        cni.site.space.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"p{name}"[:15]], check=False)
    cni.delete("abc", pod.path).ok()
    assert set(names) <= set(site.links(cni.site.space))


@case(71, "X", "del_config_changed")
@pytest.mark.parametrize("change", ["another range", "no masquerade", "no capabilities", "another version"])
def test_del_undoes_what_add_did_and_not_what_the_configuration_says_now(cni: Cni, change: str) -> None:
    """Operators edit configurations while pods run."""
    before = cni.baseline()
    pod = cni.pod()
    cni.add("abc", pod, capabilities=HOST_PORT).ok()
    network = cni.network
    if change == "another range":
        network = cni.network if not cni.subject.has("ipam") else cni.network.with_ranges("10.123.0.0/24")
    if change == "no masquerade":
        network = cni.network.with_entry(ipMasq=False)
    if change == "no capabilities":
        network = cni.network.with_key("capabilities", None)
    if change == "another version":
        network = cni.network.at(cni.subject.versions[-2])
    cni.delete("abc", pod, network=network).ok()
    cni.restored(before)


@case(72, "X", "del_state_missing")
def test_without_its_state_del_removes_at_least_the_link(cni: Cni) -> None:
    cni.subject.need_state()
    links = cni.site.links().keys()
    pod = cni.pod()
    cni.add("abc", pod).ok()
    cni.site.space.run(["rm", "-rf", cni.subject.profile.state.folder])
    cni.delete("abc", pod).ok()
    assert "eth0" not in site.links(pod)
    assert cni.site.links().keys() - links <= cni.shared_links


@case(72, "X", "del_state_missing")
def test_del_works_without_the_tools_that_it_may_use(cni: Cni) -> None:
    """nft and iptables are not on the path: an error that a runtime can retry is as good, if the retry then works."""
    before = cni.baseline()
    pod = cni.pod()
    cni.add("abc", pod, capabilities=HOST_PORT).ok()
    cni.call("DEL", "abc", pod, env={"PATH": "/nonexistent"}).pure()
    cni.delete("abc", pod).ok()
    cni.restored(before)


@case(73, "X", "del_without_netns_cleans")
def test_del_without_the_namespace_removes_nat_rules_and_elements_too(cni: Cni) -> None:
    before = cni.baseline()
    pod = cni.pod()
    cni.add("abc", pod, capabilities=HOST_PORT).ok()
    pod.vanish()
    cni.delete("abc").ok()
    cni.restored(before)


@case(74, "X", "del_flushes_udp_conntrack")
def test_the_next_pod_with_a_udp_host_port_gets_the_datagrams(cni: Cni) -> None:
    """A client that goes on sending keeps the old translation alive, unless DEL or the next ADD flushes it."""
    cni.subject.need_capability("portMappings")
    cni.subject.need("conntrack", "outside_traffic", "ipv4")
    ports = {"portMappings": [{"hostPort": 5353, "containerPort": 53, "protocol": "udp"}]}
    answers = []
    for name in ("first", "second"):
        pod = cni.pod()
        address = cni.add(name, pod, capabilities=ports).address
        traffic.serve(cni, pod, address, 53, "udp", says=name)
        answers.append(traffic.ask(cni.site.outside, site.NODE4, 5353, "udp", source_port=40000))
        cni.delete(name, pod).ok()
    assert answers == ["first", "second"]


@case(75, "R", "del_after_uninstall")
def test_del_works_when_only_the_executable_is_left(cni: Cni) -> None:
    """The conflist and the agent are gone: a runtime still has the configuration, and may have lost the result."""
    before = cni.baseline()
    pod = cni.pod()
    cni.add("abc", pod).ok()
    cni.delete("abc", pod, prevResult=None).ok()
    cni.restored(before)
