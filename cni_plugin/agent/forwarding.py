"""A node that carries pods forwards packets, whatever somebody set meanwhile (sysctl --system does)."""

from collections.abc import Collection

from cni_plugin import node
from cni_plugin.journal import Journal

_WIDTHS = {4: 4, 6: 16}


def keep(families: Collection[int]) -> tuple[str, ...]:
    """Switch forwarding on where it is off, as the plugin does at ADD; returns what was changed. Raises CniError."""
    journal = Journal()
    node.forward([_WIDTHS[version] for version in sorted(families)], journal)
    return tuple(journal.notes)
