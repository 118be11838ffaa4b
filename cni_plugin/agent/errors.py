"""What the agent can fail at.

    AgentError
    +-- ConfigError    configuration or arguments; carries every fault found, exit code 2
    +-- SourceError    the list of nodes cannot be had now; the last one stays in force
    +-- ListenError    the address of health and metrics cannot be had; exit code 2

What goes wrong with one peer or route is no exception but a line among the faults (`faults`): the rest goes on.
"""

from collections.abc import Sequence


class AgentError(Exception):
    """Root of everything the agent raises on its own account."""


class ConfigError(AgentError):
    """Arguments or configuration are unusable; `faults` holds one sentence per fault, all of them."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class SourceError(AgentError):
    """The list of nodes cannot be had now; the text says why, with what was asked."""


class ListenError(AgentError):
    """The address of health and metrics cannot be had."""
