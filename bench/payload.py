"""`python -m bench.payload`: start-up of the plugin from a payload beside the one of build/cni, in one run.

Whole processes, alternating, each answering VERSION: the shortest call there is, so that the interpreter's start is
what is compared. Both run as installed: by the first line of the executable. Needs no root; `./install.sh build` and
`./install.sh build --payload` must have been called.
"""

import argparse
import json
import tempfile
from pathlib import Path

from bench.driver import Exec, Running, command, header, percentile, table, tool

_BUILD = Path("build")
_AT_MOST = 1.1
_WARM_UP = 10
_INTERPRETER = "import sys; print(sys.version.split()[0], sys.executable)"


def place(archive: Path, folder: Path) -> Path:
    """Unpack a payload and let its executable name the interpreter where it lies now; returns the executable."""
    tool("tar", "-xzf", str(archive), "-C", str(folder))
    (tree,) = folder.iterdir()
    executable = tree / "cni/podwire"
    first, rest = executable.read_bytes().split(b"\n", 1)
    executable.write_bytes(f"#!{tree}/bin/python3 {first.decode().split()[-1]}\n".encode() + rest)
    return executable


def alternate(executables: dict[str, Path], runs: int) -> dict[str, tuple[list[float], list[float]]]:
    """Wall and CPU seconds of each, called in turn, after a warm-up."""
    samples: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in executables}
    for run in range(-_WARM_UP, runs):
        for name, executable in executables.items():
            measured = Running(Exec([str(executable)], {"CNI_COMMAND": "VERSION"}, b"")).finish()
            if "supportedVersions" not in json.loads(measured.output):
                raise RuntimeError(f"{executable} answers {measured.output!r}")
            if run >= 0:
                samples[name][0].append(measured.wall)
                samples[name][1].append(measured.cpu)
    return samples


def ratio(samples: dict[str, tuple[list[float], list[float]]]) -> float:
    """Median wall time of the payload's to that of build/cni's."""
    return percentile(samples["payload"][0], 0.5) / percentile(samples["build/cni"][0], 0.5)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.payload", description=__doc__, allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=300, help="counted runs of each (300)")
    parser.add_argument("--payload", type=Path, help="the archive (the one in build/ for amd64)")
    options = parser.parse_args()
    archive = options.payload or next(iter(sorted(_BUILD.glob("podwire-*-amd64.tar.gz"))), None)
    built = (_BUILD / "cni/podwire").absolute()
    if archive is None or not archive.exists() or not built.exists():
        parser.error("there is no archive or no build/cni: ./install.sh build, and ./install.sh build --payload")
    with tempfile.TemporaryDirectory(prefix="podwire-bench-") as folder:
        executables = {"build/cni": built, "payload": place(archive, Path(folder))}
        pythons = {name: path.read_text().split("\n", 1)[0][2:].split()[0] for name, path in executables.items()}
        about = [f"{name}: {tool(python, '-c', _INTERPRETER).strip()}" for name, python in pythons.items()]
        print(header("bench.payload", about), end="\n\n", flush=True)
        samples = alternate(executables, options.runs)
    rows = [
        [name, *(f"{percentile(each, share) * 1000:.2f}" for each in (wall, cpu) for share in (0.5, 0.9))]
        for name, (wall, cpu) in samples.items()
    ]
    print(table([f"VERSION, ms ({options.runs} runs)", "wall p50", "p90", "CPU p50", "p90"], rows), end="\n\n")
    found = ratio(samples)
    verdict = "met" if found <= _AT_MOST else "missed"
    print(
        table(
            ["ratio of medians, wall", "", "at most", ""],
            [["payload / build/cni", f"{found:.3f}", f"{_AT_MOST}", verdict]],
        )
    )


if __name__ == "__main__":
    command(main)
