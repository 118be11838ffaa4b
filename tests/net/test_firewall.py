"""The walk through a firewall's rules, on rules as nft and iptables print them."""

from typing import Any

import pytest

from cni_plugin.net import firewall

OUT = firewall.Packet("out", 4, "pw1", "eth0", 28791, 0, "10.244.0.5", "198.51.100.1")
IN = firewall.Packet("in", 4, "eth0", "pw1", 0, 28791, "198.51.100.1", "10.244.0.5")
OUT6 = firewall.Packet("out6", 6, "pw1", "eth0", 28791, 0, "fd00::5", "2001:db8::1")
UNKNOWN = firewall.Packet("unknown", 4, "pw1", "eth0", 28791, 0, "", "198.51.100.1")


def dropped(text: str, *packets: firewall.Packet, family: str = "ip") -> list[str]:
    """Which packets the rules drop, and by what."""
    ruleset = firewall.of_legacy(text, family)
    found = [next(firewall.drops(ruleset, [packet]), None) for packet in packets or (OUT, IN)]
    return [f"{each.packet.what}: {each.rule or 'policy'}" for each in found if each]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("-P FORWARD ACCEPT", []),
        ("-P FORWARD DROP", ["out: policy", "in: policy"]),
        ("-P FORWARD DROP\n-A FORWARD -i pw+ -j ACCEPT", ["in: policy"]),
        ("-P FORWARD DROP\n-A FORWARD -i pw+ -j ACCEPT\n-A FORWARD -o pw+ -j ACCEPT", []),
        ("-P FORWARD DROP\n-A FORWARD -s 10.244.0.0/16 -j ACCEPT\n-A FORWARD -d 10.244.0.0/16 -j ACCEPT", []),
        ("-P FORWARD DROP\n-A FORWARD -s 10.244.0.6/32 -j ACCEPT", ["out: policy", "in: policy"]),
        ("-P FORWARD DROP\n-A FORWARD ! -s 10.0.0.0/8 -j ACCEPT", ["out: policy"]),
        (
            "-P FORWARD DROP\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            ["out: policy", "in: policy"],
        ),
        ("-P FORWARD DROP\n-A FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT", ["out: policy", "in: policy"]),
        ("-P FORWARD DROP\n-A FORWARD -i pw+ -m mark --mark 0x1 -j ACCEPT", ["in: policy"]),
        ('-P FORWARD ACCEPT\n-A FORWARD -m comment --comment "no way" -j DROP', ["out", "in"]),
        ("-P FORWARD ACCEPT\n-A FORWARD -p tcp -m tcp --dport 25 -j DROP", []),
        ("-P FORWARD ACCEPT\n-N A\n-A FORWARD -j A\n-A A -o pw+ -j REJECT --reject-with icmp-port-unreachable", ["in"]),
        ("-P FORWARD DROP\n-N A\n-A FORWARD -j A\n-A FORWARD -j ACCEPT\n-A A -j RETURN\n-A A -j DROP", []),
        (
            "-P FORWARD DROP\n-N A\n-A FORWARD -g A\n-A FORWARD -j ACCEPT\n-A A -i docker0 -j DROP",
            ["out: policy", "in: policy"],
        ),
        ("-P FORWARD ACCEPT\n-N A\n-A FORWARD -j A\n-A A -j A", []),
        ("-P INPUT DROP", []),
    ],
    ids=lambda value: value.replace("\n", "; ") if isinstance(value, str) else "",
)
def test_iptables_rules_drop_what_they_drop(rules: str, expected: list[str]) -> None:
    found = dropped(rules)
    assert len(found) == len(expected), found
    for told, wanted in zip(found, expected, strict=True):
        assert told.startswith(wanted), found


def test_an_address_that_is_not_known_decides_nothing() -> None:
    assert dropped("-P FORWARD ACCEPT\n-A FORWARD -s 10.0.0.0/8 -j DROP", UNKNOWN) == []


def test_ipv6_packets_are_for_ipv6_chains() -> None:
    assert dropped("-P FORWARD DROP", OUT6) == []
    assert dropped("-P FORWARD DROP", OUT6, OUT, family="ip6") == ["out6: policy"]


def chain(*expressions: list[dict[str, Any]], policy: str = "accept", family: str = "inet") -> firewall.Ruleset:
    """A base chain at the forward hook with rules in nft's JSON."""
    place = {"family": family, "table": "t"}
    base = {"chain": place | {"name": "fw", "hook": "forward", "policy": policy}}
    return firewall.of_nft(
        [base, *({"rule": place | {"chain": "fw", "handle": 7, "expr": each}} for each in expressions)]
    )


def match(left: dict[str, Any], right: Any, operator: str = "==") -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


STATE, IIF = {"ct": {"key": "state"}}, {"meta": {"key": "iifname"}}
SADDR = {"payload": {"protocol": "ip", "field": "saddr"}}
DROP: dict[str, Any] = {"drop": None}


@pytest.mark.parametrize(
    ("expressions", "drops"),
    [
        ([match(STATE, ["new", "untracked"], "in"), DROP], True),
        ([match(STATE, "established"), DROP], False),
        ([match(IIF, {"set": ["eth0", "pw*"]}), {"reject": {"type": "icmpx"}}], True),
        ([match(IIF, "pw*", "!="), DROP], False),
        ([match({"meta": {"key": "iifgroup"}}, 28791), DROP], True),
        ([match(SADDR, {"range": ["10.244.0.1", "10.244.0.9"]}), DROP], True),
        ([match(SADDR, {"set": [{"prefix": {"addr": "10.244.1.0", "len": 24}}]}), DROP], False),
        ([match(SADDR, "@blocked"), DROP], False),
        ([match({"&": [{"meta": {"key": "mark"}}, 1]}, 1), DROP], False),
        ([match({"meta": {"key": "nfproto"}}, "ipv6"), DROP], False),
        ([match({"meta": {"key": "nfproto"}}, "ipv4"), DROP], True),
        ([match(STATE, "new", "<"), DROP], False),
        ([{"limit": {"rate": 5}}, DROP], False),
        ([{"counter": {"packets": 0}}, {"xt": {"type": "match", "name": "comment"}}, DROP], True),
        ([{"xt": {"type": "match", "name": "owner"}}, DROP], False),
        ([{"xt": {"type": "target", "name": "REJECT"}}], True),
        ([{"xt": {"type": "target", "name": "LOG"}}], False),
        ([{"xt": None}, DROP], False),
        ([{"vmap": {"key": STATE, "data": {"set": [["invalid", DROP], ["new", DROP]]}}}], True),
        ([{"vmap": {"key": STATE, "data": {"set": [["invalid", DROP]]}}}], False),
        ([{"vmap": {"key": IIF, "data": "@map"}}], False),
        ([{"jump": {"target": "nowhere"}}], False),
    ],
    ids=str,
)
def test_nft_rules_drop_what_they_drop(expressions: list[dict[str, Any]], drops: bool) -> None:
    assert [each.rule for each in firewall.drops(chain(expressions), [OUT])] == (["fw: rule handle 7"] if drops else [])


def test_a_rule_that_accepts_before_is_the_last() -> None:
    assert list(firewall.drops(chain([match(IIF, "pw*"), {"accept": None}], [DROP], policy="drop"), [OUT])) == []


def test_a_bridges_chain_is_no_router() -> None:
    assert list(firewall.drops(chain([DROP], family="bridge"), [OUT])) == []
