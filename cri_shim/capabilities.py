"""From names in shim.toml to interceptors: the built-in ones, and others' through entry points.

`interceptors = ["audit", "mine"]` names capabilities in the order in which requests meet them. A name stands
for a factory: built in, or an entry point of the group `podwire.interceptors`. The factory takes a Setup and
returns an interceptor (docs/interceptors.md); the capability's class itself is the usual factory. It checks
its settings and rules and raises ConfigError with every fault, and does nothing to the machine: what it needs
to open, it opens in `async def start(self)` and gives back in `async def close(self)`, if it has these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

from cri_shim import config
from cri_shim.chain import Interceptor
from cri_shim.config import BUILT_IN, Config
from cri_shim.errors import ConfigError
from cri_shim.pods import Ask, Pods
from cri_shim.rules import Rule, Tally

GROUP = "podwire.interceptors"


def _nothing(event: str, **fields: object) -> None:
    """No log."""


async def _nobody(name: str, **fields: object) -> Any:
    raise ConfigError([f"{name}: no runtime to ask"])


@dataclass(slots=True)
class Vitals:
    """What the shim knows of itself, counted since the process began."""

    in_flight: Callable[[], int] = lambda: 0
    connected: bool = False
    connections: int = 0
    reloads: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    lost_lines: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Services:
    """What the shim lends to interceptors: its log, what it knows of pods, the rules' counts, a way to ask
    the runtime (how long to wait is the asker's)."""

    event: Callable[..., None] = _nothing
    pods: Pods = field(default_factory=Pods)
    tally: Tally = field(default_factory=Tally)
    ask: Ask = _nobody
    vitals: Vitals = field(default_factory=Vitals)


@dataclass(frozen=True, slots=True)
class Setup:
    """What one interceptor is made from: its name in the file, its table, its rules in order, and the shim."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    services: Services = field(default_factory=Services)


Factory = Callable[[Setup], Interceptor]


@runtime_checkable
class Starts(Protocol):
    """An interceptor that has something to open; an exception keeps the old configuration, or ends the start."""

    async def start(self) -> None:
        """Called once on the event loop, before the first call."""


@runtime_checkable
class Closes(Protocol):
    """An interceptor that has something to give back."""

    async def close(self) -> None:
        """Called once, after its last call has ended."""


def available() -> dict[str, EntryPoint]:
    """Every capability by its name; a built-in one cannot be replaced by another package's."""
    found = {one.name: one for one in entry_points(group=GROUP)}
    return found | {name: EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()}


Built = dict[str, tuple[Setup, Interceptor]]


def build(wanted: Config, services: Services, kept: Built | None = None) -> Built:
    """Name -> what it was made from and the interceptor, in the file's order; ConfigError with every fault.

    Of `kept`, an interceptor whose table and rules are the same is taken again instead of a new one.
    """
    known = available()
    built: Built = {}
    faults: list[str] = []
    for rule in wanted.rules:
        if rule.interceptor not in wanted.interceptors:
            listed = ", ".join(wanted.interceptors) or "nothing"
            faults.append(
                f"rule {rule.name}: interceptor {rule.interceptor!r} is not in `interceptors`, which lists {listed}"
            )
    for name in dict.fromkeys((*wanted.interceptors, *(one for one in wanted.tables if one in BUILT_IN))):
        if name not in known:
            faults.append(f"interceptors: no package provides {name!r}; there are {', '.join(sorted(known))}")
            continue
        rules = tuple(rule for rule in wanted.rules if rule.interceptor == name)
        setup = Setup(name, wanted.tables.get(name, {}), rules, services)
        before = (kept or {}).get(name)
        if before is not None and before[0] == setup:
            built[name] = before
            continue
        try:
            interceptor = _make(known[name], setup)
        except ConfigError as several:
            faults += several.faults
            continue
        if name in wanted.interceptors:
            built[name] = setup, interceptor
    if faults:
        raise ConfigError(faults)
    return built


def load(file: str | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """As `config.load`, with what capabilities have to say about their tables and rules among the faults."""
    wanted, faults = config.read(file, overrides)
    try:
        build(wanted, Services())
    except ConfigError as several:
        prefix = f"{file}: " if file is not None else ""
        faults += [f"{prefix}{fault}" for fault in several.faults]
    if faults:
        raise ConfigError(faults)
    return wanted


def _make(point: EntryPoint, setup: Setup) -> Interceptor:
    try:
        factory: Factory = point.load()
        made = factory(setup)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError([f"{setup.name}: {point.value} failed: {type(error).__name__}: {error}"]) from error
    missing = [one for one in ("name", "fail_open", "wants", *HOOKS) if not hasattr(made, one)]
    if missing:
        raise ConfigError([f"{setup.name}: {point.value} made no interceptor; it lacks {', '.join(missing)}"])
    return made


HOOKS: Sequence[str] = ("on_request", "on_response", "on_end")
