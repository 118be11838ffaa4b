"""podwire-node: puts podwire on the node it runs on, and takes it away again.

stdout: one JSON document or nothing; stderr: progress, a line at a time.
Exit codes: 0 fine, 1 failed (everything undone, and printed), 2 wrong use, 3 unfinished by design (pods are left).
"""

import argparse
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cni_plugin.install import manifest, options, preflight, rollback, selftest, status, transaction, uninstall
from cni_plugin.install.interruption import Interrupted, Interruption, watch_lifeline
from cni_plugin.install.journal import Journal, JournalError
from cni_plugin.install.kubelet import EndpointError
from cni_plugin.install.locking import Turn
from cni_plugin.install.places import Places
from cni_plugin.install.site import Site, to_stderr
from cni_plugin.install.undo import FAULTS
from cni_plugin.net import findings
from cni_plugin.net.render import RenderError

PROGRAM = "podwire-node"
# Modules that bring verbs of their own.
_MORE = ("smoke", "watchdog", "cluster")
_FAULTS = (*FAULTS, JournalError, EndpointError, RenderError)


def main(arguments: Sequence[str] | None = None, places: Places | None = None) -> int:
    """Run one verb; returns the exit code. Wrong use exits with 2, as argparse does."""
    os.umask(0o022)
    places = places or Places()
    chosen = _parser(places).parse_args(arguments)
    chosen.site = Site(places)
    try:
        return int(chosen.run(chosen))
    except (Interrupted, KeyboardInterrupt) as fault:
        to_stderr(f"{PROGRAM}: {fault or 'interrupted'}; nothing was changed")
        return 1
    except _FAULTS as fault:
        details = getattr(fault, "details", "")
        to_stderr(f"{PROGRAM}: {fault}{f' -> {details}' if details else ''}")
        return 1


def _place(chosen: argparse.Namespace) -> int:
    site: Site = chosen.site
    with Turn(site.places, "place", rollback.TURN_SECONDS):
        journal = Journal(site.places).load()
        found = manifest.read(chosen.payload)
        before = manifest.present(site.places)
        if found.identity not in before and found.identity not in journal.document["placed"]:
            # Written down first: whoever is killed now leaves nothing that rollback does not remove.
            journal.document["placed"].append(found.identity)
            journal.save()
        try:
            _, fresh = manifest.place(site.places, chosen.payload)
        except BaseException:
            if found.identity not in manifest.present(site.places):
                rollback.drop_placed(site, journal, [found.identity])
            raise
    site.say(f"{site.places.version(found.identity)}: {'placed' if fresh else 'is there already'}")
    print(json.dumps({"command": "place", "identity": found.identity, "placed": fresh}))
    return 0


def _preflight(chosen: argparse.Namespace) -> int:
    site: Site = chosen.site
    wanted = _options(chosen)
    force = _recorded(site)
    found = preflight.examine(site, wanted.added_to(force, site.places))
    for each in found:
        site.say(f"  {each.severity}: {each.what}{f' -> {each.fix}' if each.fix else ''}")
    errors = sum(1 for each in found if each.severity == findings.ERROR)
    site.say(f"preflight: {errors} errors, {len(found) - errors} warnings and notes")
    if chosen.json:
        print(json.dumps({"command": "preflight", "findings": [each.document() for each in found]}))
    return 1 if errors else 0


def _recorded(site: Site) -> dict[str, object] | None:
    try:
        force = Journal(site.places).load().in_force
    except JournalError:
        return None
    return force["options"] if force else None


def _install(chosen: argparse.Namespace) -> int:
    with Interruption() as interruption:
        wanted = _options(chosen)
        if chosen.wait_lifeline:
            watch_lifeline()
        payload = manifest.read(manifest.own())
        return transaction.install(chosen.site, payload, wanted, interruption, checked=not chosen.no_preflight)


def _commit(chosen: argparse.Namespace) -> int:
    return rollback.commit(chosen.site)


def _rollback(chosen: argparse.Namespace) -> int:
    return rollback.rollback(chosen.site)


def _uninstall(chosen: argparse.Namespace) -> int:
    return uninstall.uninstall(chosen.site, chosen.wait, delete_pods=chosen.delete_pods, dry_run=chosen.dry_run)


def _status(chosen: argparse.Namespace) -> int:
    shape = status.document(chosen.site)
    if chosen.json:
        print(json.dumps(shape, indent=2))
    else:
        for line in status.lines(shape):
            to_stderr(line)
    return 0 if status.is_well(shape) else 1


