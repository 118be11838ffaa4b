"""A finding: one thing that is wrong on a node, and the command that mends it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# From worst to mildest. A note is worth knowing and nothing to mend: it alone does not make an exit code of 1.
ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)


@dataclass(frozen=True)
class Garbage:
    """Something that `gc` may take away: `kind` as in `collect.REMOVERS`, and what names the thing.

    `lease` names the lock that has to be held meanwhile; it is empty for what has no attachment.
    """

    kind: str
    subject: tuple[str, ...]
    lease: str = ""


@dataclass(frozen=True)
class Finding:
    """What is wrong, with its values, and how to mend it (a command, or what to do). `check` says who found it."""

    check: str
    severity: str
    what: str
    fix: str = ""
    garbage: Garbage | None = None

    def document(self) -> dict[str, Any]:
        """The finding as docs/podwire-net.md describes it."""
        shape: dict[str, Any] = {
            "check": self.check,
            "severity": self.severity,
            "what": self.what,
            "fix": self.fix,
        }
        if self.garbage is not None:
            shape["garbage"] = {"kind": self.garbage.kind, "subject": list(self.garbage.subject)}
        return shape


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first; of equals, in the order they were found."""
    return sorted(findings, key=lambda each: SEVERITIES.index(each.severity))


def exit_code(findings: Iterable[Finding]) -> int:
    """1 when something has to be mended, else 0."""
    return 1 if any(each.severity != NOTE for each in findings) else 0
