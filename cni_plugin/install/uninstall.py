"""uninstall: back to a node without podwire, part by part, as far as its pods allow.

kubelet's endpoint goes back first, then the network, and the executable goes last: a pod whose DEL finds no plugin
stays Terminating for ever. What is done is forgotten step by step, so that a later call continues.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cni_plugin.install import entries, kubelet, manifest, pods
from cni_plugin.install.journal import PARTS, Journal, JournalError, Step
from cni_plugin.install.locking import Turn
from cni_plugin.install.places import AGENT_UNIT, COMMANDS, SHIM_UNIT, WATCHDOG_TIMER, WATCHDOG_UNIT
from cni_plugin.install.rollback import END_SECONDS, take_back
from cni_plugin.install.site import Site
from cni_plugin.install.undo import Undo
from cni_plugin.net import conflists

UNFINISHED = 3
_BEFORE_PODS = PARTS.index("network")


def uninstall(site: Site, seconds: float, *, delete_pods: bool, dry_run: bool) -> int:
    """Remove podwire; returns the exit code: 3 while pods still need the plugin. Waits `seconds` for them."""
    places = site.places
    if not any(path.exists() for path in (places.lib, places.home, places.conflist, places.executable)):
        site.say("podwire is not installed here")
        return 0
    with Turn(places, "uninstall", END_SECONDS):
        journal = _load(site)
        if journal.transaction is not None:
            if not dry_run and not journal.transaction["complete"]:
                take_back(site, journal, versions=True)
            _adopt(journal)
        steps = ordered(journal.steps)
        if dry_run:
            return _tell(site, steps)
        if steps and not journal.document["removing"]:
            journal.document["removing"] = True
            journal.save()
        return _remove(site, journal, steps, seconds, delete_pods=delete_pods)


def ordered(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The committed steps in the order of their undoing: by part, and within it the last first."""
    return [step for part in PARTS for step in reversed(steps) if step["part"] == part]


def _remove(site: Site, journal: Journal, steps: list[dict[str, Any]], seconds: float, *, delete_pods: bool) -> int:
    undo = Undo(site, journal, delete_pods=delete_pods, drain=seconds)
    faults: list[str] = []
    for first in (True, False):
        chosen = [step for step in steps if (PARTS.index(step["part"]) <= _BEFORE_PODS) is first]
        faults += undo.steps(chosen)
        if undo.left:
            return _unfinished(site, undo.left, delete_pods=delete_pods)
    if faults:
        site.say(f"podwire-node: {len(faults)} steps are not undone; mend what is named, then: podwire-node uninstall")
        return 1
    # From here on nothing of this program is on the disk any more; whatever it needs was imported before.
    for identity in manifest.present(site.places):
        manifest.remove(site.places, identity)
        site.say(f"  removed version {identity}")
    manifest.sweep(site.places)
    journal.dissolve()
    site.say("podwire is removed")
    return 0


def _unfinished(site: Site, left: list[str], *, delete_pods: bool) -> int:
    site.say(f"podwire-node: {len(left)} pods still have the network, and the plugin stays until they are gone:")
    for each in left:
        site.say(f"  {each}")
    again = "podwire-node uninstall" + ("" if delete_pods else ", or with --delete-pods")
    site.say(f"  -> kubectl delete pod or kubectl drain, then again: {again}")
    return UNFINISHED


def _tell(site: Site, steps: list[dict[str, Any]]) -> int:
    for step in steps:
        site.say(f"would undo: {step['name']}")
    for identity in manifest.present(site.places):
        site.say(f"would remove: version {identity}")
    found = pods.attached(site)
    if found:
        site.say(f"would wait for {len(found)} pods: {', '.join(pods.words(each) for each in found)}")
    return 0


def _adopt(journal: Journal) -> None:
    """Make what is left of an open transaction part of the record, so that it is undone with it."""
    transaction = journal.transaction
    if transaction is not None:
        transaction["complete"] = True
        journal.commit()


def _load(site: Site) -> Journal:
    """The journal; where it is missing or damaged, one of what can be recognised as podwire's."""
    journal = Journal(site.places)
    try:
        journal.load()
        if not journal.is_empty or not site.places.home.exists():
            return journal
        site.say(f"podwire-node: {site.places.journal} is missing")
    except JournalError as fault:
        site.say(f"podwire-node: {fault}")
        journal = Journal(site.places)
        journal.document["found"] = []
    site.say("  what can be recognised as podwire's is removed; what files were before is not known")
    journal.document["steps"] = [step.document() for step in recognised(site, journal)]
    return journal


def recognised(site: Site, journal: Journal) -> Iterator[Step]:
    """Steps whose undoing removes what is podwire's without doubt: its units, its links, its files, its network."""
    places = site.places
    for unit, part in (
        (AGENT_UNIT, "agent"),
        (SHIM_UNIT, "shim"),
        (WATCHDOG_UNIT, "watchdog"),
        (WATCHDOG_TIMER, "watchdog"),
    ):
        if places.unit(unit).exists():
            yield Step(f"systemd reads {unit}", "reload", part, {"unit": unit})
            yield from _present(places.unit(unit), part)
            yield Step(f"unit {unit}", "unit", part, {"unit": unit})
    yield from _kubelet(site, journal)
    for path, part in (
        (places.shim_config, "shim"),
        (places.agent_config, "agent"),
        (places.agent_kubeconfig, "agent"),
        (places.peers, "agent"),
    ):
        yield from _present(path, part)
    if any(file.ours for file in conflists.read(places.netd) if file.path == places.conflist):
        data = {"path": str(places.conflist), "before": None, "after": entries.look(places.conflist)}
        more = {"ours_before": False, "owner": "shim"}
        yield Step(f"{places.conflist}", "network", "network", data | more)
    identity = places.current.resolve().name
    yield Step("what the agent makes", "agent", "agent", {"identity": identity})
    yield Step("what the plugin makes", "state", "state", {"table": False})
    if places.etc.is_dir():
        yield Step(f"folder {places.etc}", "folder", "node", {"path": str(places.etc)})
    leads_home = _leads_into(places.home)
    for path in (places.current, places.executable):
        if leads_home(path):
            yield from _present(path, "executable")
    for name in COMMANDS:
        if leads_home(places.command(name)):
            yield from _present(places.command(name), "node")
    if leads_home(places.loopback):
        yield from _present(places.loopback, "executable")


def _leads_into(home: Path) -> Callable[[Path], bool]:
    def leads(path: Path) -> bool:
        return path.is_symlink() and home in path.resolve().parents

    return leads


def _present(path: Path, part: str) -> Iterator[Step]:
    found = entries.look(path)
    if found is not None:
        yield Step(f"{path}", "path", part, {"path": str(path), "before": None, "after": found})


def _kubelet(site: Site, journal: Journal) -> Iterator[Step]:
    """kubelet's endpoint, where it is the shim: containerd's again."""
    places = site.places
    shim, runtime = f"unix://{places.shim_socket}", f"unix://{places.runtime_socket}"
    if not kubelet.same(kubelet.survey(places).endpoint, shim):
        return
    yield Step("restart of kubelet.service", "restart", "kubelet", {"unit": "kubelet.service", "hand_over": False})
    for edit in kubelet.edits(places, runtime):
        now = entries.look(edit.path)
        before = None
        if edit.after is not None and now is not None:
            journal.store.keep(edit.after)
            before = entries.described(edit.after, now["mode"], now["uid"], now["gid"])
        data = {"path": str(edit.path), "before": before, "after": now}
        yield Step(f"{edit.path}", "path", "kubelet", data)
