"""doctor: run every check within its time. One that fails, or does not end, is a finding like any other."""

import threading
from collections.abc import Callable, Iterable

from cni_plugin.net import checks_cni, checks_host, checks_links, checks_state
from cni_plugin.net.findings import WARNING, Finding, ordered
from cni_plugin.net.node import Node
from cni_plugin.net.registry import CHECKS, Check

# The modules that enter their checks by being imported.
MODULES = (checks_links, checks_cni, checks_state, checks_host)
CHECK_SECONDS = 30.0

__all__ = ["CHECKS", "examine"]


def examine(
    node: Node,
    names: Iterable[str] = (),
    step: Callable[[str], None] = lambda name: None,
    seconds: float = CHECK_SECONDS,
) -> list[Finding]:
    """The findings of the named checks, or of all, the worst first. `step` is told each check's name."""
    found: list[Finding] = []
    for name in names or CHECKS:
        step(f"doctor: {name}")
        found += _bounded(CHECKS[name], node, seconds)
    return ordered(found)


def _bounded(check: Check, node: Node, seconds: float) -> list[Finding]:
    found: list[Finding] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            found.extend(check.run(node))
        except BaseException as fault:  # noqa: BLE001 - whatever it is, the other checks go on
            failure.append(fault)

    worker = threading.Thread(target=run, name=check.name, daemon=True)
    worker.start()
    worker.join(seconds)
    if worker.is_alive():
        what = f"the check did not end within {seconds:g} s: {check.looks_at}"
        return [
            Finding(check.name, WARNING, what, "look for a hanging mount or tool (`ps -eo stat,pid,args | grep ^D`)")
        ]
    if failure:
        what = f"the check failed: {type(failure[0]).__name__}: {failure[0]}"
        return [*found, Finding(check.name, WARNING, what, "run podwire-net as root in the node's namespaces")]
    return found
