"""What is at a path, as data: nothing, a file (by the SHA-256 of its content), or a link; and putting it there.

An entry is JSON: None for nothing, {"link": TARGET}, or {"sha256", "mode", "uid", "gid", "mtime"}. Contents lie in a
`Store`. Everything is put in place by a rename inside its own folder, synced before and after, so that whoever reads
sees the old entry or the new one, also after a power cut.
"""

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any

Entry = dict[str, Any] | None
_KEPT = re.compile(r"[0-9a-f]{64}\Z|\.[0-9a-f]{64}\.new\Z")


class EntryError(Exception):
    """Something is at a path that is neither a file nor a link; the text says what."""


def look(path: Path) -> Entry:
    """What is there now. Raises EntryError and OSError."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(status.st_mode):
        return {"link": os.readlink(path)}
    if not stat.S_ISREG(status.st_mode):
        raise EntryError(f"{path} is neither a file nor a link: move it away")
    return described(path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)


def described(content: bytes, mode: int, uid: int = 0, gid: int = 0, mtime: int = 0) -> Entry:
    """The entry of a file with this content; an `mtime` of 0 is the time of writing."""
    return {"sha256": digest(content), "mode": mode, "uid": uid, "gid": gid, "mtime": mtime}


def digest(content: bytes) -> str:
    """What a content is stored and compared by."""
    return hashlib.sha256(content).hexdigest()


def same(one: Entry, other: Entry) -> bool:
    """Whether both are the same to a reader: target, or content; not who may read it or since when it is there."""
    if one is None or other is None:
        return one is other
    return (one.get("link"), one.get("sha256")) == (other.get("link"), other.get("sha256"))


def equal(one: Entry, other: Entry) -> bool:
    """The same, owner and mode included."""
    if one is None or other is None or "link" in one:
        return same(one, other)
    return same(one, other) and all(one[key] == other[key] for key in ("mode", "uid", "gid"))


class Store:
    """Contents by their SHA-256, for root's eyes: originals may hold keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, content: bytes) -> None:
        """Keep a content, durably."""
        path = self._folder / digest(content)
        if path.exists():
            return
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700)
            sync(self._folder.parent)
        _write(path.with_name(f".{path.name}.new"), content, 0o600)
        path.with_name(f".{path.name}.new").rename(path)
        sync(self._folder)

    def content(self, sha256: str) -> bytes:
        """A content that was kept. Raises EntryError where it is gone or damaged."""
        path = self._folder / sha256
        try:
            content = path.read_bytes()
        except OSError as fault:
            raise EntryError(f"the original {path} cannot be read: {fault}") from None
        if digest(content) != sha256:
            raise EntryError(f"the original {path} is damaged: its SHA-256 is {digest(content)}")
        return content

    def prune(self, wanted: set[str]) -> None:
        """Drop what nobody names any more, and the folder when it is empty."""
        if not self._folder.is_dir():
            return
        # Others keep things here too, by other names.
        for path in self._folder.iterdir():
            if _KEPT.match(path.name) and path.name not in wanted:
                path.unlink()
        if not any(self._folder.iterdir()):
            self._folder.rmdir()


def draft(path: Path) -> Path:
    """Where an entry is made before it is renamed; no runtime, kubelet or systemd reads such a name."""
    return path.with_name(f".{path.name}.podwire-new")


def put(path: Path, entry: Entry, content: bytes = b"") -> None:
    """Make `path` be this entry; a file's `content` comes with it. Raises OSError."""
    made = draft(path)
    made.unlink(missing_ok=True)
    if entry is None:
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync(path.parent)
        return
    if "link" in entry:
        made.symlink_to(entry["link"])
    else:
        _write(made, content, entry["mode"])
        if (entry["uid"], entry["gid"]) != (os.geteuid(), os.getegid()):
            os.chown(made, entry["uid"], entry["gid"])
            made.chmod(entry["mode"])
        if entry["mtime"]:
            os.utime(made, ns=(entry["mtime"], entry["mtime"]))
    made.rename(path)
    sync(path.parent)


def replace(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Make `path` a file with this content, of root's. Raises OSError."""
    put(path, described(content, mode, os.geteuid(), os.getegid()), content)


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def sync(folder: Path) -> None:
    """Make a folder's names durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
