"""An install from begin to end: the lock, the preflight, one transaction, and its undoing when anything goes wrong."""

import traceback

from cni_plugin.install import preflight
from cni_plugin.install.install import Install, rehearse
from cni_plugin.install.interruption import Interrupted, Interruption
from cni_plugin.install.journal import Journal, JournalError, describe
from cni_plugin.install.kubelet import EndpointError
from cni_plugin.install.locking import Turn
from cni_plugin.install.manifest import Manifest
from cni_plugin.install.options import Options
from cni_plugin.install.rollback import TURN_SECONDS, take_back
from cni_plugin.install.site import Site
from cni_plugin.install.undo import FAULTS
from cni_plugin.net.findings import ERROR
from cni_plugin.net.render import RenderError

_FORESEEN = (*FAULTS, JournalError, EndpointError, RenderError)


def install(site: Site, payload: Manifest, options: Options, interruption: Interruption, *, checked: bool) -> int:
    """Install a placed payload; returns the exit code. `checked`: errors of the preflight refuse it.

    The transaction is left open, for `commit` or `rollback`; after a failure it is undone.
    """
    with Turn(site.places, "install", TURN_SECONDS):
        journal = Journal(site.places).load()
        if journal.transaction is not None and not journal.transaction["complete"]:
            site.say(f"the {describe(journal.transaction)} comes first")
            interruption.shield()
            if take_back(site, journal, versions=False):
                raise JournalError("it could not be undone whole", "podwire-node rollback")
            interruption.arm()
        force = journal.in_force
        options = options.added_to(force["options"] if force else None, site.places)
        if checked:
            _refuse(site, options)
        if not site.places.version(payload.identity).is_dir():
            raise JournalError(
                f"version {payload.identity} is not in {site.places.versions}", "podwire-node place PAYLOAD_DIR"
            )
        same = force is not None and force["identity"] == payload.identity
        if same and not rehearse(site, journal, payload, options):
            open_ = ", not committed" if journal.transaction is not None else ""
            site.say(f"already installed: {payload.identity}{open_}")
            return 0
        journal.begin(
            "upgrade" if force and not same else "install", payload.identity, options.document(), options.owner
        )
        return _run(site, journal, payload, options, interruption)


def _refuse(site: Site, options: Options) -> None:
    found = [each for each in preflight.examine(site, options) if each.severity == ERROR]
    for each in found:
        site.say(f"  error: {each.what}{f' -> {each.fix}' if each.fix else ''}")
    if found:
        raise JournalError(f"the preflight found {len(found)} errors; nothing was changed", "podwire-node preflight")


def _run(site: Site, journal: Journal, payload: Manifest, options: Options, interruption: Interruption) -> int:
    try:
        Install(site, journal, payload, options).run()
        journal.complete()
    except BaseException as fault:  # noqa: BLE001 - whatever it is, what was done is undone
        interruption.shield()
        if isinstance(fault, Interrupted):
            site.say(f"podwire-node: {fault}: the install ends")
        elif isinstance(fault, _FORESEEN):
            details = getattr(fault, "details", "")
            site.say(f"podwire-node: {fault}{f' -> {details}' if details else ''}")
        else:
            site.say("".join(traceback.format_exception(fault)).rstrip())
        faults = take_back(site, journal, versions=False)
        if faults:
            site.say(f"podwire-node: {len(faults)} steps could not be undone -> podwire-node rollback")
        return 1
    site.say(f"installed: {payload.identity}; `podwire-node commit` keeps it, `podwire-node rollback` undoes it")
    return 0
