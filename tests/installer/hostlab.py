"""What host.sh needs to run without an engine: recorders for docker, podman and nerdctl, fake nodes, a fake payload.

A recorder is an executable on PATH that writes its arguments down and runs `exec` in a mount namespace in which the
node's folders lie over /opt and /run. The payload is a real archive whose podwire-node is a short script: it writes
down how it was called, does the little that host.sh relies on, and what a test puts into the node's `behave/VERB`.
"""

import io
import os
import signal
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.installer.scripts import ENGINE, PODWIRE_NODE
from tests.lab.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
HOST = REPOSITORY / "cni_plugin" / "install" / "host.sh"
PARTS = HOST.with_suffix("")
IDENTITY = "0.1.0-0123456789ab"
TOKEN = "eyJhbGciOiJSUzI1NiIs.c2VjcmV0.c2lnbmF0dXJl"
KUBECONFIG = f"apiVersion: v1\nusers:\n- name: podwire-agent\n  user:\n    token: {TOKEN}\n"

SHELLS = {"bash": ["bash"], "dash": ["dash"], "busybox-ash": ["busybox", "ash"]}


@dataclass(frozen=True)
class Call:
    """One call of a recorder: the engine and its arguments."""

    engine: str
    arguments: tuple[str, ...]

    @property
    def node(self) -> str:
        """The node of an exec."""
        return self.arguments[2] if self.arguments[:2] == ("exec", "-i") else ""

    @property
    def command(self) -> tuple[str, ...]:
        """What an exec runs there."""
        return self.arguments[3:]


@dataclass(frozen=True)
class Done:
    """One run of host.sh."""

    code: int
    out: str
    err: str


class Node:
    """A folder that plays a node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    def make(self, role: str, state: str = "running", machine: str = "x86_64") -> None:
        """The folder, with what `inspect` and `uname` say."""
        for name in ("opt", "run", "behave", "bin"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "inspect").write_text(f"{state} {role}\n")
        for name, text in {
            "uname": f"echo {machine}",
            # There is no /etc/kubernetes on the machine that runs the tests.
            "test": '[ "$2" != /etc/kubernetes/admin.conf ] || exec /usr/bin/test -e "$NODE/admin.conf"\n'
            'exec /usr/bin/test "$@"',
            "getent": 'exec /usr/bin/test -e "$NODE/resolves"',
            "ip": 'cat "$NODE/addresses"',
        }.items():
            script(self.folder / "bin" / name, text)

    def behave(self, verb: str, text: str) -> None:
        """What podwire-node does instead of its usual, for one verb (`cluster-plan`)."""
        (self.folder / "behave" / verb).write_text(text)

    @property
    def calls(self) -> list[str]:
        """How podwire-node was called, without the path."""
        try:
            return (self.folder / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []

    @property
    def tree(self) -> list[str]:
        """What lies in the node's folders, links with their targets."""
        return sorted(
            f"{path.relative_to(self.folder)}{' -> ' + os.readlink(path) if path.is_symlink() else ''}"
            for top in ("opt", "run")
            for path in (self.folder / top).rglob("*")
        )


