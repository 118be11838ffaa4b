"""Whether a firewall's FORWARD chains would drop pods' traffic: rules as data, walked with a packet that might come.

An accept in one table does not help against a drop in another: every chain at the hook has its say. A match that is
not understood here (a mark, a port, an extension) makes its rule undecided, and an undecided rule is passed over.
"""

import ipaddress
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
_DEPTH = 16


@dataclass(frozen=True)
class Packet:
    """A packet to forward. An address is empty where none is known."""

    what: str
    family: int
    iifname: str
    oifname: str
    iifgroup: int
    oifgroup: int
    saddr: str
    daddr: str
    state: str = "new"


@dataclass(frozen=True)
class Match:
    """One condition: `field` of the packet (empty when not understood) against any of `values`."""

    field: str
    values: tuple[Any, ...]
    negated: bool = False

    def of(self, packet: Packet) -> bool | None:
        """True, False, or None for undecided."""
        value = getattr(packet, self.field) if self.field else ""
        if value == "":
            return None
        hits = [_equals(value, each) for each in self.values]
        if None in hits and True not in hits:
            return None
        return (True in hits) != self.negated


@dataclass(frozen=True)
class Rule:
    """Conditions, and what happens when all hold: accept, drop, return, continue, or jump/goto with a chain.

    `verdict` may be a list of (value, verdict, target) for a verdict map of `field`.
    """

    matches: tuple[Match, ...]
    verdict: str
    target: str = ""
    text: str = ""


@dataclass
class Chain:
    """A chain; `hook` and `policy` are empty unless the kernel calls it. `program` is nft or iptables-legacy."""

    family: str
    table: str
    name: str
    program: str = "nft"
    hook: str = ""
    policy: str = ""
    rules: list[Rule] = field(default_factory=list)


Ruleset = dict[tuple[str, str, str], Chain]


@dataclass(frozen=True)
class Drop:
    """A chain at the forward hook that drops a packet, by `rule` or, when that is empty, by its policy."""

    chain: Chain
    packet: Packet
    rule: str


def drops(ruleset: Ruleset, packets: list[Packet]) -> Iterator[Drop]:
    """Every chain at the hook, and the first packet that it drops."""
    for chain in ruleset.values():
        if chain.hook != "forward" or chain.family not in FAMILIES:
            continue
        for packet in packets:
            if packet.family not in FAMILIES[chain.family]:
                continue
            found = _walk(ruleset, chain, packet)
            if found is not None:
                yield found
                break


class _Walk:
    def __init__(self, ruleset: Ruleset, packet: Packet) -> None:
        self.ruleset, self.packet = ruleset, packet
        # Some rule would have accepted exactly these links or addresses, under a condition not understood.
        self.perhaps = False

    def chain(self, chain: Chain, depth: int = 0) -> tuple[str, str]:
        """(accept, drop or continue, the deciding rule)."""
        for rule in chain.rules:
            results = [match.of(self.packet) for match in rule.matches]
            if False in results:
                continue
            if None in results:
                self.perhaps = self.perhaps or (rule.verdict == "accept" and True in results)
                continue
            if rule.verdict in ("accept", "drop"):
                return rule.verdict, f"{chain.name}: {rule.text}"
            if rule.verdict == "return":
                return "continue", ""
            target = self.ruleset.get((chain.family, chain.table, rule.target))
            if rule.verdict in ("jump", "goto") and target is not None and depth < _DEPTH:
                verdict = self.chain(target, depth + 1)
                if verdict[0] != "continue" or rule.verdict == "goto":
                    return verdict
        return "continue", ""


def _walk(ruleset: Ruleset, chain: Chain, packet: Packet) -> Drop | None:
    walk = _Walk(ruleset, packet)
    verdict, rule = walk.chain(chain)
    if verdict == "drop":
        return Drop(chain, packet, rule)
    if verdict == "continue" and chain.policy == "drop" and not walk.perhaps:
        return Drop(chain, packet, "")
    return None


def _equals(value: Any, wanted: Any) -> bool | None:
    """A packet's value against a word, a wildcard (`pw*`), a prefix or a range."""
    if isinstance(wanted, dict):
        try:
            number = ipaddress.ip_address(value)
            if "prefix" in wanted:
                network = ipaddress.ip_network(f"{wanted['prefix']['addr']}/{wanted['prefix']['len']}", strict=False)
                return number in network
            low, high = (ipaddress.ip_address(each) for each in wanted["range"])
            return int(low) <= int(number) <= int(high) and low.version == number.version
        except (ValueError, KeyError, TypeError):
            return None
    if isinstance(wanted, str) and wanted.startswith("@"):
        return None
    text, pattern = str(value), str(wanted)
    if pattern.endswith(("*", "+")):
        return text.startswith(pattern[:-1])
    return text == pattern


# --- nft -j list ruleset --------------------------------------------------------------------------------------

_META = {"iifname": "iifname", "oifname": "oifname", "iif": "iifname", "oif": "oifname"}
_GROUPS = {"iifgroup": "iifgroup", "oifgroup": "oifgroup"}
_NFPROTO = {"ipv4": 4, "ipv6": 6}


