"""podwire-cri: looks at containers, pods and calls. `podwire-cri --help` tells the rest."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Nothing of grpc-core's own on the terminal.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from rich.console import Console

from cri_shim import config, endpoint, timeline
from cri_shim.cli import inspect, page, sandbox, source, status, top, waterfall
from cri_shim.cli.runtime import Runtime
from cri_shim.errors import ShimError

PROGRAM = "podwire-cri"
FAILED = 1


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parsed command line; `run` is what the command does."""
    parser = argparse.ArgumentParser(prog=PROGRAM, allow_abbrev=False, description="Looks at what the shim relays.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("inspect", help="a container's OCI specification, and what CRI had asked for")
    one.add_argument("container", metavar="CONTAINER", help="its id, or a unique beginning of it")
    _add_endpoint(one)
    one.add_argument("--json", action="store_true", help="one JSON document: differences, request, specification")
    one.set_defaults(run=_inspect)

    one = commands.add_parser("timeline", help="a waterfall per pod: its RPCs and the plugin's phases inside them")
    one.add_argument("pod", nargs="?", metavar="POD", help="NAME, NAMESPACE/NAME, uid or sandbox id [every pod]")
    one.add_argument("--html", metavar="FILE", help="write a page that needs nothing else, instead of to the terminal")
    one.add_argument("--all", action="store_true", help="also calls that only look, such as PodSandboxStatus")
    _add_source(one, "-1h")
    one.set_defaults(run=_timeline)

    one = commands.add_parser("top", help="calls per second, latency and errors; one table when piped")
    one.add_argument("--window", type=float, default=60.0, metavar="SECONDS", help="what it tells of [%(default)g]")
    one.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="pause between tables [%(default)g]")
    _add_source(one, "-1h")
    one.set_defaults(run=_top)

    one = commands.add_parser("status", help="whether the runtime is ready, and the CNI network it has loaded")
    _add_endpoint(one)
    one.add_argument("--json", action="store_true", help="one JSON document")
    one.set_defaults(run=_status)

    one = commands.add_parser("sandbox", help="pod sandboxes without containers, to try the network as pods have it")
    _add_sandbox(one.add_subparsers(required=True, metavar="VERB"))
    return parser.parse_args(argv)


