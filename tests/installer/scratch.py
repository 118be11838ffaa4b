"""A node in a folder: payloads made by hand, a systemctl, a crictl and a podwire-cri that do as the real ones would.

What is not in the folder - links, routes, the nft table, the plugin's idea of its node - is in a network namespace of
its own: `ScratchNode.inside` runs a function in a child that is there. Real ones are in tests/nodes.
"""

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cni_plugin import packaging
from cni_plugin.install import entries, manifest, selftest
from cni_plugin.install.manifest import Manifest
from cni_plugin.install.options import Options
from cni_plugin.install.places import Places
from cni_plugin.install.site import Site
from cni_plugin.install.systemd import Systemd
from tests.cni_plugin.children import ended
from tests.installer.trees import tree
from tests.lab.images import REPOSITORY
from tests.lab.netns import Namespace

INTERPRETER = "/usr/bin/python3"
ALL = Options(shim=True, pod_cidrs=("10.244.7.0/24",), cluster_cidrs=("10.244.0.0/16",), node_name="n7")
PLAIN = Options(agent=False, pod_cidrs=("10.244.7.0/24",), cluster_cidrs=("10.244.0.0/16",))
KUBEADM = Path(__file__).parent / "kubeadm" / "1.35"
_UNITS = ("podwire-agent.service", "podwire-shim.service", "podwire-watchdog.service", "podwire-watchdog.timer")

_SYSTEMCTL = """\
#!/bin/sh
# Units are files: NAME in $state/active and, as systemd does it, a link below the administrator's units.
state={root}/systemd units={root}/etc/systemd/system
echo "$*" >>{calls}
verb=$1; shift
case $verb in
    is-active) test -e "$state/active/$1" && echo active || {{ echo inactive; exit 3; }} ;;
    is-enabled) test -L "$units/multi-user.target.wants/$1" && echo enabled || {{ echo disabled; exit 1; }} ;;
    show) for unit; do :; done
        case $1 in
            *LoadState) test -e "$units/$unit" && echo loaded || echo not-found ;;
            *) echo 0 ;;
        esac ;;
    enable) shift
        for unit; do
            test -e "$units/$unit" || {{ echo "Unit file $unit does not exist." >&2; exit 1; }}
            mkdir -p "$units/multi-user.target.wants"
            ln -sf "$units/$unit" "$units/multi-user.target.wants/$unit"; touch "$state/active/$unit"
        done ;;
    disable) shift
        for unit; do rm -f "$units/multi-user.target.wants/$unit" "$state/active/$unit"; done
        rmdir "$units/multi-user.target.wants" 2>/dev/null; : ;;
    restart | reload | start) touch "$state/active/$1" ;;
    stop) rm -f "$state/active/$1" ;;
esac
"""

_CRICTL = """\
#!{python} -IS
import json, os, sys
folder = "{root}/etc/cni/net.d"
names = sorted(n for n in os.listdir(folder) if n.endswith(".conflist")) if os.path.isdir(folder) else []
name = json.load(open(folder + "/" + names[0]))["name"] if names else ""
ready = bool(names) and not os.path.exists("{root}/deaf")
condition = {{"type": "NetworkReady", "status": ready, "message": "" if ready else "cni plugin not initialized"}}
networks = [{{"IFName": "eth0", "Config": {{"Name": name}}}}] if ready else []
load = "OK" if ready else "cni config load failed"
print(json.dumps({{"status": {{"conditions": [condition]}}, "lastCNILoadStatus": load,
    "cniconfig": {{"Networks": networks}}}}))
"""

# As containerd: no DEL without a network, and DEL by the first network's plugin, whoever made the sandbox.
_PODWIRE_CRI = """\
#!{python} -IS
import json, os, subprocess, sys
if sys.argv[1] == "status":
    print(json.dumps({{"ready": True, "runtime": {{"name": "containerd", "version": "2.1.0"}}, "conditions": [],
        "network": {{}}}}))
    sys.exit()
assert sys.argv[1:4] == ["sandbox", "remove", "--any"], sys.argv
folder = "{root}/etc/cni/net.d"
names = sorted(n for n in os.listdir(folder) if n.endswith(".conflist"))
if not names:
    sys.exit("cni plugin not initialized")
document = json.load(open(folder + "/" + names[0]))
for plugin in document["plugins"]:
    program = "{root}/opt/cni/bin/" + plugin["type"]
    if os.path.exists(program):
        subprocess.run([program], check=True, stdout=2,
            input=json.dumps({{**plugin, "cniVersion": document["cniVersion"], "name": document["name"]}}).encode(),
            env={{"CNI_COMMAND": "DEL", "CNI_CONTAINERID": sys.argv[4], "CNI_NETNS": "", "CNI_IFNAME": "eth0",
                "CNI_PATH": "{root}/opt/cni/bin", "PATH": os.environ["PATH"]}})
"""