class HostLab:
    """A cluster of fake nodes behind one engine, and host.sh run by one shell."""

    def __init__(self, folder: Path, engine: str = "docker", shell: str = "dash") -> None:
        # Nothing may depend on paths without spaces.
        self.folder = folder / "a place"
        self.engine, self.shell = engine, shell
        self.bin = self.folder / "bin"
        self.nodes_folder = self.folder / "nodes"
        self.log = self.folder / "install.log"
        for each in (self.bin, self.nodes_folder, self.folder / "tmp"):
            each.mkdir(parents=True)
        self.add_engine(engine)
        self.payload = self.folder / "podwire-0.1.0-amd64.tar.gz"
        make_payload(self.payload)

    def add_engine(self, name: str) -> None:
        """A recorder on PATH."""
        script(self.bin / name, ENGINE)

    def add(self, name: str, role: str = "worker", state: str = "running", machine: str = "x86_64") -> Node:
        """A node of the cluster `kind`."""
        node = Node(self.nodes_folder / name)
        node.make(role, state, machine)
        with (self.folder / "names").open("a") as names:
            names.write(f"{name}\n")
        return node

    def cluster(self, *names: str) -> list[Node]:
        """The first is a control plane with an API that knows the pod CIDRs of all."""
        nodes = [self.add(name, "worker" if at else "control-plane") for at, name in enumerate(names)]
        first = nodes[0].folder
        (first / "admin.conf").write_text("")
        (first / "plan").write_text(
            "".join(f"node\t{name}\t10.244.{at}.0/24\n" for at, name in enumerate(names)) + "cluster\t10.244.0.0/16\n"
        )
        (first / "kubeconfig").write_text(KUBECONFIG)
        return nodes

    @property
    def calls(self) -> list[Call]:
        """Everything an engine was asked."""
        try:
            text = (self.folder / "argv").read_text()
        except FileNotFoundError:
            return []
        records = [record.split("\0")[:-1] for record in text.split("\x1e\0")[:-1]]
        return [Call(record[0], tuple(record[1:])) for record in records]

    @property
    def environment(self) -> dict[str, str]:
        """The recorders come first on PATH; nothing of the caller's own cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KIND_", "DOCKER_"))}
        return {
            **kept,
            "PATH": f"{self.bin}:/usr/sbin:/usr/bin:/sbin:/bin",
            "TMPDIR": str(self.folder / "tmp"),
            "LAB": str(self.folder),
            "LC_ALL": "C.UTF-8",
        }

    @property
    def without_engines(self) -> Path:
        """A folder with all commands of this machine but engines."""
        folder = self.folder / "no engines"
        if not folder.exists():
            folder.mkdir()
            for path in (each for place in ("/usr/bin", "/usr/sbin") for each in Path(place).iterdir()):
                if path.name not in ("docker", "podman", "nerdctl") and not (folder / path.name).is_symlink():
                    (folder / path.name).symlink_to(path)
        return folder

    def argv(self, *words: str) -> list[str]:
        """How host.sh is called; words begin with node or kind."""
        return [*SHELLS[self.shell], str(HOST), *words, "--log", str(self.log)]

    def start(self, *words: str, **more: str) -> "subprocess.Popen[str]":
        """host.sh in a session of its own."""
        return subprocess.Popen(
            self.argv(*words),
            env={**self.environment, **more},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, **more: str) -> Done:
        """To its end."""
        with self.start(*words, **more) as process:
            out, err = process.communicate(timeout=60)
        return Done(process.returncode, out, err)

    def install(self, *words: str, **more: str) -> Done:
        """`kind`, with the fake payload."""
        return self.run("kind", "--payload", self.payload.name, *words, **more)

    def interrupted(self, number: signal.Signals, reached: Path, *words: str) -> Done:
        """An installation that gets a signal as soon as a file is there."""
        with self.start("kind", "--payload", self.payload.name, *words) as process:
            wait_until(reached.exists, 20, f"{reached} while host.sh runs")
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        return Done(process.returncode, out, err)


def script(path: Path, text: str) -> None:
    """An executable."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def make_payload(path: Path, identity: str = IDENTITY) -> None:
    """An archive as `install.sh build --payload` names it, with the fake podwire-node alone."""
    data = f"#!/bin/sh\n{PODWIRE_NODE}".encode()
    with tarfile.open(path, "w:gz") as archive:
        for name in (identity, f"{identity}/bin"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        info = tarfile.TarInfo(f"{identity}/bin/podwire-node")
        info.size, info.mode = len(data), 0o755
        archive.addfile(info, io.BytesIO(data))


def of_node(calls: Sequence[Call], name: str) -> list[tuple[str, ...]]:
    """The commands that were run on one node."""
    return [call.command for call in calls if call.node == name]
