"""podwire-node smoke: two throw-away pods on each node, and whether they reach what pods must reach.

`start` makes them and prints a line about them; `check` reads such lines of all nodes on stdin and connects from this
node's second pod: to the first pod of every node, and to every node's hostPort; `stop` takes everything away, also
what a `start` that was killed had made. Their server ends by itself after LIFE_SECONDS.

Read on: `smoke_pods` (how a pod is made), `smoke_traffic` (what runs inside them), `smoke_ways` (which ways are tried).
"""

import argparse
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from cni_plugin.install import entries, smoke_pods, smoke_ways
from cni_plugin.install.journal import Journal, JournalError
from cni_plugin.install.places import Places
from cni_plugin.install.site import NodeError, Site
from cni_plugin.install.smoke_traffic import LIFE_SECONDS, POD_PORT, end, serve

HOST_PORT = 29474
CHECK_SECONDS = 30.0


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", places: Places) -> None:
    """`smoke` and its verbs, for podwire-node's parser."""
    parser = commands.add_parser("smoke", help="two throw-away pods, and whether they reach what pods must reach")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("start", help="make them, and print one line about them")
    text = "the node's port that leads to the first pod [%(default)s]"
    verb.add_argument("--port", type=_port, default=HOST_PORT, metavar="P", help=text)
    verb.add_argument("--node", default="", metavar="NAME", help="what this node is called in answers")
    verb.add_argument("--direct", action="store_true", help="call the plugin, not the runtime")
    verb.add_argument("--cgroup-parent", default="", metavar="CGROUP", help="of the runtime's sandboxes")
    verb.set_defaults(run=lambda chosen: start(chosen.site, chosen))

    verb = verbs.add_parser("check", help="try every way to the pods whose lines are read on stdin")
    text = "how long a way may need to work [%(default)g]"
    verb.add_argument("--seconds", type=float, default=CHECK_SECONDS, metavar="N", help=text)
    verb.set_defaults(run=lambda chosen: check(chosen.site, sys.stdin.read(), chosen.seconds))

    verb = verbs.add_parser("stop", help="take away what start made")
    verb.set_defaults(run=lambda chosen: stop(chosen.site))


def start(site: Site, chosen: argparse.Namespace) -> int:
    """Make the pods and their server, and print the line; everything is undone when that fails. Raises NodeError."""
    _clear(site)
    state: dict[str, Any] = {"line": None, "pods": [], "server": None, "through": "", "token": secrets.token_hex(4)}
    keep = _keeper(site, state)
    try:
        maker = smoke_pods.maker(site, keep, state, direct=chosen.direct, cgroup_parent=chosen.cgroup_parent)
        site.say(f"pods are made by {maker.told}")
        first = maker.make("smoke-a", chosen.port, POD_PORT)
        second = maker.make("smoke-b", 0, 0)
        for pod in (first, second):
            site.say(f"  {pod['name']}: {', '.join(pod['addresses'])}")
        state["server"] = serve(site, first["netns"], POD_PORT)
        line = {
            "node": chosen.node or _node_name(site),
            "token": state["token"],
            "through": state["through"],
            "pods": [{"name": pod["name"], "addresses": pod["addresses"]} for pod in (first, second)],
            "port": POD_PORT,
            "hostPort": chosen.port,
            "nodeAddresses": smoke_ways.node_addresses(),
        }
        state["line"] = line
        keep()
    except BaseException:
        _clear(site)
        raise
    site.say(f"  a server answers in smoke-a, for {LIFE_SECONDS} s at most; hostPort {chosen.port}")
    print(json.dumps(line), flush=True)
    return 0


def check(site: Site, text: str, seconds: float) -> int:
    """Try every way; a table for people on stderr, JSON on stdout. 1 when one does not work. Raises NodeError."""
    own = _state(site)
    if own is None or not own.get("line"):
        raise NodeError("there are no test pods on this node", "podwire-node smoke start")
    lines = _lines(text) or [own["line"]]
    client = own["pods"][1]
    ways = smoke_ways.ways(own["line"], lines)
    site.say(f"{own['line']['node']}: {len(ways)} ways from {client['name']} ({', '.join(client['addresses'])})")
    results = smoke_ways.tried(site, client["netns"], ways, seconds)
    for row in smoke_ways.table(results):
        site.say(row)
    failed = [each for each in results if not each["ok"]]
    for each in failed:
        site.say(f"FAILED: {smoke_ways.explained(each)}")
    print(json.dumps({"command": "smoke check", "node": own["line"]["node"], "ok": not failed, "ways": results}))
    return 1 if failed else 0


def stop(site: Site) -> int:
    """Take everything away; twice is fine. Raises NodeError."""
    removed = _clear(site)
    site.say(f"removed: {', '.join(removed) if removed else 'nothing was there'}")
    return 0


def _clear(site: Site) -> list[str]:
    """End the server and remove the pods; the state goes last, and only when nothing is left."""
    state = _state(site) or {"pods": []}
    removed = []
    if state.get("server") and end(state["server"]):
        removed.append("the server")
    removed += smoke_pods.remove(site, state)
    _path(site).unlink(missing_ok=True)
    return removed


def _state(site: Site) -> dict[str, Any] | None:
    try:
        read = json.loads(_path(site).read_text())
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) and isinstance(read.get("pods"), list) else None


def _keeper(site: Site, state: dict[str, Any]) -> smoke_pods.Keep:
    """What writes the state down: before each thing that it will have to take away."""

    def keep() -> None:
        _path(site).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        entries.replace(_path(site), (json.dumps(state) + "\n").encode(), 0o600)

    return keep


def _path(site: Site) -> Path:
    return site.places.run / "smoke.json"


def _lines(text: str) -> list[dict[str, Any]]:
    read = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            one = json.loads(line)
            read.append({key: one[key] for key in ("node", "token", "pods", "port", "hostPort", "nodeAddresses")})
        except (ValueError, KeyError, TypeError):
            raise NodeError(
                f"line {number} on stdin is not what `smoke start` prints: {line[:120]!r}",
                "give the lines that `podwire-node smoke start` printed on each node",
            ) from None
    return read


def _node_name(site: Site) -> str:
    try:
        force = Journal(site.places).load().in_force or {}
    except (JournalError, OSError):
        force = {}
    return str((force.get("options") or {}).get("node_name") or os.uname().nodename)


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"{text} is no port: 1 to 65535")
    return number
