"""`podwire-shim check FILE`: whether the shim would take this configuration, and what it would do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from cri_shim import capabilities, config
from cri_shim.capabilities import Services
from cri_shim.chain import Interceptor
from cri_shim.config import Config
from cri_shim.errors import ConfigError
from cri_shim.rules import Rule

FAULTY = 1


def main(argv: Sequence[str]) -> int:
    """Explain the file on stdout, exit code 0; or name every fault on stderr, exit code 1."""
    parser = argparse.ArgumentParser(
        prog="podwire-shim check", allow_abbrev=False, description="Validate a configuration and explain it."
    )
    parser.add_argument("file", metavar="FILE", help="TOML file; conf/shim.toml shows every key")
    file = parser.parse_args(argv).file
    try:
        wanted = capabilities.load(file)
        built = capabilities.build(wanted, Services())
    except ConfigError as error:
        for fault in error.faults:
            print(f"podwire-shim check: {fault}", file=sys.stderr)
        return FAULTY
    print("\n".join(explained(wanted, {name: made for name, (_, made) in built.items()})))
    return 0


def explained(wanted: Config, built: dict[str, Interceptor]) -> Iterator[str]:
    """Effective settings, then every interceptor in its order with what its rules match and do."""
    defaults = Config()
    for row in config.SETTINGS:
        if row.key != "rule":
            value = getattr(wanted, row.attribute)
            default = "" if value != getattr(defaults, row.attribute) else "  (default)"
            yield f"{row.key} = {_told(value)}{default}"
    yield ""
    for place, (name, made) in enumerate(built.items(), 1):
        yield f"{place}. {name}: {_first_line(made)}"
        for key, value in wanted.tables.get(name, {}).items():
            yield f"   {key} = {_told(value)}"
        for rule in (one for one in wanted.rules if one.interceptor == name):
            yield from _rule(rule, made)
    if not built:
        yield "No interceptors: every call passes as it is."


def _rule(rule: Rule, made: Interceptor) -> Iterator[str]:
    yield f"   rule {rule.name}{' (dry run: only logged and counted)' if rule.dry_run else ''}"
    yield f"     matches {rule.match}"
    if rule.unless is not None:
        yield f"     unless  {rule.unless}"
    explain: Any = getattr(made, "explained", None)
    yield f"     does    {explain(rule) if explain is not None else dict(rule.do)}"
    otherwise = "the call passes as it is" if rule.fail_open else "the call is refused"
    yield f"     when it fails or takes more than {rule.timeout_seconds:g} s, {otherwise}"


def _first_line(made: Interceptor) -> str:
    return (type(made).__doc__ or "").strip().partition("\n")[0]


def _told(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_told, value))}]"
    if isinstance(value, int | float):
        return f"{value:g}"
    return f'"{value}"'
