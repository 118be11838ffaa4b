"""podwire-agent: routes to the other nodes' pods, garbage collection and metrics. `podwire-agent --help` tells more."""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cni_plugin.agent import check, config, settings
from cni_plugin.agent.config import Config
from cni_plugin.agent.errors import AgentError, ConfigError
from cni_plugin.agent.faults import Log

PROGRAM = "podwire-agent"
FAILED, UNUSABLE = 1, 2


class _Parser(argparse.ArgumentParser):
    """One line on stderr for bad arguments, not the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(UNUSABLE, f"{PROGRAM}: {message}; {PROGRAM} --help shows what there is\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 fine, 1 failed, 2 wrong use or configuration."""
    options = _options(arguments)
    try:
        chosen = load(options.config)
        if options.command == "check":
            return check.show(chosen, options.config, sys.stdout)
        if options.command == "cleanup":
            return _cleanup(chosen)
        return _run(chosen)
    except ConfigError as several:
        for fault in several.faults:
            print(f"{PROGRAM}: {fault}", file=sys.stderr)
        return UNUSABLE
    except BrokenPipeError:
        # The reader (head, less) has seen enough; what is buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except AgentError as fault:
        print(f"{PROGRAM}: {fault}", file=sys.stderr)
        return UNUSABLE


def load(file: str | None) -> Config:
    """The configuration of a file; without one, of the usual file, or the defaults where that is absent."""
    if file is None and not Path(config.FILE).exists():
        return Config()
    return config.load(file or config.FILE)


def node_name(stated: str) -> str:
    """As stated, else the host's name as kubelet would take it. Raises ConfigError."""
    found = stated or socket.gethostname().strip().lower()
    if not settings.is_node_name(found):
        raise ConfigError([f"the host's name {found!r} is no name of a node; set node_name"])
    return found


def _run(chosen: Config) -> int:
    _needs_root()
    # Late: what only looks at a file needs no netlink and no metrics.
    from cni_plugin.agent.lifecycle import Agent

    log = Log(priorities="JOURNAL_STREAM" in os.environ)
    return Agent(chosen, node_name(chosen.node_name), log, os.environ).run()


def _cleanup(chosen: Config) -> int:
    _needs_root()
    from cni_plugin.agent import reconcile
    from cni_plugin.agent.lifecycle import lock

    held = lock()
    try:
        faults = reconcile.cleanup(chosen)
        (Path(chosen.data_dir) / "peers.json").unlink(missing_ok=True)
    finally:
        held.close()
    for fault in faults:
        print(f"{PROGRAM}: {fault}", file=sys.stderr)
    return FAILED if faults else 0


def _needs_root() -> None:
    if os.geteuid() != 0:
        raise ConfigError([f"it changes the node's routes and must run as root, not as uid {os.geteuid()}; use sudo"])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="Keep routes to the other nodes' pods, collect garbage, and serve metrics, until SIGTERM.",
        epilog="SIGHUP looks at everything again. docs/agent.md tells the rest.",
    )
    parser.add_argument("--config", metavar="FILE", help=f"configuration [{config.FILE}, or defaults without it]")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", help="what is done without a command")
    one = commands.add_parser("check", help="say what a configuration means, or what is wrong with it")
    one.add_argument("file", nargs="?", metavar="FILE", help="the same as --config")
    commands.add_parser("cleanup", help="remove routes, tunnel, stated destinations and the kept list of nodes")
    options = parser.parse_args(arguments)
    if options.command == "check" and options.file:
        options.config = options.file
    return options


if __name__ == "__main__":
    sys.exit(main())
