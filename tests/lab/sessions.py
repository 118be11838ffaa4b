"""Test sessions that ran at the same time: their namespaces and files are not each other's leftovers."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.images import CACHE


class Session:
    """A live test session of this working copy; `overlapped` tells whether another one lived meanwhile."""

    def __init__(self, folder: Path = CACHE / "sessions") -> None:
        self._folder = folder
        self._file = folder / str(os.getpid())

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            others = [file for file in self._folder.iterdir() if file.name.isdigit() and file != self._file]
            live = [file for file in others if Path("/proc", file.name).exists()]
            self._file.write_text("".join(f"{file.name}\n" for file in live))
            for file in others:
                if file in live:
                    file.write_text(file.read_text() + f"{os.getpid()}\n")
                else:
                    file.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.unlink(missing_ok=True)

    @property
    def overlapped(self) -> list[str]:
        """Process ids of the sessions that lived at the same time, ended or not."""
        return self._file.read_text().split()
