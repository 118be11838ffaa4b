"""The cluster's side of an installation: `podwire-node cluster VERB`, run on a control-plane node.

plan and ready (cluster_nodes) say who has which pod CIDR and wait for the nodes; grant and revoke (cluster_access) are
the agent's way to the API; annotate and kindnet (cluster_kept) change what belongs to others, and keep what it was.
All of them use the node's own kubectl and admin.conf (kubectl).
"""

import argparse
import json
import sys
from pathlib import Path

from cni_plugin.install.cluster_access import grant, granted, revoke
from cni_plugin.install.cluster_kept import Kept, annotate, annotate_back, kindnet_remove, kindnet_restore
from cni_plugin.install.cluster_nodes import READY_SECONDS, as_lines, plan, ready, split
from cni_plugin.install.cluster_table import show
from cni_plugin.install.kubectl import Kubectl
from cni_plugin.install.places import Places
from cni_plugin.install.site import NodeError

ADMIN = "/etc/kubernetes/admin.conf"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", places: Places) -> None:
    """`cluster` and its verbs, for podwire-node's parser."""
    parser = commands.add_parser(
        "cluster", help="on a control-plane node: pod CIDRs, the agent's access, Ready, kindnet"
    )
    parser.set_defaults(places=places)
    parser.add_argument("--admin-kubeconfig", type=Path, default=places.at(ADMIN), metavar="FILE", help=f"else {ADMIN}")
    verbs = parser.add_subparsers(dest="cluster_verb", metavar="VERB", required=True)

    verb = verbs.add_parser("plan", help="every node's pod CIDRs as JSON")
    verb.add_argument("--text", action="store_true", help="lines with tabs, for a shell")
    verb.add_argument("--split", action="append", default=[], metavar="CIDR", help="ask no cluster but split these")
    verb.add_argument("--node", action="append", default=[], metavar="NAME", help="with --split: between these")
    verb.set_defaults(run=_plan)

    verb = verbs.add_parser("grant", help="the agent's access to the API; prints its kubeconfig")
    verb.add_argument("--check", action="store_true", help="only say present or absent")
    verb.set_defaults(run=_grant)

    verbs.add_parser("revoke", help="take the agent's access away").set_defaults(run=_revoke)

    verb = verbs.add_parser("ready", help="wait until nodes are Ready")
    verb.add_argument("--node", action="append", default=[], metavar="NAME", help="these; else all")
    verb.add_argument(
        "--wait", type=float, default=READY_SECONDS, metavar="SECONDS", help="at most (default: %(default)g)"
    )
    verb.set_defaults(run=_ready)

    verb = verbs.add_parser("annotate", help="kubeadm's note of a node's runtime endpoint")
    verb.add_argument("annotate_node", nargs="?", metavar="NODE")
    verb.add_argument("socket", nargs="?", metavar="SOCKET")
    verb.add_argument("--restore", action="store_true", help="every node's as it was")
    verb.set_defaults(run=_annotate)

    verb = verbs.add_parser("kindnet", help="kind's own network: its manifest is kept, and applied again")
    verb.add_argument("what", choices=("remove", "restore"))
    verb.set_defaults(run=_kindnet)

    verb = verbs.add_parser("table", help="a table of `NAME<tab>status as JSON` lines on stdin")
    verb.set_defaults(run=_table)


def _cluster(options: argparse.Namespace) -> Kubectl:
    if not options.admin_kubeconfig.is_file():
        raise NodeError(f"{options.admin_kubeconfig} is not there", "run this on a control-plane node")
    return Kubectl(options.admin_kubeconfig)


def _plan(options: argparse.Namespace) -> int:
    found = split(options.split, options.node) if options.split else plan(_cluster(options))
    print(as_lines(found) if options.text else json.dumps(found, indent=2) + "\n", end="")
    return 0


def _grant(options: argparse.Namespace) -> int:
    cluster = _cluster(options)
    if options.check:
        print("present" if granted(cluster) else "absent")
    else:
        print(grant(cluster), end="")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    revoke(_cluster(options))
    return 0


def _ready(options: argparse.Namespace) -> int:
    ready(_cluster(options), options.node, options.wait)
    return 0


def _annotate(options: argparse.Namespace) -> int:
    kept = Kept(options.places, "cri-socket.json")
    if options.restore == bool(options.socket):
        raise NodeError("annotate takes NODE SOCKET or --restore", "podwire-node cluster annotate --help")
    if options.restore:
        annotate_back(_cluster(options), kept)
    else:
        annotate(_cluster(options), kept, options.annotate_node, options.socket)
    return 0


def _kindnet(options: argparse.Namespace) -> int:
    kept = Kept(options.places, "kindnet.json")
    act = kindnet_remove if options.what == "remove" else kindnet_restore
    print(act(_cluster(options), kept))
    return 0


def _table(options: argparse.Namespace) -> int:
    return show(sys.stdin)
