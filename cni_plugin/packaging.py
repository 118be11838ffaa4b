"""Make the executable: `python3 -m cni_plugin.packaging FOLDER` writes `podwire` and `podwire.lib/` into FOLDER.

The two belong together and run from wherever they are copied. The modules are compiled, without docstrings, into
one file (see `bundle`); the sources lie beside it, so that an upgrade of the interpreter makes the plugin slower
until it is built again, and never breaks a node.
"""

import fcntl
import marshal
import os
import shutil
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from cni_plugin import bundle

_NOT_SHIPPED = {"packaging.py"}

# -I: no PYTHON* variable and no user folder; -S: no site; -B: nothing is written. A symbolic link (`loopback`)
# leads to the real place. Where there is no bundle for this interpreter, the sources are taken.
_LAUNCHER = """\
#!{interpreter} -ISB
import marshal, posix, sys
from _frozen_importlib_external import MAGIC_NUMBER
p = __file__
try:
    while 1: t = posix.readlink(p); p = t if t[:1] == "/" else p.rpartition("/")[0] + "/" + t
except OSError: p += ".lib"
try:
    f = posix.open(p + "/bundle." + MAGIC_NUMBER.hex(), posix.O_RDONLY | posix.O_CLOEXEC)
    c = memoryview(posix.read(f, posix.fstat(f).st_size))
    posix.close(f)
    s, i = marshal.loads(c)
    g = {{"__name__": "bundle"}}
    exec(marshal.loads(s), g)
    g["install"](c, i)
except (OSError, EOFError, TypeError, ValueError): sys.path.insert(0, p)
from cni_plugin.__main__ import run
run()
"""


def build(folder: Path, interpreter: str = sys.executable) -> Path:
    """Write the executable into `folder`; returns its path.

    An earlier build is replaced file by file, by rename: a call that runs meanwhile has all of the old bundle or
    all of the new. `interpreter` should be of this process's version, or the bundle will be passed over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    turn = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        library = folder / "podwire.lib"
        sources = {
            module.name: module.read_bytes()
            for module in sorted(Path(__file__).parent.glob("*.py"))
            if module.name not in _NOT_SHIPPED
        }
        (library / "cni_plugin").mkdir(parents=True, exist_ok=True)
        for name, text in sources.items():
            _replace(library / "cni_plugin" / name, text)
        compiled = library / f"bundle.{MAGIC_NUMBER.hex()}"
        _replace(compiled, _bundle(sources))
        _replace(folder / "podwire", _LAUNCHER.format(interpreter=interpreter).encode(), 0o755)
        _clear(library, {compiled.name, "cni_plugin"})
        _clear(library / "cni_plugin", set(sources))
    finally:
        os.close(turn)
    return folder / "podwire"


def _bundle(sources: "dict[str, bytes]") -> bytes:
    codes = {}
    for name, text in sources.items():
        module = bundle.PACKAGE if name == "__init__.py" else f"{bundle.PACKAGE}.{name.removesuffix('.py')}"
        code = compile(text, f"{bundle.PACKAGE}/{name}", "exec", dont_inherit=True, optimize=2)
        codes[module] = marshal.dumps(code)
    start = codes.pop(f"{bundle.PACKAGE}.bundle")
    return bundle.pack(codes, start)


def _replace(path: Path, content: bytes, mode: int = 0o644) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(content)
    draft.chmod(mode)
    draft.rename(path)


def _clear(folder: Path, kept: "set[str]") -> None:
    # Above all __pycache__: compiled modules of another build would be taken for those of the sources.
    for entry in folder.iterdir():
        if entry.name in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 -m cni_plugin.packaging FOLDER")
    print(build(Path(sys.argv[1])))
