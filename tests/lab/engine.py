"""A container engine of the tests' own: sid's dockerd in namespaces of its own, with its own containerd and socket.

Network, mounts and processes of the engine and of everything in its containers hang on one process (tests/lab/netns):
killing that ends them all, and it is killed when this process dies. What outlives it are a folder in /var/tmp and
cgroups, which `close()` removes, or the next session's `sweep()`.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import debian, kept
from tests.lab.debian import Absent
from tests.lab.netns import Daemon, Namespace, started
from tests.lab.node import RECORD, TMP, remove_cgroups, remove_folder
from tests.lab.waiting import wait_until
from tests.lab.witness import MARK

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class EngineAbsentError(Exception):
    """There can be no engine here; `absent` says why."""

    def __init__(self, absent: Absent) -> None:
        super().__init__(absent.reason)
        self.absent = absent


class Engine:
    """A running dockerd; close() (or leaving the context) ends it with all its containers."""

    def __init__(self) -> None:
        programs = _programs()
        self.base = Path(tempfile.mkdtemp(prefix="podwire-engine-", dir=TMP))
        self.cgroup_parent = f"/podwire-{os.environ.get(MARK, '')}-{secrets.token_hex(4)}"
        # The path is the same inside and outside; a client needs no namespace.
        self.socket = self.base / "run/docker.sock"
        with contextlib.ExitStack() as undo:
            undo.callback(remove_folder, self.base)
            undo.callback(remove_cgroups, self.cgroup_parent)
            for folder in ("run/lock", "var-lib", "client", "bin", "modules"):
                (self.base / folder).mkdir(parents=True)
            self.namespace = undo.enter_context(Namespace(node=True))
            self._record()
            for folder, place in (("run", "/run"), ("var-lib", "/var/lib")):
                self.namespace.run(["mount", "--no-mtab", "--bind", self.base / folder, place])
            self._wrapper(programs.docker)
            self._daemon = self._start(programs)
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process and remove every file and cgroup. Twice is fine."""
        self._undo.close()

    @property
    def environment(self) -> dict[str, str]:
        """For programs that call `docker` themselves: this process's variables, with this engine's client first."""
        return {
            **os.environ,
            "PATH": f"{self.base / 'bin'}:{os.environ.get('PATH', _SYSTEM_PATH)}",
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.base / "client"),
        }

    def docker(
        self,
        *arguments: str | Path,
        check: bool = True,
        input: bytes | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the client to its end; its stderr is part of the error when `check` fails."""
        done = subprocess.run(
            [self.base / "bin/docker", *arguments],
            capture_output=True,
            input=input,
            timeout=timeout,
            check=False,
            env=self.environment,
        )
        if check and done.returncode != 0:
            words = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise RuntimeError(f"docker {' '.join(map(str, arguments))}: exit code {done.returncode}: {words}")
        return done

    def path_of(self, pid: int) -> Path:
        """/proc/PID of a process that the engine numbers so: its numbers are not the machine's."""
        return Path(f"/proc/{self.namespace.pid}/root/proc/{pid}")

    def log(self, lines: int = 20) -> str:
        """The daemon's last words, for messages."""
        return self._daemon.tail(lines)

    @property
    def snapshotter(self) -> str:
        """What containerd in a node can use: overlayfs, except where this folder lies on an overlay itself."""
        done = subprocess.run(["stat", "-fc", "%T", self.base], capture_output=True, text=True, check=True)
        return "native" if done.stdout.strip() in {"overlayfs", "overlay"} else "overlayfs"

    def _record(self) -> None:
        holder = self.namespace.pid
        record = {"holders": {str(holder): started(holder)}, "cgroup": self.cgroup_parent}
        (self.base / RECORD).write_text(json.dumps(record) + "\n")

    def _wrapper(self, client: Path) -> None:
        wrapper = self.base / "bin/docker"
        wrapper.symlink_to(client)

    def _start(self, programs: "_Programs") -> Daemon:
        configuration = self.base / "daemon.json"
        configuration.write_text("{}\n")
        daemon = self.namespace.start(
            [
                programs.dockerd,
                f"--config-file={configuration}",
                # Inside, /run and /var/lib are this engine's own.
                "--host=unix:///run/docker.sock",
                "--data-root=/var/lib/docker",
                "--exec-root=/run/docker",
                "--pidfile=/run/docker.pid",
                f"--cgroup-parent={self.cgroup_parent}",
                "--exec-opt=native.cgroupdriver=cgroupfs",
                f"--storage-driver={'overlay2' if self.snapshotter == 'overlayfs' else 'vfs'}",
                "--userland-proxy=false",
                "--log-level=warn",
            ],
            self.base / "dockerd.log",
            env={"PATH": f"{programs.path}:{_SYSTEM_PATH}", "OTEL_SDK_DISABLED": "true"},
        )

        def serves() -> bool:
            if not daemon.running:
                raise RuntimeError(f"dockerd ended at its start:\n{daemon.tail()}")
            return self.socket.exists() and self.docker("version", check=False).returncode == 0

        wait_until(serves, 60, "dockerd to serve", every=0.1, hint=daemon.tail)
        return daemon


class _Programs:
    """The files of an engine, and the search path that dockerd finds its helpers on."""

    def __init__(self, docker: Path, containerd: Path, runc: Path) -> None:
        self.docker, self.dockerd = docker / "usr/bin/docker", docker / "usr/sbin/dockerd"
        # The machine's runc first: sid's is linked against a newer C library.
        self.path = f"{runc}:{containerd}:{docker}/usr/bin:{docker}/usr/sbin"


def _programs() -> _Programs:
    docker = debian.unpacked("sid", ["docker.io", "docker-cli"], "usr/sbin/dockerd")
    if isinstance(docker, Absent):
        raise EngineAbsentError(docker)
    containerd = debian.containerd_of("sid")
    if isinstance(containerd, Absent):
        raise EngineAbsentError(containerd)
    missing = [name for name in ("runc", "iptables") if shutil.which(name) is None]
    if missing:
        raise EngineAbsentError(Absent(f"not on PATH: {', '.join(missing)}", mirror_has_it=True))
    runc = Path(shutil.which("runc") or "").resolve().parent
    return _Programs(docker, containerd.folder, runc)


def sweep() -> list[Path]:
    """Remove what engines of killed sessions left behind; returns their folders."""
    return kept.sweep("engine")
