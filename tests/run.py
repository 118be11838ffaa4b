"""Runs the tests part by part, each in its own process and within its own time, in two lanes at the same time.

The parts of one lane mostly compute, those of the other mostly wait: for downloads, for nodes to start and stop. A part
has the minutes of its own budget and what the parts before it in its lane left of theirs: so the whole never takes
longer than the longer lane's budgets, and a busy machine may slow one part without failing it.

While lanes overlap no part can say whose a leftover on the machine is, so the whole run compares the machine, too.
Needs nothing but the standard library itself; the parts run with build/venv. The last line of the output is always `N
passed, N failed`, followed by `, N skipped` where that happened. Exit code: 0, or 1 when anything failed or a part ran
out of time, or 2 for a wrong argument.
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
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHON = REPOSITORY / "build" / "venv" / "bin" / "python"


@dataclass(frozen=True)
class Part:
    """A folder or two of tests, and how many minutes they may take on two cores with the other lane beside them."""

    name: str
    minutes: float
    folders: tuple[str, ...]
    lane: str = "one"


PARTS = (
    Part("lint", 1, ("tests/policy",)),
    Part("unit", 1.5, ("tests/cni_plugin", "tests/cri_shim")),
    Part("kernel", 9, ("tests/kernel",)),
    Part("net", 6, ("tests/net",)),
    Part("crash", 8, ("tests/crash",)),
    Part("cri", 5.5, ("tests/cri",)),
    Part("node", 5.5, ("tests/node",)),
    Part("cri-conformance", 6, ("tests/conformance/cri",)),
    Part("payload", 4, ("tests/payload",), "two"),
    Part("nodes", 15, ("tests/nodes",), "two"),
    Part("installer", 8, ("tests/installer",), "two"),
    Part("agent", 4, ("tests/agent",), "two"),
    Part("cni", 6, ("tests/conformance/cni",), "two"),
    Part("install", 5, ("tests/install",), "two"),
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
    if options.dry_run:
        for part in parts:
            print(f"{part.name}: {shlex.join(_command(part, soak=options.soak))}")
        return 0
    # As an exception, so that a part's processes are ended before this one.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    names = list(dict.fromkeys(part.lane for part in parts))
    lanes = [
        Lane([part for part in parts if part.lane == name], soak=options.soak, alone=len(names) == 1) for name in names
    ]
    left = _both(lanes) if len(lanes) > 1 else _one(lanes[0])
    outcomes = sorted((outcome for lane in lanes for outcome in lane.outcomes), key=lambda each: parts.index(each.part))
    _report(outcomes, left)
    return 1 if left or any(outcome.failed for outcome in outcomes) else 0


def _one(lane: "Lane") -> list[str]:
    lane.work()
    return []


def _both(lanes: "Sequence[Lane]") -> list[str]:
    """Run lanes at the same time; returns what the machine has or lacks after them."""
    sys.path.insert(0, str(REPOSITORY))
    from tests.lab import witness
    from tests.lab.sessions import Session

    witness.begin_session()
    mark = witness.run_mark()
    with Session(mark) as session:
        before = witness.of_machine()
        _together(lanes)
        left = witness.settled(before, witness.of_machine)
        foreign = session.overlapped(mark)
    if foreign:
        print(f"\ntests of others ran meanwhile (pid {', '.join(foreign)}), perhaps these are theirs:", *left, sep="\n")
    if foreign or os.geteuid() != 0:
        left = [line for line in left if line.startswith("+ process:")]
    return left


def _together(lanes: "Sequence[Lane]") -> None:
    threads = [threading.Thread(target=lane.work) for lane in lanes]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        for lane in lanes:
            lane.stop()
        for thread in threads:
            thread.join()
        raise


class Lane:
    """Parts that run one after another; `outcomes` grow. Beside another lane a part's output comes at its end."""

    _printing = threading.Lock()

    def __init__(self, parts: Sequence[Part], *, soak: bool, alone: bool) -> None:
        self._parts, self._soak, self._alone = parts, soak, alone
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.outcomes: list[Outcome] = []

    def work(self) -> None:
        """Run the parts."""
        left = 0.0
        for part in self._parts:
            if self._stopped.is_set():
                return
            left += part.minutes * 60
            with self._printing:
                print(f"\n=== {part.name} begins (at most {left / 60:.3g} min) ===", flush=True)
            try:
                outcome = self._run(part, None if self._soak else left)
            except Exception as fault:  # noqa: BLE001 - of a thread that dies nobody would know
                outcome = Outcome(part, failed=1, problem=f"could not be run: {fault}")
            self.outcomes.append(outcome)
            left = max(0.0, left - outcome.seconds)

    def stop(self) -> None:
        """End what runs, and begin nothing more."""
        self._stopped.set()
        if self._process is not None:
            _end(self._process)

    def _run(self, part: Part, bound: float | None) -> Outcome:
        """Run one part; `bound` is in seconds."""
        outcome = Outcome(part)
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="podwire-run-") as folder:
            report, said = Path(folder) / "outcomes.json", Path(folder) / "said"
            with said.open("wb") as output:
                # A process group of its own: at the bound, what the tests started goes with them.
                self._process = subprocess.Popen(
                    [
                        *_command(part, soak=self._soak),
                        *("-p", "tests.counting", f"--outcomes={report}", f"--basetemp={folder}/tmp"),
                    ],
                    cwd=REPOSITORY,
                    stdin=subprocess.DEVNULL,
                    stdout=None if self._alone else output,
                    stderr=None if self._alone else output,
                    start_new_session=True,
                )
            try:
                code = self._process.wait(timeout=bound)
            except subprocess.TimeoutExpired as late:
                outcome.problem = f"over its {late.timeout / 60:.3g} min, ended"
                code = _end(self._process)
            except BaseException:
                _end(self._process)
                raise
            outcome.seconds = time.monotonic() - begun
            _count(outcome, report)
            if not self._alone:
                with self._printing:
                    print(f"\n=== {part.name} ===\n{said.read_text(errors='replace')}", flush=True)
        # 0 all passed, 1 some failed, 5 no tests; everything else is pytest or a signal ending it.
        if code not in (0, 1, 5) and not outcome.problem:
            outcome.problem = f"pytest ended with code {code}"
        if code == 1 and not outcome.failed:
            outcome.problem = "pytest reports a failure that belongs to no test"
        if outcome.problem:
            outcome.failed += 1
        return outcome


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


def _report(outcomes: Sequence[Outcome], left: Sequence[str]) -> None:
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
    if left:
        print("the tests did not leave the machine as they found it:", *left, sep="\n")
    passed, failed = sum(o.passed for o in outcomes), sum(o.failed for o in outcomes) + (1 if left else 0)
    skipped = sum(sum(o.skipped.values()) for o in outcomes)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