class ScratchNode:
    """A node whose root is a folder with a short path: unix sockets live in it."""

    def __init__(self, root: Path, namespace: Namespace) -> None:
        self.root, self.namespace = root, namespace
        self.places = Places(root)
        self.tools = root.with_name(root.name + "-tools")
        self.calls = self.tools / "calls"
        for folder in (
            "opt",
            "systemd/active",
            "run/systemd/system",
            "etc/cni/net.d",
            "usr/local/bin",
            "proc/sys/net/ipv4",
        ):
            (root / folder).mkdir(parents=True)
        (root / "proc/sys/net/ipv4/ip_forward").write_text("0")
        (root / "systemd/active/kubelet.service").touch()
        shutil.copytree(KUBEADM, root, dirs_exist_ok=True)
        self.tools.mkdir()
        self.pods = ExitStack()
        self.calls.touch()
        words = {"root": root, "calls": self.calls, "python": INTERPRETER}
        for name, text in (("systemctl", _SYSTEMCTL), ("crictl", _CRICTL), ("podwire-cri", _PODWIRE_CRI)):
            self._tool(name, text.format(**words))
        self._tool("podwire-agent", f"#!/bin/sh\necho podwire-agent $* >>{self.calls}\n")

    def _tool(self, name: str, text: str) -> None:
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def site(self, said: list[str] | None = None) -> Site:
        """The node as the installer is given it; what it says goes into `said`."""
        said = [] if said is None else said
        systemd = Systemd(booted=self.root / "run/systemd/system")
        return Site(self.places, systemd, said.append, seconds=5.0, programs=self.tools)

    def picture(self) -> dict[str, str]:
        """Everything in the folder, the machine's part of it included."""
        return tree([self.root])

    def push(self, version: str = "1") -> Path:
        """An unpacked payload, where the host's side puts it."""
        folder = self.places.home / f".incoming-{version}" / f"0.1.0-{version * 12}"
        (folder / "bin").mkdir(parents=True)
        (folder / "bin/python3").symlink_to(INTERPRETER)
        for name in ("podwire-agent", "podwire-node"):
            (folder / "bin" / name).write_text(f"#!/bin/sh\necho {name} $* >>{self.calls}\n")
            (folder / "bin" / name).chmod(0o755)
        packaging.build(folder / "cni", f"/opt/podwire/versions/{folder.name}/bin/python3")
        (folder / "conf").mkdir()
        for name in ("agent.toml", "shim.toml"):
            shutil.copy(REPOSITORY / "conf" / name, folder / "conf")
        for name in _UNITS:
            (folder / "conf" / name).write_text(f"# {name} of version {version}\n")
        files: dict[str, Any] = {}
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            if path.is_symlink():
                files[name] = {"link": os.readlink(path)}
            elif path.is_file():
                files[name] = {"sha256": entries.digest(path.read_bytes()), "mode": path.stat().st_mode & 0o7777}
        arch = manifest.ARCHITECTURES.get(os.uname().machine, os.uname().machine)
        document = {"identity": folder.name, "version": "0.1.0", "arch": arch, "files": files}
        (folder / manifest.NAME).write_text(json.dumps(document))
        return folder

    def place(self, version: str = "1") -> Manifest:
        """A payload in its place, as `podwire-node place` leaves it."""
        from cni_plugin.install import __main__ as command

        payload = self.push(version)
        found = manifest.read(payload)
        assert self.inside(lambda: command.main(["place", str(payload)], self.places)) == 0
        return found

    def inside(self, work: Callable[[], int], log: Path | None = None) -> int:
        """Run `work` in a child that is in the node's network namespace, with the node's tools first on PATH.

        Returns what it returns, as an exit code; a traceback is 70.
        """
        child = os.fork()
        if child:
            return ended(child)
        code = 70
        try:
            descriptor = os.open(log or self.tools / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            # pytest's own write into its files, whatever the descriptors are.
            sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
            net = os.open(f"/proc/{self.namespace.pid}/ns/net", os.O_RDONLY)
            if ctypes.CDLL(None).setns(net, selftest.CLONE_NEWNET) != 0:
                raise OSError("setns")
            os.environ["PATH"] = f"{self.tools}:{os.environ['PATH']}"
            code = work()
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 - pytest must not run on in the child
            traceback.print_exc()
        finally:
            os._exit(code)

    def said(self) -> str:
        """What children wrote."""
        return (self.tools / "log").read_text() if (self.tools / "log").exists() else ""

    def attach(self, container: str) -> None:
        """ADD of a pod, as the runtime calls it; the pod's namespace is held until `pods` is closed."""
        document = json.loads(self.places.conflist.read_text())
        plugin = {**document["plugins"][0], "cniVersion": "1.0.0", "name": document["name"]}
        pod = self.pods.enter_context(Namespace())
        environment = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/proc/{pod.pid}/ns/net",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.places.cni_bin),
            "PATH": os.environ["PATH"],
        }
        done = subprocess.run(
            self.namespace.command([self.places.executable]),
            env=environment,
            input=json.dumps(plugin),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def listening(path: Path) -> Iterator[None]:
    """Something answers at this socket, as the shim would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(64)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
