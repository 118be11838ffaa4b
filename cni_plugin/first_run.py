"""The state folder of a node that has none yet: made whole, with what other plugins' pods hold, or not at all."""

import posix

from cni_plugin import claims, ipam
from cni_plugin.locks import Lock

_DRAFT = ".draft"


def make(state_dir: str, path: str) -> None:
    """Make the folder `path` below `state_dir`, and remove those of earlier boots. Raises OSError and CniError 11.

    It is made beside and renamed, so that no ADD sees it before the addresses of other plugins' pods are in it.
    """
    parts = state_dir.split("/")
    for depth in range(2, len(parts) + 1):
        _mkdir("/".join(parts[:depth]))
    lock_path = f"{state_dir}/lock"
    descriptor = posix.open(lock_path, posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOFOLLOW, 0o600)
    try:
        with Lock(descriptor, 0, "the making of the state folder", lock_path):
            if posix.access(f"{path}/lock", posix.F_OK):
                return  # another call was faster
            _forget_other_boots(state_dir, path.rpartition("/")[2][:36])
            draft = f"{state_dir}/{_DRAFT}"
            _remove_tree(draft)
            target = path if posix.access(path, posix.F_OK) else draft
            _mkdir(target)
            for folder in claims.FOLDERS:
                _mkdir(f"{target}/{folder}")
            _import_foreign(f"{target}/foreign")
            posix.close(posix.open(f"{target}/lock", posix.O_WRONLY | posix.O_CREAT | posix.O_CLOEXEC, 0o600))
            if target == draft:
                posix.rename(draft, path)
    finally:
        posix.close(descriptor)


def _import_foreign(folder: str) -> None:
    from cni_plugin import foreign

    for address, source in foreign.survey().items():
        try:
            posix.symlink(source, f"{folder}/{ipam.format_address(address)}")
        except FileExistsError:
            pass


def _forget_other_boots(state_dir: str, boot: str) -> None:
    for name in posix.listdir(state_dir):
        shaped = len(name) > 37 and name[36] == "-" and name[37:].isdigit() and name.count("-") == 5
        if shaped and name[:36] != boot:
            _remove_tree(f"{state_dir}/{name}")


def _mkdir(path: str) -> None:
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        pass


def _remove_tree(path: str) -> None:
    try:
        if posix.lstat(path).st_mode & 0o170000 != 0o040000:
            claims.unlink(path)
            return
        for name in posix.listdir(path):
            _remove_tree(f"{path}/{name}")
        posix.rmdir(path)
    except OSError:
        pass  # what cannot be removed is no reason to fail a pod
