"""Runs the tests part by part, each in its own process and within its own time.

Needs nothing but the standard library itself; the parts run with build/venv. The last line of the output is always
`N passed, N failed`, followed by `, N skipped` where that happened. A part has the minutes of its own budget and what
the parts before it left of theirs: the whole never takes longer than all budgets together, and a busy machine may slow
one part without failing it. Exit code: 0, or 1 when anything failed or a part ran out of time, or 2 for a wrong
argument.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHON = REPOSITORY / "build" / "venv" / "bin" / "python"


@dataclass(frozen=True)
class Part:
    """A folder or two of tests, and how many minutes they may take on two cores."""

    name: str
    minutes: float
    folders: tuple[str, ...]


PARTS = (
    Part("lint", 0.5, ("tests/policy",)),
    Part("unit", 1, ("tests/cni_plugin", "tests/cri_shim")),
    Part("kernel", 5.5, ("tests/kernel",)),
    Part("net", 3.5, ("tests/net",)),
    Part("crash", 5.5, ("tests/crash",)),
    Part("cni", 3.5, ("tests/conformance/cni",)),
    Part("cri", 3.5, ("tests/cri",)),
    Part("node", 2.5, ("tests/node",)),
    Part("cri-conformance", 4, ("tests/conformance/cri",)),
    Part("agent", 2, ("tests/agent",)),
    Part("payload", 2, ("tests/payload",)),
    Part("nodes", 6.5, ("tests/installer", "tests/nodes")),
    Part("install", 2.5, ("tests/install",)),
)


@dataclass
class Outcome:
    """What became of one part. `problem` is what pytest's counts do not tell: over time, or a crash."""

    part: Part
    seconds: float = 0
    passed: int = 0
    failed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    problem: str = ""


def main(arguments: Sequence[str]) -> int:
    """Run the chosen parts; the exit code is the verdict."""
    options = _options(arguments)
    parts = [part for part in PARTS if not options.parts or part.name in options.parts]
    # As an exception, so that a part's processes are ended before this one.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    outcomes = []
    left = 0.0
    for part in parts:
        command = _command(part, soak=options.soak)
        if options.dry_run:
            print(f"{part.name}: {shlex.join(command)}")
            continue
        left += part.minutes * 60
        print(f"\n=== {part.name} (at most {left / 60:.3g} min) ===", flush=True)
        outcomes.append(_run(part, command, None if options.soak else left))
        left = max(0.0, left - outcomes[-1].seconds)
    if options.dry_run:
        return 0
    _report(outcomes)
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="install.sh test",
        description="Runs all tests, or the named parts.",
        epilog="parts: " + ", ".join(f"{part.name} ({part.minutes:g} min)" for part in PARTS),
    )
    parser.add_argument("--soak", action="store_true", help="also the tests that take long; no part has a budget then")
    parser.add_argument("--dry-run", action="store_true", help="print what would run")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(names))
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in names]
    if unknown:
        parser.error(f"no part is named {', '.join(unknown)}; there are {', '.join(names)}")
    return options


def _command(part: Part, *, soak: bool) -> list[str]:
    folders = [folder for folder in part.folders if (REPOSITORY / folder).is_dir()]
    return [str(PYTHON), "-m", "pytest", "-q", *(["--soak"] if soak else []), *folders]


def _run(part: Part, command: Sequence[str], bound: float | None) -> Outcome:
    """Run one part; `bound` is in seconds."""
    outcome = Outcome(part)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="podwire-run-") as folder:
        report = Path(folder) / "outcomes.json"
        # A process group of its own: at the bound, what the tests started goes with them.
        process = subprocess.Popen(
            [*command, "-p", "tests.counting", f"--outcomes={report}", f"--basetemp={folder}/tmp"],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=bound)
        except subprocess.TimeoutExpired as late:
            outcome.problem = f"over its {late.timeout / 60:.3g} min, ended"
            code = _end(process)
        except BaseException:
            _end(process)
            raise
        outcome.seconds = time.monotonic() - begun
        _count(outcome, report)
    # 0 all passed, 1 some failed, 5 no tests; everything else is pytest or a signal ending it.
    if code not in (0, 1, 5) and not outcome.problem:
        outcome.problem = f"pytest ended with code {code}"
    if code == 1 and not outcome.failed:
        outcome.problem = "pytest reports a failure that belongs to no test"
    if outcome.problem:
        outcome.failed += 1
    return outcome


def _end(process: subprocess.Popen[bytes]) -> int:
    """SIGINT, as Ctrl-C, lets fixtures clean up; SIGKILL to the group after half a minute."""
    for number, seconds in ((signal.SIGINT, 30), (signal.SIGKILL, 30)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=seconds)
    return -int(signal.SIGKILL)


def _count(outcome: Outcome, report: Path) -> None:
    if not report.exists():
        return
    counted = json.loads(report.read_text())
    outcome.passed, outcome.failed = len(counted["passed"]), len(counted["failed"])
    for reason in counted["skipped"].values():
        outcome.skipped[reason] = outcome.skipped.get(reason, 0) + 1


def _report(outcomes: Sequence[Outcome]) -> None:
    print(f"\n{'part':<15} {'passed':>7} {'failed':>7} {'skipped':>8} {'time':>8} {'budget':>8}")
    for outcome in outcomes:
        skipped = sum(outcome.skipped.values())
        print(
            f"{outcome.part.name:<15} {outcome.passed:>7} {outcome.failed:>7} {skipped:>8} "
            f"{outcome.seconds:>6.0f} s {outcome.part.minutes * 60:>6.0f} s"
            + (f"   {outcome.problem}" if outcome.problem else "")
        )
    for outcome in outcomes:
        for reason, count in outcome.skipped.items():
            print(f"skipped in {outcome.part.name}: {count} x {reason}")
    passed, failed = sum(o.passed for o in outcomes), sum(o.failed for o in outcomes)
    skipped = sum(sum(o.skipped.values()) for o in outcomes)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
