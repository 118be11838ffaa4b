"""Rules: what the operator writes in shim.toml, and how often each did something.

    [[rule]]
    name = "no-exec-in-shop"       # in logs, metrics and refusals; unique
    interceptor = "policy"         # who carries it out; must be in `interceptors`
    fail = "closed"                # when it cannot be carried out: "open" = as if it were not there
    timeout_seconds = 1.0          # for finding out whose call it is and carrying the rule out
    dry_run = false                # true: log and count what it would do, change nothing
    match = { methods = ["Exec*"], namespaces = ["shop-*"] }
    unless = { labels = { "debug" = "allowed" } }
    do = { refuse = "ask the shop's owners" }    # the interceptor's own words

`interceptors/ruled.py` carries rules out: a capability subclasses `Ruled` and says what `do` may hold and what
it does to a message. Rules of one interceptor apply in the order of the file, each to what the one before left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cri_shim import matching
from cri_shim.errors import ConfigError
from cri_shim.matching import Match
from cri_shim.pods import Subject
from cri_shim.settings import Setting, boolean, choice, repeated, seconds, table, take, text, type_name

OPEN, CLOSED = "open", "closed"
NOTE = "rules"
TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One `[[rule]]`. `do` is what the interceptor parses; `timeout_seconds` bounds every await it makes."""

    name: str
    interceptor: str
    match: Match = field(default_factory=Match)
    unless: Match | None = None
    fail: str = CLOSED
    timeout_seconds: float = TIMEOUT_SECONDS
    dry_run: bool = False
    do: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fail_open(self) -> bool:
        """Whether calls pass as they are when the rule cannot be carried out."""
        return self.fail == OPEN

    def method(self, path: str) -> bool:
        """Whether calls of this path may concern the rule."""
        return self.match.method(path) and (
            self.unless is None or self.unless.asks_subject or not self.unless.method(path)
        )

    @property
    def asks_subject(self) -> bool:
        """Whether a call's pod has to be known to tell."""
        return self.match.asks_subject or (self.unless is not None and self.unless.asks_subject)

    def concerns(self, path: str, subject: Subject) -> bool:
        """Whether the rule applies to a call of this path about this subject."""
        return (
            self.match.method(path)
            and self.match.subject(subject)
            and not (self.unless is not None and self.unless.method(path) and self.unless.subject(subject))
        )


@dataclass(slots=True)
class Counts:
    """What became of a rule's calls since the process began; a reload does not reset them."""

    hits: int = 0
    dry_hits: int = 0
    changes: int = 0
    refusals: int = 0
    failures: int = 0
    timeouts: int = 0


class Tally(defaultdict[tuple[str, str], Counts]):
    """(interceptor, rule) -> Counts."""

    def __init__(self) -> None:
        super().__init__(Counts)

    def keep(self, rules: Iterable[tuple[str, str]]) -> None:
        """Forget all others."""
        for gone in self.keys() - set(rules):
            del self[gone]


def parse(value: Any) -> tuple[Rule, ...]:
    """Rules of the file's `[[rule]]` tables, in order; ConfigError with every fault of every rule."""
    if not isinstance(value, list):
        raise ValueError(f"must be written as [[rule]] tables, not {type_name(value)}")
    rules: list[Rule] = []
    faults: list[str] = []
    for number, raw in enumerate(value, 1):
        place = f"{number}: "
        try:
            if isinstance(raw, dict) and isinstance(raw.get("name"), str):
                place = f"{raw['name']}: "
            values = take(KEYS, table(raw))
            missing = [key for key in ("name", "interceptor") if key not in values]
            if missing:
                raise ConfigError([f"{key} is missing" for key in missing])
            rules.append(Rule(**values))
        except ValueError as fault:
            faults.append(f"{place}{fault}")
        except ConfigError as several:
            faults += [f"{place}{fault}" for fault in several.faults]
    faults += [f"{name}: two rules have this name" for name in repeated([rule.name for rule in rules])]
    if faults:
        raise ConfigError(faults)
    return tuple(rules)


def _name(value: Any) -> str:
    name = text(value)
    if not name or len(name) > 64 or not name.isprintable():
        raise ValueError(f"must be a name of 1 to 64 printable characters, not {name!r}")
    return name


def _match(value: Any) -> Match:
    return matching.parse(table(value))


KEYS = (
    Setting("name", "name", _name),
    Setting("interceptor", "interceptor", text),
    Setting("match", "match", _match),
    Setting("unless", "unless", _match),
    Setting("fail", "fail", choice(OPEN, CLOSED)),
    Setting("timeout_seconds", "timeout_seconds", seconds(0.001, 600)),
    Setting("dry_run", "dry_run", boolean),
    Setting("do", "do", table),
)
