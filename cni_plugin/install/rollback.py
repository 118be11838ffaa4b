"""rollback and commit: how a transaction ends, whoever began it and whatever became of that process."""

from cni_plugin.install import locking, manifest
from cni_plugin.install.journal import Journal, JournalError, describe
from cni_plugin.install.locking import Turn
from cni_plugin.install.site import Site
from cni_plugin.install.undo import Undo

TURN_SECONDS = 10.0
# An install that is asked to end undoes itself first, pods that have begun included.
END_SECONDS = 240.0


def rollback(site: Site) -> int:
    """Undo the open transaction; returns the exit code. An install that runs is asked to end, and is waited for."""
    places = site.places
    found = locking.holder(places)
    if found is not None and found.verb == "install":
        site.say(f"an install runs (pid {found.pid}): it is asked to end, and undoes itself")
        found.ask_to_end()
    if not places.lib.exists() and not places.home.exists():
        site.say("nothing to undo: podwire is not installed here")
        return 0
    with Turn(places, "rollback", END_SECONDS):
        journal = Journal(places).load()
        if journal.transaction is None:
            placed = list(journal.document["placed"])
            drop_placed(site, journal, placed)
            manifest.sweep(site.places)
            site.say(f"undone: {', '.join(placed)} was placed" if placed else "nothing to undo: no transaction is open")
            return 0
        faults = take_back(site, journal, versions=True)
    return _told(site, faults)


def take_back(site: Site, journal: Journal, *, versions: bool) -> list[str]:
    """Undo every step of the open transaction, the last first; returns what could not be undone.

    A version that `place` brought stays placed unless `versions`: what begins with `place` ends with `rollback`.
    """
    transaction = journal.transaction
    assert transaction is not None
    site.say(f"undoing the {describe(transaction)}")
    undo = Undo(site, journal)
    chosen = [step for step in reversed(transaction["steps"]) if versions or step["kind"] != "version"]
    faults = undo.steps(chosen)
    rest = [step for step in transaction["steps"] if step["kind"] != "version" or versions]
    if not rest:
        journal.document["placed"] = [step["data"]["identity"] for step in transaction["steps"]]
        journal.close()
        if versions:
            manifest.sweep(site.places)
            drop_placed(site, journal, [])
        site.say("everything is undone")
    return faults


def drop_placed(site: Site, journal: Journal, identities: list[str]) -> None:
    """Remove versions that were brought for an install which never began."""
    for identity in identities:
        manifest.remove(site.places, identity)
        site.say(f"  removed version {identity}")
        journal.document["placed"] = [each for each in journal.document["placed"] if each != identity]
        journal.save()
    if journal.is_empty:
        journal.dissolve()


def _told(site: Site, faults: list[str]) -> int:
    if not faults:
        return 0
    site.say(f"podwire-node: {len(faults)} steps could not be undone:")
    for fault in faults:
        site.say(f"  {fault}")
    site.say("  -> mend what is named, then: podwire-node rollback")
    return 1


def commit(site: Site) -> int:
    """Close the transaction for good, and drop what only a rollback would need; returns the exit code."""
    with Turn(site.places, "commit", TURN_SECONDS):
        journal = Journal(site.places).load()
        transaction = journal.transaction
        if transaction is not None and not transaction["complete"]:
            raise JournalError(
                f"the {describe(transaction)}: what it did may be half done",
                "podwire-node rollback  # then install again",
            )
        if transaction is not None:
            journal.commit()
            site.say(f"committed: {transaction['identity']}")
        elif journal.installed is None:
            if journal.is_empty:
                journal.dissolve()
            raise JournalError("there is nothing to commit", "podwire-node install ...")
        drop_versions(site, journal)
    return 0


def drop_versions(site: Site, journal: Journal) -> None:
    """Remove the versions that nobody needs: neither in force, nor placed for an install to come, nor running."""
    force = journal.in_force
    wanted = {force["identity"] if force else "", *journal.document["placed"]}
    for identity in manifest.present(site.places):
        if identity in wanted:
            continue
        if manifest.in_use(site.places, identity):
            site.say(f"version {identity} stays as long as a process runs from it; the next commit looks again")
            continue
        manifest.remove(site.places, identity)
        site.say(f"removed version {identity}")
    manifest.sweep(site.places)