def _self_test(chosen: argparse.Namespace) -> int:
    site: Site = chosen.site
    identity = manifest.read(manifest.own()).identity
    plugin = site.places.version(identity) / manifest.LAUNCHER
    if not plugin.exists():
        raise JournalError(f"{plugin} is not placed", f"{PROGRAM} place PAYLOAD_DIR")
    site.say(selftest.run(site, plugin))
    return 0


def _options(chosen: argparse.Namespace) -> options.Options:
    cni, shim = chosen.cni or not chosen.shim, chosen.shim
    if chosen.peers == "-" and getattr(chosen, "wait_lifeline", False):
        chosen.parser.error("--peers - and --wait-lifeline both read stdin: give the peers as a file")
    return options.Options(
        cni=cni,
        shim=shim,
        agent=cni and chosen.agent,
        pod_cidrs=tuple(chosen.pod_cidr),
        cluster_cidrs=tuple(dict.fromkeys(chosen.cluster_cidr)),
        node_name=chosen.node_name,
        mode=chosen.mode,
        peers=_read(chosen, chosen.peers, "--peers"),
        kubeconfig=_read(chosen, chosen.kubeconfig, "--kubeconfig"),
    )


def _read(chosen: argparse.Namespace, name: str, option: str) -> str:
    if not name:
        return ""
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text()
    except (OSError, UnicodeDecodeError) as fault:
        chosen.parser.error(f"{option} {name}: {fault}")
        raise  # never reached: error ends the process


def _parser(places: Places) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="VERB")

    one = commands.add_parser("place", help="check an unpacked payload and move it to its version folder")
    one.add_argument("payload", type=Path, metavar="PAYLOAD_DIR")
    one.set_defaults(run=_place)

    one = commands.add_parser("preflight", help="everything that would keep an install from working; changes nothing")
    _add_options(one)
    one.add_argument("--json", action="store_true", help="findings as one JSON document on stdout")
    one.set_defaults(run=_preflight)

    one = commands.add_parser("install", help="install this payload in a transaction, which stays open")
    _add_options(one)
    one.add_argument("--wait-lifeline", action="store_true", help="when stdin ends, end and undo, as on SIGTERM")
    one.add_argument("--no-preflight", action="store_true", help="go on where the preflight sees errors")
    one.set_defaults(run=_install)

    one = commands.add_parser("commit", help="keep what was installed, and drop what only a rollback needs")
    one.set_defaults(run=_commit)

    one = commands.add_parser("rollback", help="undo the open transaction; ends an install that runs")
    one.set_defaults(run=_rollback)

    one = commands.add_parser("uninstall", help="everything as before the installation")
    one.add_argument("--wait", type=_seconds, default=30.0, metavar="SECONDS", help="for pods to go [%(default)g]")
    one.add_argument("--delete-pods", action="store_true", help="remove the sandboxes of pods that have the network")
    one.add_argument("--dry-run", action="store_true", help="only say what would be undone")
    one.set_defaults(run=_uninstall)

    one = commands.add_parser("status", help="what is installed, and how it does; exit code 1 when something is wrong")
    one.add_argument("--json", action="store_true", help="one JSON document on stdout")
    one.set_defaults(run=_status)

    one = commands.add_parser("self-test", help="ADD, CHECK and DEL of the placed plugin in scratch namespaces")
    one.set_defaults(run=_self_test)

    for name in _MORE:
        module = f"cni_plugin.install.{name}"
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module).add_commands(commands, places)
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 86400 seconds")
    return value


def _add_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("--cni", action="store_true", help="plugin and network; the default without --shim")
    one.add_argument("--shim", action="store_true", help="the shim between kubelet and the runtime")
    one.add_argument("--agent", action=argparse.BooleanOptionalAction, default=True, help="the node agent, with --cni")
    one.add_argument("--pod-cidr", action="append", default=[], metavar="CIDR", help="of this node; one per family")
    one.add_argument("--cluster-cidr", action="append", default=[], metavar="CIDR", help="never masqueraded; repeat")
    one.add_argument("--node-name", default="", metavar="NAME", help="[the host's name]")
    one.add_argument("--mode", choices=options.MODES, default="auto", help="how other nodes' pods are reached [auto]")
    one.add_argument("--peers", default="", metavar="FILE", help="the nodes as TOML, - for stdin")
    one.add_argument("--kubeconfig", default="", metavar="FILE", help="with which the agent watches the nodes")
    one.set_defaults(parser=one)


if __name__ == "__main__":
    sys.exit(main())