def _add_sandbox(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = verbs.add_parser("run", help="make one; a kubelet on the node ends it within seconds")
    one.add_argument("--name", required=True, metavar="NAME", help="the pod's name, and its hostname")
    one.add_argument(
        "--host-port", action="append", default=[], metavar="HOST:PORT[/tcp|udp]", help="publish a port; repeat"
    )
    one.add_argument("--cgroup-parent", default="", metavar="CGROUP", help="[as the runtime's cgroup driver needs]")
    _add_endpoint(one)
    one.add_argument("--json", action="store_true", help="one JSON document: id, addresses, netns")
    one.set_defaults(run=_sandbox_run)

    one = verbs.add_parser("list", help="those that `run` made")
    _add_endpoint(one)
    one.add_argument("--json", action="store_true", help="one JSON document")
    one.set_defaults(run=_sandbox_list)

    for verb, act, what in (
        ("stop", sandbox.stop, "take its network down"),
        ("remove", sandbox.remove, "stop and remove it"),
    ):
        one = verbs.add_parser(verb, help=f"{what}; one that is not there is no fault")
        one.add_argument("sandbox", metavar="ID", help="the whole id")
        one.add_argument("--any", action="store_true", help="also one that podwire-cri did not make")
        _add_endpoint(one)
        one.set_defaults(run=_sandbox_change, act=act)


def _add_endpoint(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--endpoint", default=str(config.UPSTREAM), metavar="ENDPOINT", help="the runtime's socket [%(default)s]"
    )


def _add_source(command: argparse.ArgumentParser, since: str) -> None:
    command.add_argument(
        "--log", action="append", default=[], metavar="FILE", help="of the shim or the plugin; repeat [the journal]"
    )
    command.add_argument("--since", default=since, metavar="TIME", help="of the journal [%(default)s]")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 for success, 1 with a reason on stderr, 2 for wrong use."""
    options = arguments(argv)
    try:
        return int(options.run(options))
    except (KeyboardInterrupt, BrokenPipeError):
        # Whoever read has gone, or pressed Ctrl-C: nothing more to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ShimError, OSError, ValueError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return FAILED


def _inspect(options: argparse.Namespace) -> int:
    found = inspect.inspect(endpoint.parse(options.endpoint), options.container)
    if options.json:
        print(json.dumps(found.document(), indent=2))
        return 0
    print(json.dumps(found.specification, indent=2))
    differences = found.differences()
    print(f"\n{found.id}: {len(differences)} differences from the CRI request" if found.request else "\nno CRI request")
    for each in differences:
        print(f"  {each.what}: {each.asked or '-'} -> {each.became or '-'}")
    return 0


def _timeline(options: argparse.Namespace) -> int:
    found = timeline.timelines(source.lines(options.log, options.since), options.all)
    if options.pod is not None:
        found = timeline.chosen(found, options.pod)
    if not found:
        print(f"{PROGRAM}: no calls about {options.pod or 'any pod'} in the log", file=sys.stderr)
        return FAILED
    if options.html is None:
        waterfall.show(_console(), found)
    else:
        Path(options.html).write_text(page.page(found))
    return 0


def _top(options: argparse.Namespace) -> int:
    console = _console()
    if options.window <= 0 or options.every <= 0:
        raise ValueError("--window and --every must be more than 0")
    if console.is_terminal:
        top.live(console, options.log, options.window, options.every)
    else:
        top.once(console, source.lines(options.log, options.since), options.window)
    return 0


def _status(options: argparse.Namespace) -> int:
    with Runtime(endpoint.parse(options.endpoint)) as runtime:
        found = status.status(runtime)
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    name, network = found["runtime"], found["network"]
    print(f"{found['endpoint']}: {name['name']} {name['version']}, cgroup driver {found['cgroupDriver'] or 'not told'}")
    for each in found["conditions"]:
        reason = f": {each['reason']}: {each['message']}" if each["reason"] or each["message"] else ""
        print(f"  {each['type']}: {'yes' if each['status'] else 'no'}{reason}")
    plugins = f" ({network['plugins']})" if network["plugins"] else ""
    print(f"  network: {network['name'] or 'not told'}{plugins}, its configuration: {network['load'] or 'not told'}")
    return 0


def _sandbox_run(options: argparse.Namespace) -> int:
    ports = [sandbox.port(text) for text in options.host_port]
    with Runtime(endpoint.parse(options.endpoint)) as runtime:
        made = sandbox.run(runtime, options.name, ports, options.cgroup_parent)
    print(json.dumps(made.document()) if options.json else _line(made))
    return 0


def _sandbox_list(options: argparse.Namespace) -> int:
    with Runtime(endpoint.parse(options.endpoint)) as runtime:
        found = sandbox.made(runtime)
    if options.json:
        print(json.dumps([each.document() for each in found], indent=2))
    else:
        for each in found:
            print(_line(each))
    return 0


def _sandbox_change(options: argparse.Namespace) -> int:
    with Runtime(endpoint.parse(options.endpoint)) as runtime:
        if not options.act(runtime, options.sandbox, anyones=options.any):
            print(f"{PROGRAM}: there is no sandbox {options.sandbox}", file=sys.stderr)
    return 0


def _line(one: sandbox.Sandbox) -> str:
    state = "ready" if one.ready else "stopped"
    return f"{one.id} {one.name} {state} {','.join(one.addresses) or '-'} {one.netns or '-'}"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1


def _console() -> Console:
    # Into a pipe the lines are as long as they need to be.
    return _Console(width=None if sys.stdout.isatty() else 160, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
