"""The listening socket: whose it is, how it appears, how it goes."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cri_shim.endpoint import Claim, Endpoint, parse
from cri_shim.errors import ListenError


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="pw-end-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def listeners() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listener(stack: ExitStack) -> tuple[list[str], Callable[[str], object]]:
    """An add_port that binds and listens as grpcio does, and what it was asked to bind."""
    asked: list[str] = []

    def add_port(target: str) -> int:
        asked.append(target)
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.bind(target.removeprefix("unix:"))
        sock.listen()
        return 1

    return asked, add_port


def add_port(stack: ExitStack) -> Callable[[str], object]:
    return listener(stack)[1]


@pytest.mark.parametrize("text", ["unix:///run/a.sock", "unix:/run/a.sock", "unix:///run/x/../a.sock"])
def test_an_endpoint_is_read_in_both_spellings(text: str) -> None:
    assert parse(text) == Endpoint("/run/a.sock")
    assert str(parse(text)) == "unix:///run/a.sock"


def test_the_socket_appears_under_its_name_only_when_it_has_its_mode(folder: Path, listeners: ExitStack) -> None:
    asked, bind = listener(listeners)
    with Claim(Endpoint(f"{folder}/cri.sock")) as claim:
        claim.bind(bind)
        claim.appear()
        assert asked[0].endswith(f"/.podwire-shim.{os.getpid()}")
        status = (folder / "cri.sock").stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o660
        assert sorted(os.listdir(folder)) == ["cri.sock", "cri.sock.lock"]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{folder}/cri.sock")
    assert os.listdir(folder) == []


def test_a_path_at_the_limit_can_be_bound(folder: Path, listeners: ExitStack) -> None:
    path = f"{folder}/" + "x" * (107 - len(str(folder)) - 1)
    with Claim(parse(f"unix://{path}")) as claim:
        claim.bind(add_port(listeners))
        claim.appear()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_a_second_claim_is_refused_and_says_who_holds_it(folder: Path) -> None:
    endpoint = Endpoint(f"{folder}/cri.sock")
    with Claim(endpoint):
        with pytest.raises(ListenError, match=rf"a live podwire-shim \(process {os.getpid()}\) holds it; stop"):
            Claim(endpoint)
        assert (folder / "cri.sock.lock").exists()
    with Claim(endpoint):
        pass


def test_a_foreign_listener_keeps_its_socket(folder: Path) -> None:
    path = folder / "cri.sock"
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        foreign.listen()
        inode = path.stat().st_ino
        with pytest.raises(ListenError, match="another process listens there"):
            Claim(Endpoint(str(path)))
        assert path.stat().st_ino == inode
    assert os.listdir(folder) == ["cri.sock"]


def test_a_stale_socket_is_replaced(folder: Path, listeners: ExitStack) -> None:
    path = folder / "cri.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Claim(Endpoint(str(path))) as claim:
        claim.bind(add_port(listeners))
        claim.appear()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@pytest.mark.parametrize("kind", ["file", "folder", "symbolic link", "special file"])
def test_what_is_no_socket_is_left_alone(folder: Path, kind: str) -> None:
    path = folder / "cri.sock"
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case "symbolic link":
            path.symlink_to("/nowhere")
        case _:
            os.mkfifo(path)
    with pytest.raises(ListenError, match=f"a {kind} lies there, not a socket; move it away"):
        Claim(Endpoint(str(path)))
    assert os.listdir(folder) == ["cri.sock"]


@pytest.mark.parametrize("parent", ["absent", "a-file"])
def test_a_missing_folder_is_named(folder: Path, parent: str) -> None:
    (folder / "a-file").write_text("")
    with pytest.raises(ListenError, match=f"folder {folder}/{parent}: .*; create it or choose another path"):
        Claim(Endpoint(f"{folder}/{parent}/cri.sock"))


def test_a_successors_socket_stays_when_we_leave(folder: Path, listeners: ExitStack) -> None:
    path = folder / "cri.sock"
    with Claim(Endpoint(str(path))) as claim:
        claim.bind(add_port(listeners))
        claim.appear()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(folder / "next"))
            os.rename(folder / "next", path)
        claim.withdraw()
    assert os.listdir(folder) == ["cri.sock"]


def test_a_failed_bind_leaves_nothing_behind(folder: Path) -> None:
    def refuse(target: str) -> int:
        Path(target.removeprefix("unix:")).write_text("half made")
        raise RuntimeError("Failed to bind to address")

    with pytest.raises(ListenError, match=r"cannot listen on .*: Failed to bind"):  # noqa: SIM117
        with Claim(Endpoint(f"{folder}/cri.sock")) as claim:
            claim.bind(refuse)
    assert os.listdir(folder) == []


def test_a_successor_takes_path_and_lock_and_its_predecessor_leaves_both_alone(
    folder: Path, listeners: ExitStack
) -> None:
    endpoint = Endpoint(f"{folder}/cri.sock")
    with ExitStack() as first:
        old = first.enter_context(Claim(endpoint))
        old.bind(add_port(listeners))
        old.appear()
        with Claim(endpoint, replace=True) as new:
            assert new.incumbent == str(os.getpid())
            new.bind(add_port(listeners))
            assert (old.held(), old.superseded(), new.held()) == (True, False, False)
            new.appear()
            assert (old.held(), old.superseded(), new.held()) == (False, True, True)
            first.close()
            assert sorted(os.listdir(folder)) == ["cri.sock", "cri.sock.lock"]
            assert new.held()
            with pytest.raises(ListenError, match="a live podwire-shim"):
                Claim(endpoint)
    assert os.listdir(folder) == []


def test_of_two_successors_the_second_is_refused_and_told_of_the_first(folder: Path, listeners: ExitStack) -> None:
    endpoint = Endpoint(f"{folder}/cri.sock")
    with Claim(endpoint) as old:
        old.bind(add_port(listeners))
        old.appear()
        with Claim(endpoint, replace=True):
            with pytest.raises(ListenError, match=rf"another podwire-shim \(process {os.getpid()}\) is just starting"):
                Claim(endpoint, replace=True)
            assert old.held()
        # The first gave up before it appeared: everything is as it was.
        assert old.held()
        assert sorted(os.listdir(folder)) == ["cri.sock", "cri.sock.lock"]


def test_a_successor_of_nobody_just_starts(folder: Path, listeners: ExitStack) -> None:
    with Claim(Endpoint(f"{folder}/cri.sock"), replace=True) as claim:
        assert claim.incumbent is None
        claim.bind(add_port(listeners))
        claim.appear()
        assert sorted(os.listdir(folder)) == ["cri.sock", "cri.sock.lock"]
    assert os.listdir(folder) == []


def test_a_successor_does_not_take_a_foreign_listeners_path(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(folder / "cri.sock"))
        foreign.listen()
        with pytest.raises(ListenError, match="another process listens there"):
            Claim(Endpoint(f"{folder}/cri.sock"), replace=True)
    assert os.listdir(folder) == ["cri.sock"]


def test_the_umask_is_as_before(folder: Path, listeners: ExitStack) -> None:
    before = os.umask(0o022)
    try:
        with Claim(Endpoint(f"{folder}/cri.sock")) as claim:
            claim.bind(add_port(listeners))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
