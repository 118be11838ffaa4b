"""Where the lines of the shim and of the plugin are: files, or the journal that both write to by default."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from cri_shim.errors import SourceError

UNIT, IDENTIFIER = "podwire-shim.service", "podwire"
JOURNAL_SECONDS = 60.0


def lines(files: Sequence[str], since: str) -> Iterator[str]:
    """The lines of the files, or of the journal from `since` on (as journalctl takes it). Raises SourceError."""
    if not files:
        yield from journal(since)
    for file in files:
        try:
            with Path(file).open(errors="replace") as stream:
                yield from stream
        except OSError as error:
            raise SourceError(f"{file}: {error.strerror}") from error


def journal(since: str) -> list[str]:
    """What the shim's unit and the plugin wrote to the journal. Raises SourceError."""
    matches = [f"_SYSTEMD_UNIT={UNIT}", "+", f"SYSLOG_IDENTIFIER={IDENTIFIER}"]
    command = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--since={since}", *matches]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=JOURNAL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"the journal cannot be read: {error}; name the files with --log") from error
    if done.returncode != 0:
        raise SourceError(f"the journal cannot be read: {done.stderr.strip()}; name the files with --log")
    return done.stdout.splitlines()


class Tail:
    """The lines that a file gained since the last look; begins anew when another file has taken its place."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._inode = self._offset = 0
        self._rest = b""

    def new(self) -> list[str]:
        """Whole lines only. Raises SourceError when the file cannot be read."""
        try:
            with self._path.open("rb") as stream:
                status = self._path.stat()
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset, self._rest = status.st_ino, 0, b""
                stream.seek(self._offset)
                read = stream.read()
        except FileNotFoundError:
            return []  # moved away, and not yet made anew
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from error
        self._offset += len(read)
        *whole, self._rest = (self._rest + read).split(b"\n")
        return [line.decode(errors="replace") for line in whole]
