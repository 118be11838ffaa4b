"""Cases 76-79: CHECK tells whether an attachment is still what its result says.

SPEC.md section 2, CHECK: the plugin must consult prevResult, should return an error when something is missing or
invalid, and must leave room for what later plugins of the list change.
"""

import pytest

from tests.conformance.cni import site
from tests.conformance.cni.cases import case
from tests.conformance.cni.test_delete import HOST_PORT
from tests.conformance.cni.workbench import Cni

# What is broken -> the command that breaks it; the words are those of the profile's `check_covers`.
IN_POD = {
    "address": ["ip", "address", "flush", "dev", "eth0"],
    "route": ["ip", "route", "del", "default"],
    "link down": ["ip", "link", "set", "eth0", "down"],
    "link gone": ["ip", "link", "delete", "eth0"],
    "mac": ["ip", "link", "set", "eth0", "address", "02:00:00:00:00:07"],
    "mtu": ["ip", "link", "set", "eth0", "mtu", "1290"],
}
ON_NODE = {
    "host link down": "ip link set LINK down",
    "host route": "ip route del ADDRESS",
    "host neighbour": "ip neigh del ADDRESS dev LINK",
    "nat rules": "nft flush ruleset",
}


@pytest.fixture(autouse=True)
def has_check(request: pytest.FixtureRequest) -> None:
    """CHECK came with 0.4.0."""
    cni: Cni = request.getfixturevalue("cni")
    cni.subject.need_version("0.4.0")


@case(76, "S", "check_right_after_add")
@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_check_is_content_right_after_add(cni: Cni, version: str) -> None:
    """SPEC.md, CHECK: the plugin must handle that."""
    if version not in cni.subject.versions:
        pytest.skip(f"the plugin does not speak {version}")
    network = cni.network.at(version)
    pod = cni.pod()
    cni.add("abc", pod, network=network, capabilities=HOST_PORT).ok()
    cni.check("abc", pod, network=network).ok()
    cni.check("abc", pod, network=network).ok()


@case(76, "S", "check_right_after_add")
@pytest.mark.parametrize("pools", [("2001:db8:88::/64",), ("10.88.0.0/24", "2001:db8:88::/64")], ids=["v6", "dual"])
def test_check_is_content_with_ipv6(cni: Cni, pools: tuple[str, ...]) -> None:
    cni.with_pool(*pools)
    pod = cni.pod()
    cni.add("abc", pod).ok()
    cni.check("abc", pod).ok()


@case(77, "S", "check_broken")
@pytest.mark.parametrize("what", IN_POD)
def test_check_finds_what_is_broken_in_the_pod(cni: Cni, what: str) -> None:
    covers(cni, what)
    pod = cni.pod()
    result = cni.add("abc", pod).result
    if what == "mtu" and not any("mtu" in end for end in result["interfaces"] if end.get("sandbox")):
        pytest.skip("the result names no MTU to compare with")
    cni.check("abc", pod).ok()
    pod.run(IN_POD[what])
    cni.check("abc", pod).refused(*cni.subject.codes("check_mismatch"))


@case(77, "S", "check_broken")
@pytest.mark.parametrize("what", ON_NODE)
def test_check_finds_what_is_broken_on_the_node(cni: Cni, what: str) -> None:
    """SPEC.md, CHECK: what prevResult does not show should be checked as well, firewall rules for one."""
    cni.subject.need("host_end")
    covers(cni, what)
    pod = cni.pod()
    answer = cni.add("abc", pod, capabilities=HOST_PORT)
    link = cni.host_links(answer.result)[0]
    command = ON_NODE[what].replace("LINK", link).replace("ADDRESS", answer.address)
    cni.check("abc", pod).ok()
    if cni.site.space.run(command.split(), check=False).returncode:
        pytest.skip(f"the plugin makes nothing that `{command}` could take away")
    cni.check("abc", pod).refused(*cni.subject.codes("check_mismatch"))


@case(77, "S", "check_broken")
def test_check_finds_a_lost_reservation(cni: Cni) -> None:
    """SPEC.md, CHECK: reservations of addresses are among what should be checked."""
    cni.subject.need_state()
    pod = cni.pod()
    answer = cni.add("abc", pod)
    folder = cni.subject.profile.state.folder
    claims = [name for name in cni.site.files(folder) if name.rpartition("/")[2] == answer.address]
    if not claims:
        pytest.skip(f"no file of {folder} is named after the address")
    cni.check("abc", pod).ok()
    cni.site.path(f"{folder}/{claims[0]}").unlink()
    cni.check("abc", pod).refused()


def covers(cni: Cni, what: str) -> None:
    """Skip what the plugin's profile says that its CHECK does not look at, by design."""
    covered = cni.subject.profile.check_covers
    if covered is not None and what not in covered:
        pytest.skip(f"profile {cni.subject.profile.name}: its CHECK does not look at: {what}")


@case(78, "S", "check_chain_changed")
@pytest.mark.parametrize(
    "change",
    [
        ["ip", "route", "add", "172.31.0.0/16", "dev", "eth0"],
        ["ip", "address", "add", "172.31.0.1/16", "dev", "eth0"],
        ["ip", "link", "add", "net9", "type", "veth", "peer", "name", "net10"],
    ],
    ids=["a route", "an address", "a link"],
)
def test_check_tolerates_what_later_plugins_add(cni: Cni, change: list[str]) -> None:
    """SPEC.md, CHECK: the plugin must allow for changes by later plugins of the list; routes for one."""
    pod = cni.pod()
    cni.add("abc", pod).ok()
    pod.run(change)
    cni.check("abc", pod).ok()


@case(78, "S", "check_chain_changed")
def test_check_takes_the_mtu_that_prev_result_tells(cni: Cni) -> None:
    """A later plugin changed the MTU and said so in the result: that is what CHECK has to find."""
    cni.subject.need_version("1.1.0")
    pod = cni.pod()
    result = cni.add("abc", pod).result
    ends = [{**end, "mtu": 1300} if end.get("sandbox") else end for end in result["interfaces"]]
    pod.run(["ip", "link", "set", "eth0", "mtu", "1300"])
    cni.check("abc", pod, prevResult={**result, "interfaces": ends}).ok()


@case(79, "S", "check_no_prevresult")
def test_check_without_a_result_to_compare_with_is_refused(cni: Cni) -> None:
    """SPEC.md, CHECK: the runtime must give prevResult, and the plugin must consult it."""
    pod = cni.pod()
    cni.add("abc", pod).ok()
    cni.call("CHECK", "abc", pod).refused()


@case(79, "S", "check_no_prevresult")
def test_check_of_what_was_never_added_is_an_error(cni: Cni) -> None:
    pod, other = cni.pods(2)
    result = cni.add("abc", pod).result
    assert "eth0" not in site.links(other)
    cni.call("CHECK", "other", other, prevResult=result).refused()
