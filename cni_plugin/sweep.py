"""Forgetting what only time made obsolete: marks of released addresses, and sticky reservations that ran out.

An IPv6 range never comes round to the addresses it handed out, so their marks would stay for ever.
"""

import posix

from cni_plugin import allocation, claims
from cni_plugin.config import COOLDOWN_LIMIT


def sweep(ledger: "claims.Ledger") -> int:
    """Remove the marks that no configuration could still ask for; returns how many. The folder may be unwritable."""
    now, removed, kept = claims.boot_time(), 0, set()
    with ledger.host_lock():
        try:
            for text in posix.listdir(f"{ledger.path}/cooling"):
                mark = allocation.cooling_mark(ledger, text)
                if mark is not None and now - mark[0] < max(COOLDOWN_LIMIT, mark[1]):
                    if now - mark[0] < mark[1]:
                        kept.add(mark[2])
                    continue
                removed += _forget(f"{ledger.path}/cooling/{text}")
            for name in posix.listdir(f"{ledger.path}/sticky"):
                if name not in kept:
                    removed += _forget(f"{ledger.path}/sticky/{name}")
            removed += _sweep_drafts(ledger)
        except OSError:
            pass  # nothing that a pod waits for
    return removed


def _sweep_drafts(ledger: "claims.Ledger") -> int:
    # A draft is written and renamed under the node's lock, which is held here: one that is there was left behind.
    names = [name for name in posix.listdir(f"{ledger.path}/pending") if name.startswith(".")]
    return sum(_forget(f"{ledger.path}/pending/{name}") for name in names)


def _forget(path: str) -> int:
    try:
        claims.unlink(path)
    except OSError:
        return 0  # a folder that somebody put there, or a folder that cannot be written
    return 1
