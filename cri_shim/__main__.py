"""podwire-shim: relays CRI between kubelet and a container runtime. `podwire-shim --help` tells the rest."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from cri_shim import config, handover
from cri_shim.endpoint import Claim
from cri_shim.errors import ConfigError, ListenError
from cri_shim.log import Libraries, Log
from cri_shim.notify import Notifier
from cri_shim.reload import Source

PROGRAM = "podwire-shim"
UNUSABLE = 2


class Parser(argparse.ArgumentParser):
    """One line on stderr for bad arguments, not the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(UNUSABLE, f"{PROGRAM}: {message}; {PROGRAM} --help shows what there is\n")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parsed command line; endpoints and keys are checked with the configuration."""
    parser = Parser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="Relay every CRI call between kubelet and a container runtime, as bytes, losing nothing.",
        epilog="Options win over the configuration file. SIGTERM or SIGINT drains, a second stops at once; SIGHUP "
        "reads the file again, which a change of it does too. `podwire-shim check FILE` explains a file.",
    )
    parser.add_argument("--listen", metavar="ENDPOINT", help=f"socket to serve on ({config.Config().listen})")
    parser.add_argument("--upstream", metavar="ENDPOINT", help=f"the runtime's ({config.Config().upstream})")
    parser.add_argument("--config", metavar="FILE", help="TOML file; conf/shim.toml shows every key")
    parser.add_argument("--replace", action="store_true", help="take over from the instance that runs, if one does")
    parser.add_argument("--detach", action="store_true", help="return once it serves in the background")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    """Run the shim; 0 after a drained stop, 2 for arguments, configuration or a socket that cannot serve."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["check"]:
        from cri_shim import check

        return check.main(argv[1:])
    options = arguments(argv)
    given = {key: value for key in ("listen", "upstream") if (value := getattr(options, key)) is not None}
    source = Source(options.config, given)
    try:
        settings = source.load()
        environment = dict(env)
        served = handover.detach(environment) if options.detach else lambda: None
        with Claim(settings.listen, options.replace) as claim:
            _serve(settings, claim, environment, source, served)
    except (ConfigError, ListenError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return UNUSABLE
    return 0


def _serve(
    settings: config.Config, claim: Claim, env: Mapping[str, str], source: Source, served: Callable[[], None]
) -> None:
    # Read by grpcio when it is first imported: no fork handlers (this process never forks), and nothing of
    # grpc-core's own between the JSON lines.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from cri_shim import lifecycle

    log = Log(settings.observe_log)
    logging.basicConfig(handlers=[Libraries(log)])
    try:
        asyncio.run(lifecycle.run(settings, claim, Notifier(env), log, source, served))
    finally:
        log.close()


if __name__ == "__main__":
    sys.exit(main())
