"""Unix socket endpoints, and how the shim comes by its own without hurting anybody else's.

grpcio unlinks whatever socket it finds at the path it is told to bind, a live instance's too, and at stop it
unlinks that path again, whoever owns it by then. So it only ever sees a temporary name: the socket is bound
there, given its mode, and renamed into place; at stop the shim removes the path if it is still its own. A
successor takes over in the same way, by renaming its socket over a live one's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cri_shim.errors import ListenError

# struct sockaddr_un holds 108 bytes, the last of them a NUL (unix(7)).
PATH_LIMIT = 107
SOCKET_MODE = 0o660
CONNECT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A Unix socket by its absolute path; as text it is the form kubelet takes."""

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path}"


def parse(text: str) -> Endpoint:
    """Endpoint from `unix:///absolute/path`; ValueError says what is wrong and what would be right."""
    scheme, separator, path = text.partition(":")
    if scheme != "unix" or not separator:
        raise ValueError(f"{text!r} is no unix socket endpoint; write unix:///run/podwire/cri.sock")
    if path.startswith("//"):
        path = path[2:]
    if not path.startswith("/"):
        raise ValueError(f"{text!r} holds a relative path; write unix:// and then an absolute path")
    if "\0" in path:
        raise ValueError(f"{text!r} holds a NUL byte, which no path can")
    if path.endswith("/"):
        raise ValueError(f"{text!r} names a folder; add the name of the socket")
    length = len(os.fsencode(path))
    if length > PATH_LIMIT:
        raise ValueError(f"{text!r}: the path has {length} bytes and a unix socket's may have {PATH_LIMIT}; shorten it")
    return Endpoint(os.path.normpath(path))


