"""The plugin with failpoints: built beside the real executable, which it runs unchanged (see `failpoints_inside`)."""

import errno
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cni_plugin import packaging

INSIDE = Path(__file__).with_name("failpoints_inside.py")
INTERPRETER = "/usr/bin/python3"

# Compiled by the interpreter that will run it: a compilation at every call would take longer than the call.
_COMPILE = (
    "import marshal, sys; sys.stdout.buffer.write(marshal.dumps(compile(sys.stdin.read(), 'failpoints', 'exec')))"
)
_LAUNCHER = """\
#!{interpreter} -ISB
import marshal, posix
f = posix.open({code!r}, posix.O_RDONLY)
exec(marshal.loads(posix.read(f, 1 << 20)), {{"__name__": "failpoints"}})
posix.close(f)
__file__ = {executable!r}
f = posix.open(__file__, posix.O_RDONLY)
c = posix.read(f, 1 << 20)
posix.close(f)
exec(c)
"""


def build(folder: Path, executable: Path | None = None) -> Path:
    """Build the plugin into `folder` (or take `executable`); returns the path of the one with failpoints."""
    executable = executable or packaging.build(folder, INTERPRETER)
    code = subprocess.run(
        [INTERPRETER, "-IS", "-c", _COMPILE], input=INSIDE.read_bytes(), capture_output=True, check=True
    ).stdout
    (folder / "failpoints.code").write_bytes(code)
    launcher = folder / "podwire-failpoints"
    text = _LAUNCHER.format(interpreter=INTERPRETER, code=str(folder / "failpoints.code"), executable=str(executable))
    launcher.write_text(text)
    launcher.chmod(0o755)
    return launcher


@dataclass(frozen=True)
class Step:
    """One step of a call: `process` by descent (`0` is the call itself), its `number` there, and what it does."""

    process: str
    number: int
    name: str

    def __str__(self) -> str:
        return f"{self.process}:{self.number} {self.name}"

    def kill(self, when: str) -> str:
        """The failpoint that kills the process `before` or `after` this step."""
        return f"kill:{self.process}:{self.number}:{when}"

    def stop(self, when: str) -> str:
        """The failpoint that stops the process `before` or `after` this step."""
        return f"stop:{self.process}:{self.number}:{when}"

    def fail(self, code: int = errno.ENOSPC) -> str:
        """The failpoint at which this step fails with an errno."""
        return f"fail:{self.process}:{self.number}:{code}"


@dataclass(frozen=True)
class Trace:
    """What a call wrote into its file of steps."""

    steps: tuple[Step, ...]
    reached: bool
    unguarded: tuple[str, ...]


def read(path: Path) -> Trace:
    """Parse a file of steps; steps of children come where they happened to run."""
    steps, unguarded, reached = [], [], False
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        if line.startswith("!"):
            reached = True
        elif line.startswith("unguarded "):
            unguarded.append(line)
        else:
            place, _, name = line.partition(" ")
            process, _, number = place.partition(":")
            steps.append(Step(process, int(number), name))
    return Trace(tuple(steps), reached, tuple(unguarded))
