"""Cases 31-40: namespaces that are none, delegates that fail, and what a runtime asks for beside the configuration."""

import json
import os
from typing import Any

import pytest

from tests.conformance.cni import site
from tests.conformance.cni.cases import case
from tests.conformance.cni.runtime import Runtime
from tests.conformance.cni.workbench import Cni

K8S = "K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1;IgnoreUnknown=1"

# An IPAM plugin of a few lines of sh: notes every call with its environment and stdin, and answers from a file.
_FAKE_IPAM = """\
#!/bin/sh
cat > "{folder}/stdin.$CNI_COMMAND"
env > "{folder}/env.$CNI_COMMAND"
echo "$CNI_COMMAND" >> "{folder}/calls"
[ "$CNI_COMMAND" = VERSION ] && echo '{{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}}' && exit 0
[ "$CNI_COMMAND" = ADD ] || exit 0
{add}
"""
_GOOD = '{"cniVersion": "%s", "ips": [{"address": "10.88.0.9/24", "gateway": "10.88.0.1"}]}'


@case(31, "X", "netns_not_nsfs")
@pytest.mark.parametrize("what", ["a file", "a folder", "another kind of namespace", "a fifo", "a device"])
def test_what_is_no_network_namespace_is_refused(cni: Cni, what: str) -> None:
    before = cni.baseline()
    path = {"another kind of namespace": "/proc/self/ns/mnt", "a device": "/dev/zero"}.get(what, "/run/netns/odd")
    if what == "a file":
        cni.site.space.run(["touch", path])
    if what == "a folder":
        cni.site.space.run(["mkdir", path])
    if what == "a fifo":
        cni.site.space.run(["mkfifo", path])
    cni.add("abc", path, seconds=10).refused()
    cni.delete("abc").ok()
    cni.restored(before)


@case(32, "X", "netns_is_host")
@pytest.mark.parametrize("path", ["/proc/self/ns/net", "/proc/thread-self/ns/net"])
def test_the_nodes_own_namespace_is_refused_before_anything_is_made(cni: Cni, path: str) -> None:
    """SPEC.md section 3: to make a namespace is the runtime's part, and the plugin's is not said. libcni answers 8."""
    before = cni.baseline()
    cni.add("abc", path).refused()
    cni.delete("abc").ok()
    cni.restored(before)


@case(32, "X", "netns_is_host")
def test_del_never_removes_the_nodes_own_link(cni: Cni) -> None:
    path = f"/proc/{cni.site.space.pid}/ns/net"
    cni.call("DEL", "abc", path, env={"CNI_IFNAME": "uplink"}).pure()
    assert "uplink" in site.links(cni.site.space)


@case(33, "X", "netns_vanishes_midway")
def test_a_namespace_that_goes_away_during_add_leaves_nothing(cni: Cni) -> None:
    """Its name is removed at a random moment of ADD; what ADD then answers, DEL restores the node."""
    before = cni.baseline()
    first = cni.pod()
    typical = cni.add("typical", first).ok().seconds
    cni.delete("typical", first).ok()
    for attempt, pod in enumerate(cni.pods(6)):
        running = cni.start("ADD", f"abc{attempt}", pod)
        running.feed()
        moment(running, cni.random.uniform(0, typical))
        pod.vanish()
        running.finish().pure()
        cni.delete(f"abc{attempt}", pod.path, forgetful=True).ok()
    cni.restored(before)


def moment(running: Any, seconds: float) -> None:
    """Let a running plugin come so far: the time is what the case varies, not what it waits for."""
    import subprocess

    try:
        running.process.wait(timeout=max(seconds, 0.0005))
    except subprocess.TimeoutExpired:
        return


@case(34, "S", "delegate_fail_rolls_back")
@pytest.mark.parametrize(
    ("add", "code"),
    [
        ("""echo '{"cniVersion":"1.0.0","code":142,"msg":"no luck"}'; exit 1""", 142),
        ("""echo '{"cniVersion":"1.0.0","ips":[]}'""", 0),
        ("echo garbage", 0),
        ("kill -9 $$", 0),
        ("""echo '{"cniVersion":"1.0.0","ips":[{"address":"10.88.0.9"}]}'""", 0),
    ],
    ids=["error", "no addresses", "garbage", "killed", "no prefix length"],
)
def test_a_failing_delegate_fails_the_add_and_is_undone(cni: Cni, add: str, code: int) -> None:
    """SPEC.md section 4: when a delegate fails at ADD, the upper plugin should execute it with DEL, and then fail."""
    calls = fake_ipam(cni, add)
    before = site.links(cni.site.space).keys()
    answer = cni.call("ADD", "abc", cni.pod()).refused(*([code] if code else []))
    assert code == 0 or "no luck" in answer.message
    assert "DEL" in calls().split(), f"the delegate was called with {calls().split()}, and not with DEL"
    assert site.links(cni.site.space).keys() - before <= cni.shared_links


