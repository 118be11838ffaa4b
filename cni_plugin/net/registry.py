"""The doctor's checks by name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cni_plugin.net.findings import Finding
from cni_plugin.net.node import Node

# (severity, what, fix): the registry adds who found it.
Complaint = tuple[str, str, str]


@dataclass(frozen=True)
class Check:
    """One check: `looks_at` says in a few words what it judges."""

    name: str
    looks_at: str
    complaints: Callable[[Node], Iterator[Complaint]]

    def run(self, node: Node) -> Iterator[Finding]:
        """The check's findings; what it raises passes through."""
        for severity, what, fix in self.complaints(node):
            yield Finding(self.name, severity, what, fix)


CHECKS: dict[str, Check] = {}


def check(
    name: str, looks_at: str
) -> Callable[[Callable[[Node], Iterator[Complaint]]], Callable[[Node], Iterator[Complaint]]]:
    """Enter a function under `name`."""

    def enter(function: Callable[[Node], Iterator[Complaint]]) -> Callable[[Node], Iterator[Complaint]]:
        CHECKS[name] = Check(name, looks_at, function)
        return function

    return enter
