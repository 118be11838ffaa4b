"""What can be wrong with a file of the state folder, and calls that must get along with it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.crash.matrix import Matrix
from tests.lab.threadnode import Reply

VICTIM = "do not touch"
_SECONDS = 15


def _content(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    # In place: the claims are hard links to the same inode.
    def damage(path: Path, victim: Path) -> None:
        if path.is_symlink():  # marks have no content but their target
            text = change(os.readlink(path).encode())[:1000].replace(b"\0", b"")
            path.unlink()
            os.symlink(text or b" ", path)
        else:
            path.write_bytes(change(path.read_bytes()))

    return damage


def _field(name: str, value: object) -> Callable[[Path, Path], None]:
    def change(raw: bytes) -> bytes:
        try:
            record = json.loads(raw)
        except ValueError:
            record = {}
        return json.dumps({**record, name: value} if isinstance(record, dict) else value).encode()

    return _content(change)


def _instead(make: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    def damage(path: Path, victim: Path) -> None:
        path.unlink()
        make(path, victim)

    return damage


def _folder(path: Path, victim: Path) -> None:
    path.mkdir()


def _full_folder(path: Path, victim: Path) -> None:
    path.mkdir()
    (path / "file").touch()


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "empty": _content(lambda raw: b""),
    "cut": _content(lambda raw: raw[: len(raw) // 2]),
    "garbage": _content(lambda raw: b"\xff\x00garbage\n"),
    "huge": _content(lambda raw: b"[" * (3 << 20)),
    "a list": _content(lambda raw: b"[1,2]"),
    "a newer schema": _field("schema", 99),
    "addresses of another type": _field("addresses", {"a": 1}),
    "addresses out of bounds": _field("addresses", [["10.244.0.999", 7], None]),
    "hostPorts of another type": _field("hostPorts", [[1, 2, 3]]),
    "a link name of another type": _field("hostLink", 7),
    "a mac that is none": _field("mac", "zz"),
    "routes of another type": _field("routes", [{"dst": 5}]),
    "a table out of bounds": _field("table", 1 << 70),
    "a name of another type": _field("containerID", ["x"]),
    "gone": lambda path, victim: path.unlink(),
    "a link to a file": _instead(lambda path, victim: path.symlink_to(victim)),
    "a dangling link": _instead(lambda path, victim: path.symlink_to(victim.with_name("nowhere"))),
    "a FIFO": _instead(lambda path, victim: os.mkfifo(path)),
    "a folder": _instead(_folder),
    "a full folder": _instead(_full_folder),
}

OF_CONTENT = ("empty", "cut", "garbage", "huge", "a list")
OF_RECORDS = tuple(name for name in DAMAGES if " of another type" in name or " out of bounds" in name)
OF_RECORDS += ("a newer schema", "a mac that is none")

PLACES = {
    "record": "*/attachments/pw*",
    "address": "*/addresses/10.244.*",
    "hostPort": "*/ports/tcp-*",
    "cooling": "*/cooling/10.244.*",
    "cursor": "*/cursors/*",
    "network": "*/networks/testnet",
    "lock": "*/lock",
    "making lock": "lock",
}


class Patient:
    """A node with two pods; something of the first one's, or of the node's, is damaged."""

    def __init__(self, launcher: Path, folder: Path) -> None:
        self.matrix = Matrix(launcher, folder, "masquerade and hostPorts")
        self.node = self.matrix.node
        self.victim = folder / "victim"
        self.victim.write_text(VICTIM)
        # An address that cools, and a cursor.
        self.matrix.add("old")
        assert self.node.call("DEL", "old", self.node.pods["old"]).exit_code == 0
        before = set(self._found())
        self.result = self.matrix.add("a")
        self.own = sorted(set(self._found()) - before)

    def _found(self) -> list[Path]:
        return [path for pattern in PLACES.values() for path in self.node.state_dir.glob(pattern)]

    def path(self, place: str) -> Path:
        """The file of this kind that is pod a's, or else the node's."""
        found = sorted(self.node.state_dir.glob(PLACES[place]))
        return next((path for path in found if path in self.own), found[0])

    def call(self, verb: str, container: str = "", **options: Any) -> Reply:
        """A call that ends in time, says one thing, and has foreseen what it found."""
        path = self.node.pods.get(container) or (self.matrix.pod(container) if container else "")
        ports = self.matrix.ports_of(container) if container else {}
        reply = self.node.start(verb, container, path, **ports, **options).finish(_SECONDS)
        assert reply.exit_code in (0, 1), reply
        if reply.stdout:
            assert isinstance(reply.json, dict)
        if reply.exit_code:
            assert reply.code != 999, reply
            assert reply.json["msg"], reply
        return reply

    def untouched(self) -> None:
        """Nothing was written through a link."""
        assert self.victim.read_text() == VICTIM
        assert not self.victim.with_name("nowhere").exists()


def repair(path: Path) -> None:
    """Take away whatever stands there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