@case(35, "S", "delegate_env")
def test_a_delegate_gets_the_same_environment_and_the_whole_configuration(cni: Cni) -> None:
    """SPEC.md section 4: the delegate receives the complete configuration and the same variables."""
    fake_ipam(cni, f"echo '{_GOOD % cni.network.version}'")
    pod = cni.pod()
    variables = cni.environment("ADD", "abc", pod, CNI_ARGS="IgnoreUnknown=1;A=B")
    cni.call("ADD", "abc", pod, env={"CNI_ARGS": "IgnoreUnknown=1;A=B"}).ok()
    seen = dict(line.split("=", 1) for line in (cni.folder / "env.ADD").read_text().splitlines() if "=" in line)
    assert {name: seen.get(name) for name in variables} == variables
    assert json.loads((cni.folder / "stdin.ADD").read_text()) == cni.network.document(cni.network.position)


def fake_ipam(cni: Cni, add: str) -> Any:
    """Make the network delegate to a plugin of a few lines; returns what tells the verbs it was called with."""
    cni.subject.need("delegated_ipam")
    program = cni.folder / "bin" / "fake-ipam"
    program.parent.mkdir()
    program.write_text(_FAKE_IPAM.format(folder=cni.folder, add=add))
    program.chmod(0o755)
    os.utime(program)
    cni.runtime = Runtime(cni.site, [program.parent, *cni.subject.search])
    cni.network = cni.network.with_entry(ipam={"type": "fake-ipam"}, isGateway=None, ipMasq=None)
    return (cni.folder / "calls").read_text


@case(36, "S", "prevresult_passthrough")
def test_a_later_plugin_passes_the_earlier_result_on(cni: Cni) -> None:
    """SPEC.md section 5: a prevResult must be output as the result, with what the plugin changes in it."""
    cni.subject.need("chain")
    pod = cni.pod()
    first = cni.call("ADD", "abc", pod).result if cni.network.position == 0 else None
    cni.call("DEL", "abc", pod).ok()
    last = cni.add("abc", pod).result
    if first is not None:
        assert [entry.keys() for entry in last["ips"]] == [entry.keys() for entry in first["ips"]]
        assert last.get("routes") == first.get("routes")
        assert [end["name"] for end in last["interfaces"] if end.get("sandbox")] == ["eth0"]


@case(36, "S", "prevresult_passthrough")
def test_a_plugin_that_makes_interfaces_does_not_swallow_a_previous_result(cni: Cni) -> None:
    """SPEC.md section 2, ADD: it MUST pass that through or modify it. A refusal is let pass: nothing is lost then."""
    earlier = {
        "cniVersion": cni.network.version,
        "interfaces": [{"name": "net9", "sandbox": "/run/netns/x"}],
        "ips": [],
    }
    pod = cni.pod()
    answer = cni.call("ADD", "abc", pod, prevResult=earlier)
    if answer.succeeded:
        assert "net9" in [end["name"] for end in answer.result["interfaces"]], answer
    else:
        answer.refused()


@case(37, "S", "capabilities")
def test_ips_asks_for_an_address(cni: Cni) -> None:
    """CONVENTIONS.md, ips: addresses, with the prefix length that a plugin may require."""
    cni.subject.need_capability("ips")
    cni.with_pool("10.88.0.0/24")
    answer = cni.add("abc", cni.pod(), capabilities={"ips": ["10.88.0.77/24"]})
    assert answer.addresses == ["10.88.0.77"]


@case(37, "S", "capabilities")
def test_mac_asks_for_a_hardware_address(cni: Cni) -> None:
    cni.subject.need_capability("mac")
    cni.subject.need("static_mac")
    pod = cni.pod()
    cni.add("abc", pod, capabilities={"mac": "02:11:22:33:44:55"}).ok()
    assert site.links(pod)["eth0"]["address"] == "02:11:22:33:44:55"


