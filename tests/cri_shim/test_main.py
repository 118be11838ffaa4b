"""The command: one line and exit code 2 for what cannot work, before anything is touched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cri_shim.__main__ import main


def failed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command that exits 2."""
    try:
        code = main(argv, {})
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("podwire-shim: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        pytest.param(["--lisen", "x"], "unrecognized arguments: --lisen x; podwire-shim --help", id="unknown-option"),
        pytest.param(["--conf", "x"], "unrecognized arguments: --conf x", id="abbreviation"),
        pytest.param(["--listen"], "argument --listen: expected one argument", id="no-value"),
        pytest.param(["--listen", "run/x.sock"], "--listen: 'run/x.sock' is no unix socket endpoint", id="no-scheme"),
        pytest.param(["--listen", "unix://x.sock"], "--listen: 'unix://x.sock' holds a relative path", id="relative"),
        pytest.param(["--upstream", "unix://x.sock"], "--upstream: 'unix://x.sock' holds a relative", id="upstream"),
        pytest.param(["--listen", f"unix:///{'x' * 107}"], "has 108 bytes and a unix socket's may have", id="long"),
        pytest.param(["--upstream", f"unix:///{'x' * 107}"], "has 108 bytes and a unix socket's", id="long-upstream"),
        pytest.param(["--listen", "unix:///no/where/x"], "folder /no/where: No such file", id="no-folder"),
        pytest.param(["--config", "/no/such.toml"], "/no/such.toml: No such file or directory", id="no-config"),
    ],
)
def test_bad_arguments_are_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], says: str) -> None:
    assert says in failed(capsys, *argv)


def test_several_faults_are_one_line_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "shim.toml").write_text("lisen = 1\ndrain_seconds = -1")
    line = failed(capsys, "--config", f"{tmp_path}/shim.toml", "--listen", "x")
    assert all(word in line for word in ("'lisen'; did you mean 'listen'?", "drain_seconds: must be", "--listen: 'x'"))


def test_a_missing_file_does_not_hide_the_other_faults(capsys: pytest.CaptureFixture[str]) -> None:
    line = failed(capsys, "--config", "/no/such.toml", "--listen", "x")
    assert "/no/such.toml: No such file" in line
    assert "--listen: 'x'" in line


def test_a_file_in_the_sockets_place_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "cri.sock").write_text("precious")
    line = failed(capsys, "--listen", f"unix://{tmp_path}/cri.sock", "--upstream", "unix:///x")
    assert "a file lies there, not a socket" in line
    assert os.listdir(tmp_path) == ["cri.sock"]
    assert (tmp_path / "cri.sock").read_text() == "precious"


def test_a_foreign_live_socket_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(tmp_path / "cri.sock"))
        foreign.listen()
        assert "another process listens there" in failed(
            capsys, "--listen", f"unix://{tmp_path}/cri.sock", "--upstream", "unix:///x"
        )


def test_help_explains_and_succeeds() -> None:
    run = subprocess.run([sys.executable, "-m", "cri_shim", "--help"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    for word in ("--listen", "--upstream", "--config", "unix:///run/podwire/cri.sock", "SIGTERM"):
        assert word in run.stdout


def test_bad_arguments_do_not_wait_for_grpcio() -> None:
    """grpcio takes a third of a second to import; a typing error is answered without it."""
    script = (
        "import sys\nfrom cri_shim.__main__ import main\n"
        "code = main(['--listen', 'x'], {})\nsys.exit(3 if 'grpc' in sys.modules else code)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 2
