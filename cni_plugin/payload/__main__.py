"""`python3 -m cni_plugin.payload`: makes the payload of this repository. Python 3.11 or later, no root, no package.

Progress goes to stderr, the archive's path to stdout.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cni_plugin.payload.build import ARCHITECTURES, Builder
from cni_plugin.payload.debian import host_architecture
from cni_plugin.payload.faults import BuildError

_REPOSITORY = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, or say why not; the exit code is 0, 1 for a failed build, 2 for a wrong argument."""
    parser = argparse.ArgumentParser(prog="python3 -m cni_plugin.payload", description=__doc__, allow_abbrev=False)
    parser.add_argument("--arch", choices=ARCHITECTURES, help="the nodes' architecture (this machine's)")
    parser.add_argument("--out", type=Path, default=_REPOSITORY / "build", help="where the archive goes (build)")
    parser.add_argument(
        "--work", type=Path, default=_REPOSITORY / "build/payload", help="inputs and layers (build/payload)"
    )
    parser.add_argument("--refresh", action="store_true", help="fetch the inputs again, in their newest versions")
    options = parser.parse_args(arguments)
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"payload {time.monotonic() - begun:5.1f} s: {text}", file=sys.stderr, flush=True)

    try:
        architecture = options.arch or host_architecture()
        builder = Builder(_REPOSITORY, options.work.absolute(), architecture, say, options.refresh)
        print(builder.archive(options.out.absolute()))
    except BuildError as fault:
        print(f"payload: {fault.message}", file=sys.stderr)
        if fault.hint:
            print(f"  {fault.hint}", file=sys.stderr)
        return 1
    except (OSError, subprocess.SubprocessError) as fault:
        print(f"payload: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