def of_nft(listed: list[dict[str, Any]]) -> Ruleset:
    """The chains of `nft -j list ruleset`."""
    ruleset: Ruleset = {}
    for entry in listed:
        if "chain" in entry:
            held = entry["chain"]
            chain = Chain(held["family"], held["table"], held["name"])
            chain.hook, chain.policy = held.get("hook", ""), held.get("policy", "")
            ruleset[held["family"], held["table"], held["name"]] = chain
    for entry in listed:
        if "rule" in entry:
            held = entry["rule"]
            found = ruleset.get((held["family"], held["table"], held["chain"]))
            if found is not None:
                found.rules += _nft_rules(held)
    return ruleset


def _nft_rules(held: dict[str, Any]) -> list[Rule]:
    matches: list[Match] = []
    text = f"rule handle {held.get('handle')}"
    for expression in held.get("expr", []):
        kind, value = next(iter(expression.items()))
        if kind == "match":
            matches.append(_nft_match(value))
        elif kind == "vmap":
            left, data = _nft_field(value.get("key")), value.get("data")
            cases = data.get("set", []) if isinstance(data, dict) else []
            rules = []
            for case, verdict in cases:
                word, target = _nft_verdict(verdict)
                rules.append(Rule((*matches, Match(left, _values(case, left))), word, target, text))
            return rules
        elif kind in ("accept", "drop", "reject", "jump", "goto", "return"):
            word, target = _nft_verdict(expression)
            return [Rule(tuple(matches), word, target, text)]
        elif kind == "xt" and isinstance(value, dict) and value.get("type") == "target":
            word = {"REJECT": "drop", "DROP": "drop", "ACCEPT": "accept"}.get(value.get("name", ""), "continue")
            return [Rule(tuple(matches), word, "", text)]
        elif kind == "xt":
            if not (isinstance(value, dict) and value.get("name") == "comment"):
                matches.append(Match("", ()))
        elif kind in ("limit", "connlimit", "ct count", "quota"):
            matches.append(Match("", ()))
    return []


def _nft_verdict(expression: dict[str, Any]) -> tuple[str, str]:
    kind, value = next(iter(expression.items()))
    return ("drop" if kind == "reject" else kind), (value or {}).get("target", "") if kind in ("jump", "goto") else ""


def _nft_match(value: dict[str, Any]) -> Match:
    left, operator = _nft_field(value.get("left")), value.get("op")
    if operator not in ("==", "!=", "in"):
        return Match("", ())
    return Match(left, _values(value.get("right"), left), operator == "!=")


def _nft_field(left: Any) -> str:
    if not isinstance(left, dict):
        return ""
    if "meta" in left:
        key = left["meta"].get("key", "")
        return {**_META, **_GROUPS, "nfproto": "family"}.get(key, "")
    if "ct" in left:
        return "state" if left["ct"].get("key") == "state" and "dir" not in left["ct"] else ""
    if "payload" in left and left["payload"].get("protocol") in ("ip", "ip6"):
        return {"saddr": "saddr", "daddr": "daddr"}.get(left["payload"].get("field", ""), "")
    return ""


def _values(right: Any, left: str) -> tuple[Any, ...]:
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    values = right if isinstance(right, list) else [right]
    values = [each["elem"]["val"] if isinstance(each, dict) and "elem" in each else each for each in values]
    return tuple(_NFPROTO.get(each, each) if left == "family" and isinstance(each, str) else each for each in values)


# --- iptables-legacy -S ---------------------------------------------------------------------------------------

_LEGACY = {"-i": "iifname", "-o": "oifname", "-s": "saddr", "-d": "daddr"}
_TARGETS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return"}
_HOOKS = {"FORWARD": "forward", "INPUT": "input", "OUTPUT": "output"}


def of_legacy(text: str, family: str) -> Ruleset:
    """The chains of `iptables-legacy -S` (`family` ip) or `ip6tables-legacy -S` (ip6)."""
    ruleset: Ruleset = {}
    program = "iptables-legacy" if family == "ip" else "ip6tables-legacy"
    for line in text.splitlines():
        words = shlex.split(line)
        if words[:1] in (["-P"], ["-N"]):
            chain = Chain(family, "filter", words[1], program, _HOOKS.get(words[1], "") if words[0] == "-P" else "")
            chain.policy = words[2].lower() if words[0] == "-P" else ""
            ruleset[family, "filter", words[1]] = chain
    for line in text.splitlines():
        words = shlex.split(line)
        if words[:1] == ["-A"] and (family, "filter", words[1]) in ruleset:
            ruleset[family, "filter", words[1]].rules.append(_legacy_rule(words[2:], line))
    return ruleset


def _legacy_rule(words: list[str], text: str) -> Rule:
    matches: list[Match] = []
    negated = False
    position = 0
    while position < len(words):
        word, value = words[position], words[position + 1] if position + 1 < len(words) else ""
        if word == "!":
            negated, position = True, position + 1
            continue
        if word in _LEGACY:
            matches.append(Match(_LEGACY[word], (_legacy_value(word, value),), negated))
        elif word in ("-j", "-g"):
            verdict = _TARGETS.get(value, "goto" if word == "-g" else "jump")
            return Rule(tuple(matches), verdict, value, text)
        elif word in ("--ctstate", "--state"):
            matches.append(Match("state", tuple(value.lower().split(",")), negated))
        elif not (word == "-m" and value in ("comment", "conntrack", "state")) and word != "--comment":
            matches.append(Match("", ()))
        negated, position = False, position + 2
    return Rule(tuple(matches), "continue", "", text)


def _legacy_value(word: str, value: str) -> Any:
    if word in ("-i", "-o"):
        return value
    address, _, length = value.partition("/")
    return {"prefix": {"addr": address, "len": int(length) if length.isdigit() else length or 32}}
