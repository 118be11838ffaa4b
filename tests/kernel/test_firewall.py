"""Chains that drop forwarded packets are named, whichever tool made them; others are not."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import OUTSIDE_ADDRESS, Node
from tests.lab.netns import Namespace

REPOSITORY = Path(__file__).resolve().parents[2]
FORWARD = Path(__file__).with_name("forward.py")

pytestmark = pytest.mark.root


def drops(space: Namespace) -> dict[str, list[str]]:
    """What the module says of a namespace, by family and certainty."""
    run = space.run(["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-B", FORWARD])
    seen: dict[str, list[str]] = json.loads(run.stdout)
    return seen


@pytest.fixture
def space() -> Iterator[Namespace]:
    with Namespace() as space:
        yield space


def chain(space: Namespace, table: str, name: str, spec: str, *rules: str) -> None:
    """A base chain with rules, in a table that is made if needed."""
    lines = [f"add table {table}", f"add chain {table} {name} {{ {spec} }}"]
    space.run(["nft", "-f", "-"], input="\n".join(lines + [f"add rule {table} {name} {rule}" for rule in rules]) + "\n")


FORWARDING = "type filter hook forward priority 0;"


def test_a_namespace_without_rules_drops_nothing(space: Namespace) -> None:
    assert set(map(tuple, drops(space).values())) == {()}


@pytest.mark.parametrize(
    ("family", "seen_by"),
    [("ip", ["ipv4"]), ("ip6", ["ipv6"]), ("inet", ["ipv4", "ipv6"]), ("bridge", []), ("arp", [])],
)
def test_a_policy_of_drop_is_named_for_its_families(space: Namespace, family: str, seen_by: list[str]) -> None:
    hook = FORWARDING.replace("forward", "input") if family == "arp" else FORWARDING
    chain(space, f"{family} their-own", "FORWARD", f"{hook} policy drop;")
    line = f"nft table {family} their-own chain FORWARD has policy drop"
    assert drops(space) == {
        key: [line] if key.split()[0] in seen_by else [] for key in ("ipv4", "ipv4 certain", "ipv6", "ipv6 certain")
    }


def test_rules_before_the_policy_make_it_uncertain(space: Namespace) -> None:
    chain(space, "inet fw", "f", f"{FORWARDING} policy drop;", "iifname docker0 accept", "ct state established accept")
    seen = drops(space)
    assert seen["ipv4"] == ["nft table inet fw chain f has policy drop after 2 rules"]
    assert seen["ipv4 certain"] == []


@pytest.mark.parametrize("rule", ["drop", "counter drop", "reject", "log counter reject with icmpx admin-prohibited"])
def test_a_last_rule_that_refuses_everything_is_named(space: Namespace, rule: str) -> None:
    chain(space, "inet firewalld", "filter_FORWARD", FORWARDING, rule)
    line = "nft table inet firewalld chain filter_FORWARD refuses everything"
    assert drops(space)["ipv6 certain"] == [line]
    space.run(["nft", "insert", "rule", "inet", "firewalld", "filter_FORWARD", "ct state established accept"])
    assert drops(space)["ipv6 certain"] == []
    assert drops(space)["ipv6"] == [f"{line} after 1 rule"]


@pytest.mark.parametrize(
    ("spec", "rules"),
    [
        pytest.param(FORWARDING, ["ip saddr 192.0.2.1 drop"], id="drops one source"),
        pytest.param(FORWARDING, ["tcp dport 22 reject"], id="rejects one port"),
        pytest.param(FORWARDING, ["drop", "accept"], id="does not end with it"),
        pytest.param(FORWARDING, ["counter", "log"], id="counts and logs"),
        pytest.param("type filter hook input priority 0; policy drop;", ["drop"], id="another hook"),
        pytest.param("type filter hook prerouting priority 2; policy drop;", [], id="another hook, priority 2"),
        pytest.param("", ["drop"], id="no hook"),
    ],
)
def test_what_lets_forwarded_packets_pass_is_not_named(space: Namespace, spec: str, rules: list[str]) -> None:
    chain(space, "inet fw", "c", spec, *rules)
    assert set(map(tuple, drops(space).values())) == {()}


def tool(name: str) -> str:
    """The path of an iptables program, else a skip that names it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_a_policy_that_iptables_set_is_named(space: Namespace, family: str, kind: str) -> None:
    name = "ip" if family == "ipv4" else "ip6"
    program = tool(f"{name}tables-{kind}")
    where = f"nft table {name} filter" if kind == "nft" else f"{name}tables-legacy table filter"
    space.run([program, "-P", "FORWARD", "ACCEPT"])
    assert set(map(tuple, drops(space).values())) == {()}
    space.run([program, "-P", "FORWARD", "DROP"])
    other = "ipv6" if family == "ipv4" else "ipv4"
    line = f"{where} chain FORWARD has policy drop"
    assert drops(space) == {family: [line], f"{family} certain": [line], other: [], f"{other} certain": []}
    space.run([program, "-N", "DOCKER-USER"])
    space.run([program, "-A", "DOCKER-USER", "-j", "RETURN"])
    for rule in (["-j", "DOCKER-USER"], ["-i", "docker0", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"]):
        space.run([program, "-A", "FORWARD", *rule])
    # The policies of the other chains say nothing of forwarding.
    space.run([program, "-P", "INPUT", "DROP"])
    assert drops(space)[family] == [f"{line} after 2 rules"]
    assert drops(space)[f"{family} certain"] == []
    space.run([program, "-P", "FORWARD", "ACCEPT"])
    assert drops(space)[family] == []


def test_asking_makes_no_legacy_table(space: Namespace) -> None:
    names = ["cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
    before = space.run(names, check=False).stdout
    drops(space)
    assert space.run(names, check=False).stdout == before


def test_chains_are_found_among_thousands(space: Namespace) -> None:
    script = "".join(f"add chain ip kube-proxy service-{number:05}-default-web\n" for number in range(3000))
    hooked = f"add chain ip kube-proxy f {{ {FORWARDING} policy drop; }}\n"
    space.run(["nft", "-f", "-"], input="add table ip kube-proxy\n" + script + hooked + script.replace("web", "db"))
    assert drops(space)["ipv4"] == ["nft table ip kube-proxy chain f has policy drop"]


def test_what_is_called_certain_is_what_packets_meet(node: Node) -> None:
    pod = node.pod()
    node.add("abc", pod)
    node.serve(node.outside, OUTSIDE_ADDRESS, 90)
    assert node.ask(pod, OUTSIDE_ADDRESS, 90) != "no answer"
    assert drops(node.space)["ipv4"] == []
    chain(node.space, "inet fw", "f", f"{FORWARDING} policy drop;")
    assert drops(node.space)["ipv4 certain"] == ["nft table inet fw chain f has policy drop"]
    assert node.refused(pod, OUTSIDE_ADDRESS, 90)
