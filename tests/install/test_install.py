"""What README promises of install.sh, tried from a fresh clone."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.install.conftest import REPOSITORY, environment, install
from tests.lab import kept, witness
from tests.lab.waiting import wait_until

PROOFS = (
    "distinct addresses from the pool",
    "pod a reaches pod b over HTTP",
    "a hostPort of pod b answers the outside",
    "a hostPort of pod b answers the node",
    "traffic leaving the node carries the node's address",
    "ExecSync gives exit code, stdout and stderr",
    "the container's log is where kubelet reads it",
    "after removal nothing is left on the node",
    "nothing of this demo is left on the machine",
)


def test_help_explains_every_command() -> None:
    done = install(REPOSITORY, ["--help"])
    assert done.returncode == 0
    for word in ("build", "demo", "--keep", "--stop", "test", "--soak", "PODWIRE_PYTHON"):
        assert word in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bulid"],
        ["demo", "--kep"],
        ["demo", "--keep", "--stop"],
        ["build", "x"],
        ["test", "nodez"],
        ["test", "--x"],
    ],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
def test_a_wrong_argument_is_named_and_does_nothing(arguments: list[str]) -> None:
    done = install(REPOSITORY, arguments)
    assert done.returncode == 2
    assert not arguments or any(argument in done.stderr for argument in arguments)


def test_a_python_that_does_not_run_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "python9"
    done = subprocess.run(
        ["./install.sh", "build"],
        cwd=REPOSITORY,
        env={**environment(), "PODWIRE_PYTHON": str(missing)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert str(missing) in done.stderr


def test_a_python_that_is_too_old_is_told_with_its_version(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    # Answers as Python 3.9 would: its version to the first question, failure to the second.
    old.write_text('#!/bin/sh\ncase "$2" in *print*) echo 3.9 ;; *) exit 1 ;; esac\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["./install.sh", "build"],
        cwd=REPOSITORY,
        env={**environment(), "PODWIRE_PYTHON": str(old)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "3.9" in done.stderr
    assert "3.11" in done.stderr


def test_build_makes_a_plugin_that_runs_where_it_is_copied(clone: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", f"{clone}/build/cni/.", tmp_path], check=True)
    done = subprocess.run(
        [tmp_path / "podwire"],
        env={"CNI_COMMAND": "VERSION"},
        input='{"cniVersion": "1.0.0"}',
        capture_output=True,
        text=True,
        check=True,
    )
    assert "1.0.0" in json.loads(done.stdout)["supportedVersions"]


def test_build_makes_the_shims_command(clone: Path) -> None:
    done = subprocess.run(
        [clone / "build/venv/bin/podwire-shim", "--help"], cwd="/", capture_output=True, text=True, check=True
    )
    assert "--listen" in done.stdout


def test_build_again_changes_nothing_and_is_quick(clone: Path) -> None:
    files = [clone / "build/venv/.podwire", clone / "build/cni/podwire"]
    before = [file.stat().st_mtime_ns for file in files]
    assert install(clone, ["build"], timeout=5).returncode == 0
    assert [file.stat().st_mtime_ns for file in files] == before


def test_build_leaves_the_working_tree_clean(clone: Path) -> None:
    status = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert status.stdout == ""


@pytest.mark.parametrize("time", ["first", "second"])
def test_demo_proves_everything_and_leaves_nothing(clone: Path, time: str) -> None:
    done = install(clone, ["demo"], timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    proved = re.findall(r"^  ok +(.*)$", done.stdout, re.MULTILINE)
    for proof in PROOFS:
        assert sum(line.startswith(proof) for line in proved) == 1, proof
    assert "RunPodSandbox" in done.stdout
    assert "\033" not in done.stdout, "colours are for terminals"
    assert not kept.nodes("demo")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", ["a node of its own", "distinct addresses"])
def test_demo_stopped_by_a_signal_leaves_nothing(clone: Path, number: signal.Signals, moment: str) -> None:
    before = witness.of_machine()
    demo = subprocess.Popen(
        ["./install.sh", "demo"],
        cwd=clone,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with demo:
        assert demo.stdout is not None
        said = []
        for line in demo.stdout:
            said.append(line)
            if moment in line:
                # To the whole group, as the terminal does with Ctrl-C.
                os.killpg(demo.pid, number)
        assert demo.wait(timeout=30) != 0, "".join(said)
    assert "cleaned up" in said[-1]
    assert not [
        line for line in witness.settled(before, witness.of_machine) if line.startswith(("+ process", "+ mount"))
    ]
    assert not kept.nodes("demo")


def test_what_a_killed_demo_leaves_is_removed_by_the_next(clone: Path) -> None:
    demo = subprocess.Popen(
        ["./install.sh", "demo"],
        cwd=clone,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "distinct addresses" in line:
                demo.kill()
    [base] = kept.nodes("demo")
    # The kernel ends the node's processes with their parent; files are all that may stay.
    wait_until(lambda: not kept.nodes("demo")[base], 10, "the node's processes to end")
    done = install(clone, ["demo"], timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(base) in done.stdout
    assert not base.exists()


def test_keep_leaves_a_node_to_talk_to_and_stop_removes_it(clone: Path) -> None:
    done = install(clone, ["demo", "--keep"], timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    [(base, running)] = kept.nodes("demo").items()
    assert running
    socket = f"{base}/run/podwire/cri.sock"
    assert socket in done.stdout
    assert Path(socket).is_socket()
    enter = re.search(r"nsenter -t \d+ -n -m -p", done.stdout)
    assert enter is not None
    shell = subprocess.run([*enter[0].split(), "--", "ip", "-o", "link"], capture_output=True, text=True, check=True)
    assert len(re.findall(r": pw\w{13}@", shell.stdout)) == 2, "one host link per pod"
    stopped = install(clone, ["demo", "--stop"])
    assert stopped.returncode == 0
    assert str(base) in stopped.stdout
    assert not kept.nodes("demo")
    assert "no demo is running" in install(clone, ["demo", "--stop"]).stdout
