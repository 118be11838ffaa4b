"""What the watchdog watches, below a root of its own: a runtime and the shim as real processes, kubelet's files."""

import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from cni_plugin.install.journal import Journal
from cni_plugin.install.kubelet import edits, survey
from cni_plugin.install.places import Places
from cni_plugin.install.watchdog_probe import serves
from tests.lab.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
KUBEADM = Path(__file__).parent / "kubeadm"
# Answers Version, and nothing else.
RUNTIME = """
import sys
from concurrent import futures
import grpc
from cri_shim import schema
answer = schema.message("VersionResponse")(version="0.1.0", runtime_name="test", runtime_api_version="v1")
handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer.SerializeToString())
server = grpc.server(futures.ThreadPoolExecutor(2))
service = grpc.method_handlers_generic_handler("runtime.v1.RuntimeService", {"Version": handler})
server.add_generic_rpc_handlers((service,))
server.add_insecure_port("unix:" + sys.argv[1])
server.start()
server.wait_for_termination()
"""


class Watched:
    """One node; close() ends its processes."""

    def __init__(self, root: Path, version: str = "1.31") -> None:
        self.places = Places(root)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        shutil.copytree(KUBEADM / version, root, dirs_exist_ok=True)
        for socket in (self.places.shim_socket, self.places.runtime_socket):
            socket.parent.mkdir(parents=True)
        self.shim_endpoint = f"unix://{self.places.shim_socket}"
        self.runtime_endpoint = f"unix://{self.places.runtime_socket}"

    def close(self) -> None:
        for name in list(self._processes):
            self.end(name)

    def start(self, *names: str) -> None:
        """Start `runtime` or `shim`, and wait until it serves."""
        for name in names:
            socket = self.places.shim_socket if name == "shim" else self.places.runtime_socket
            if name == "shim":
                argv = ["-m", "cri_shim", "--listen", self.shim_endpoint, "--upstream", self.runtime_endpoint]
            else:
                argv = ["-c", RUNTIME, str(socket)]
            with (self.places.root / f"{name}.log").open("wb") as log:
                self._processes[name] = subprocess.Popen(
                    [sys.executable, "-B", *argv], cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            wait_until(functools.partial(serves, str(socket), 1), 20, f"{name} to serve", hint=self._logs)

    def end(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait(10)

    def hang(self, name: str) -> None:
        """The process stays and answers nothing, as with a deadlock."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGCONT)

    def switch(self) -> None:
        """Kubelet to the shim, as the installation does it."""
        journal = Journal(self.places)
        self.places.lib.mkdir(parents=True, exist_ok=True)
        options = {"cni": True, "shim": True, "agent": False}
        journal.begin("install", "0.1.0-abc", options, "shim")
        for edit in edits(self.places, self.shim_endpoint):
            journal.replace(edit.path, edit.before, edit.after, part="kubelet", endpoint=self.runtime_endpoint)
        journal.complete()
        journal.commit()

    def endpoint(self) -> str:
        return survey(self.places).endpoint

    def kubelets_files(self) -> dict[str, bytes]:
        folders = (self.places.kubelet, self.places.at("/etc"))
        found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in found}

    def _logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.places.root.glob("*.log"))


def lean_run(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    """The interpreter as the unit starts it, without what a virtual environment adds."""
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-I", "-S", *arguments], env=environment, capture_output=True, text=True, timeout=30
    )