@case(37, "S", "capabilities")
def test_ip_ranges_of_the_runtime_come_first(cni: Cni) -> None:
    """CONVENTIONS.md, ipRanges: the outer list are range sets, one address is given of each."""
    cni.subject.need_capability("ipRanges")
    cni.subject.need("ipv4")
    network = cni.network.with_ipam(ranges=None, routes=[{"dst": "0.0.0.0/0"}])
    answer = cni.add("abc", cni.pod(), network=network, capabilities={"ipRanges": [[{"subnet": "10.91.0.0/24"}]]})
    assert answer.address.startswith("10.91.0.")


@case(37, "S", "capabilities")
def test_dns_of_the_runtime_is_in_the_result(cni: Cni) -> None:
    cni.subject.need_capability("dns")
    dns = {"servers": ["192.0.2.53"], "searches": ["svc.example.org"], "options": ["ndots:5"]}
    found = cni.add("abc", cni.pod(), capabilities={"dns": dns}).result["dns"]
    assert found == {"nameservers": dns["servers"], "search": dns["searches"], "options": dns["options"]}


@case(37, "S", "capabilities")
def test_a_runtime_config_that_nobody_declared_is_harmless(cni: Cni) -> None:
    """Old runtimes pass what they have; a plugin takes what it knows."""
    config = {"aliases": {"net": ["a"]}, "cgroupPath": "/kubepods/x", "io.kubernetes.cri.pod-annotations": {"k": "v"}}
    assert cni.call("ADD", "abc", cni.pod(), runtimeConfig=config).addresses


@case(38, "S", "cni_args_ip")
@pytest.mark.parametrize("given", ["IP=", "args over IP=", "ips over all"])
def test_an_address_is_asked_for_in_the_order_of_the_conventions(cni: Cni, given: str) -> None:
    """CONVENTIONS.md, CNI_ARGS: a plugin that understands `args` must ignore IP=.

    No text ranks a capability before `args`, but the plugin is expected to act on it or to fail: it may refuse the two.
    """
    cni.subject.need("cni_args_ip")
    cni.with_pool("10.88.0.0/24")
    more: dict[str, Any] = {"args": "IP=10.88.0.50;IgnoreUnknown=1"}
    wanted = "10.88.0.50"
    network = cni.network
    if given != "IP=":
        network, wanted = network.with_entry(args={"cni": {"ips": ["10.88.0.60"]}}), "10.88.0.60"
    if given == "ips over all":
        cni.subject.need_capability("ips")
        more["capabilities"], wanted = {"ips": ["10.88.0.70/24"]}, "10.88.0.70"
    answer = cni.add("abc", cni.pod(), network=network, **more)
    if given != "ips over all" or answer.succeeded or cni.subject.has("request_precedence"):
        assert answer.addresses == [wanted], answer
    else:
        answer.refused()


@case(39, "S", "cni_args_bad")
@pytest.mark.parametrize("args", ["A", "A=B=C", "IgnoreUnknown=maybe;A=B"])
def test_malformed_args_are_refused(cni: Cni, args: str) -> None:
    """libcni's LoadArgs: each pair has one `=`; an unknown key is an error without IgnoreUnknown."""
    cni.subject.need("ipam")
    cni.add("abc", cni.pod(), args=args).refused()


@case(39, "S", "cni_args_bad")
def test_the_order_of_args_is_of_no_meaning(cni: Cni) -> None:
    """containerd writes them in the random order of a Go map."""
    pairs = K8S.format(namespace="default", name="web-0").split(";")
    for number in range(3):
        cni.random.shuffle(pairs)
        assert cni.add(f"abc{number}", cni.pod(), args=";".join(pairs)).addresses


@case(40, "X", "k8s_args_escapes")
@pytest.mark.parametrize(
    "name", ["a" * 253, "web.0.example-1", "x" * 63 + "." + "y" * 63], ids=["253", "dots", "labels"]
)
def test_long_names_of_pods_do_no_harm(cni: Cni, name: str) -> None:
    args = K8S.format(namespace="n" * 63, name=name)
    pod = cni.pod()
    assert cni.add("a" * 64, pod, args=args).addresses
    cni.delete("a" * 64, pod).ok()
