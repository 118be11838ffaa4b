"""Make the executable: `python3 -m cni_plugin.packaging FOLDER` writes `podwire` and `podwire.lib/` into FOLDER.

The two belong together and run from wherever they are copied. Modules are compiled without docstrings and
without a check of the source's time at run time; the sources lie beside them, so that an upgrade of the
interpreter makes the plugin slower until it is built again, and never breaks a node.
"""

import py_compile
import shutil
import sys
from importlib.util import cache_from_source
from pathlib import Path

_NOT_SHIPPED = {"packaging.py"}

# -I: no PYTHON* variable and no user folder; -S: no site; -B: nothing is written. A symbolic link (`loopback`)
# leads to the real place.
_LAUNCHER = """\
#!{interpreter} -ISB
import posix, sys
try: p = posix.readlink(__file__); p = p if p[:1] == "/" else __file__.rpartition("/")[0] + "/" + p
except OSError: p = __file__
sys.path.insert(0, p + ".lib")
from cni_plugin.__main__ import run
run()
"""


def build(folder: Path, interpreter: str = sys.executable) -> Path:
    """Write the executable into `folder`, replacing an earlier build by rename; returns its path."""
    source = Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "podwire.lib"
    draft = folder / ".podwire.lib.new"
    shutil.rmtree(draft, ignore_errors=True)
    package = draft / "cni_plugin"
    package.mkdir(parents=True)
    for module in sorted(source.glob("*.py")):
        if module.name in _NOT_SHIPPED:
            continue
        copy = package / module.name
        shutil.copyfile(module, copy)
        py_compile.compile(
            str(copy),
            cfile=cache_from_source(str(copy)),
            dfile=f"cni_plugin/{module.name}",
            doraise=True,
            optimize=2,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    shutil.rmtree(library, ignore_errors=True)
    draft.rename(library)
    launcher = folder / ".podwire.new"
    launcher.write_text(_LAUNCHER.format(interpreter=interpreter))
    launcher.chmod(0o755)
    launcher.rename(folder / "podwire")
    return folder / "podwire"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 -m cni_plugin.packaging FOLDER")
    print(build(Path(sys.argv[1])))