class Claim:
    """The right to listen at one path, from the lock to the last unlink; a context manager.

    Raises ListenError from the start when the folder is missing, when a live process listens there, or when
    something that is no socket lies there. A socket that nobody listens on any more is replaced by `appear`.
    With `replace` a live podwire-shim is no obstacle: it keeps path and lock until `appear`, which takes both by
    rename. Whoever is between claim and `appear` holds a second lock, so that two never take over at once.
    """

    def __init__(self, endpoint: Endpoint, replace: bool = False) -> None:
        self.endpoint = endpoint
        self.incumbent: str | None = None
        self._own: tuple[int, int] | None = None
        folder, self._name = os.path.split(endpoint.path)
        self._temporary = f".podwire-shim.{os.getpid()}"
        self._final_lock_name = self._lock_name = f"{self._name}.lock"
        self._lock = self._turn = -1
        try:
            self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {endpoint}: folder {folder}: {error.strerror}; create it or choose another path"
            ) from error
        try:
            if replace:
                self._take_turn()
                self.incumbent = self._holder()
                self._lock_name = f"{self._temporary}.lock"
            self._lock = self._flock(
                self._lock_name,
                "a live podwire-shim (process {}) holds it; stop that one first, take over with --replace, or choose "
                "another path",
            )
            if not replace:
                self._take_turn()
            self._inspect()
        except BaseException:
            self._release()
            raise

    def bind(self, add_port: Callable[[str], object]) -> None:
        """Let `add_port` bind a target of grpcio's form, under a temporary name, 0660; `appear` makes it known.

        The temporary name is reached through the folder's descriptor, so it fits whenever the final one does.
        """
        self._remove(self._temporary)
        before = os.umask(0o777 & ~stat.S_IRWXU)
        try:
            add_port(f"unix:/proc/self/fd/{self._folder}/{self._temporary}")
            os.chmod(self._temporary, SOCKET_MODE, dir_fd=self._folder)
            if os.geteuid() == 0:
                os.chown(self._temporary, 0, 0, dir_fd=self._folder)
        except (OSError, RuntimeError) as error:
            self._remove(self._temporary)
            raise ListenError(f"cannot listen on {self.endpoint}: {error}") from error
        finally:
            os.umask(before)

    def appear(self) -> None:
        """Put the bound socket in place. Clients that connect from now on are ours, whoever had the path before."""
        status = os.stat(self._temporary, dir_fd=self._folder, follow_symlinks=False)
        try:
            # The lock first: killed in between, we leave a socket in place that is served.
            if self._lock_name != self._final_lock_name:
                os.rename(self._lock_name, self._final_lock_name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
                self._lock_name = self._final_lock_name
            os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as error:
            raise ListenError(f"cannot listen on {self.endpoint}: {error}") from error
        self._own = (status.st_dev, status.st_ino)
        self._turn = self._unlock(self._turn, self._turn_name)

    def held(self) -> bool:
        """Whether the path leads to our socket."""
        return self._own is not None and self._at_path() == self._own

    def superseded(self) -> bool:
        """Whether somebody else's socket has taken the place of ours."""
        return self._own is not None and self._at_path() not in (None, self._own)

    def withdraw(self) -> None:
        """Take the path away from new clients, if it is still ours; a successor's socket stays."""
        if self.held():
            self._remove(self._name)
        self._own = None

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.withdraw()
        self._remove(self._temporary)
        self._release()

    @property
    def _turn_name(self) -> str:
        return f"{self._name}.turn"

    def _take_turn(self) -> None:
        self._turn = self._flock(
            self._turn_name, "another podwire-shim (process {}) is just starting there; try again when it serves"
        )

    def _flock(self, name: str, taken: str) -> int:
        """Descriptor of the locked file; ListenError with the text `taken`, its {} the holder, when it is locked."""
        while True:
            lock = os.open(
                name,
                os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
                dir_fd=self._folder,
            )
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = _pid_in(lock)
                os.close(lock)
                raise ListenError(f"cannot listen on {self.endpoint}: {taken.format(holder)}") from error
            # A leaving owner unlinks the file while it holds the lock: what we locked may be nameless.
            if os.fstat(lock).st_nlink:
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
                return lock
            os.close(lock)

    def _holder(self) -> str | None:
        """The process that holds the path's lock, as text; None when it is free."""
        try:
            lock = os.open(self._final_lock_name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _pid_in(lock)
        finally:
            os.close(lock)
        return None

    def _unlock(self, lock: int, name: str) -> int:
        """Remove the file by its name if it is still the one, and let go of it; returns -1 to remember."""
        if lock >= 0:
            try:
                found = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
            except FileNotFoundError:
                found = None
            mine = os.fstat(lock)
            if found is not None and (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino):
                self._remove(name)
            os.close(lock)
        return -1

    def _release(self) -> None:
        self._lock = self._unlock(self._lock, self._lock_name)
        self._turn = self._unlock(self._turn, self._turn_name)
        os.close(self._folder)

    def _at_path(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return (status.st_dev, status.st_ino) if stat.S_ISSOCK(status.st_mode) else None

    def _inspect(self) -> None:
        try:
            status = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise ListenError(
                f"cannot listen on {self.endpoint}: a {_kind(status.st_mode)} lies there, not a socket; "
                "move it away or choose another path"
            )
        if self.incumbent is not None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_SECONDS)
            answer = probe.connect_ex(self.endpoint.path)
        if answer not in (errno.ECONNREFUSED, errno.ENOENT):
            raise ListenError(
                f"cannot listen on {self.endpoint}: another process listens there; "
                "stop that one first or choose another path"
            )

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._folder)
        except FileNotFoundError:
            pass


def _pid_in(lock: int) -> str:
    return os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISLNK(mode):
        return "symbolic link"
    return "file" if stat.S_ISREG(mode) else "special file"


def same_place(one: Endpoint, other: Endpoint) -> bool:
    """Whether two endpoints are one socket, symbolic links in their folders followed."""
    return Path(one.path).parent.resolve() / Path(one.path).name == (
        Path(other.path).parent.resolve() / Path(other.path).name
    )


class Listener:
    """A listening socket of the shim's own at a path, 0660, put there by rename over whatever socket lies there.

    ListenError when the folder is missing or something that is no socket lies there.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._path = endpoint.path
        folder, name = os.path.split(endpoint.path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        temporary = f".{name}.{os.getpid()}"
        try:
            if os.path.lexists(self._path) and not stat.S_ISSOCK(os.lstat(self._path).st_mode):
                raise FileExistsError(errno.EEXIST, "something that is no socket lies there; move it away")
            self._own = self._bind(folder, temporary)
        except OSError as error:
            self.socket.close()
            raise ListenError(f"cannot listen on {endpoint}: {error.strerror or error}") from error

    def withdraw(self) -> None:
        """Remove the path, if it is still this socket's."""
        try:
            status = os.lstat(self._path)
            if (status.st_dev, status.st_ino) == self._own:
                os.unlink(self._path)
        except FileNotFoundError:
            pass

    def missing(self) -> bool:
        """Whether nothing lies at the path."""
        return not os.path.lexists(self._path)

    def _bind(self, folder: str, temporary: str) -> tuple[int, int]:
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            short = f"/proc/self/fd/{place}/{temporary}"
            if os.path.lexists(short):
                os.unlink(short)
            before = os.umask(0o777 & ~SOCKET_MODE)
            try:
                self.socket.bind(short)
            finally:
                os.umask(before)
            self.socket.listen()
            status = os.lstat(short)
            os.rename(short, self._path)
            return status.st_dev, status.st_ino
        finally:
            os.close(place)
