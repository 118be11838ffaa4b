"""The image of kind-like nodes: Debian trixie with kind's packages, systemd, sid's containerd, and no python.

mmdebstrap makes it from the machine's own Debian mirror; nothing of it is installed here. The root file system is one
tar in build/lab, named after everything it was made from, so the first run of a machine makes it and later ones import
it into their engine.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.lab import debian, images
from tests.lab.debian import Absent

FILES = Path(__file__).with_name("node_image")
SUITE = "trixie"
# images/base/Dockerfile of kind, without what only a build needs; runc is Debian's, so it fits the node's libraries.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "conntrack",
    "iptables",
    "nftables",
    "iproute2",
    "ethtool",
    "util-linux",
    "mount",
    "kmod",
    "libseccomp2",
    "bash",
    "ca-certificates",
    "curl",
    "jq",
    "procps",
    "runc",
)
# Of the reference plugins, kind's image has these four.
PLUGINS = ("host-local", "loopback", "portmap", "ptp")
_PLACES = {
    "entrypoint": "usr/local/bin/entrypoint",
    "config.toml": "etc/containerd/config.toml",
    "containerd.service": "etc/systemd/system/containerd.service",
    "lab-images.service": "etc/systemd/system/lab-images.service",
    "kubelet.service": "etc/systemd/system/kubelet.service",
    "10-kubeadm.conf": "etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
    "kubelet": "usr/bin/kubelet",
}
_ENABLED = ("containerd.service", "lab-images.service", "kubelet.service")
# kind masks what has no meaning in a container; timers and consoles would only make nodes restless.
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
    "console-getty.service",
    "getty.target",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-logind.service",
    "systemd-networkd-wait-online.service",
    "systemd-udevd.service",
    # Its files set values of the whole machine, not of a node.
    "systemd-sysctl.service",
)
_REMOVED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists", "var/cache/apt", "var/log")


def node_image() -> Path | Absent:
    """The tar of the node's root file system, made on first use (about a minute and 90 MB of packages)."""
    containerd = debian.containerd_of("sid")
    plugins = debian.reference_plugins("sid")
    for needed in (containerd, plugins):
        if isinstance(needed, Absent):
            return needed
    assert not isinstance(containerd, Absent)
    assert not isinstance(plugins, Absent)
    made = images.CACHE / f"node-{_recipe(containerd.folder)}.tar"
    if made.exists():
        return made
    with (images.CACHE / "node-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            for older in images.CACHE.glob("node-*.tar"):
                older.unlink()
            problem = _make(made, containerd.folder, plugins)
            if problem is not None:
                return problem
    return made


def _recipe(containerd: Path) -> str:
    """What decides the image, in twelve digits."""
    digest = hashlib.sha256()
    for file in (Path(__file__), *sorted(FILES.iterdir()), containerd / "containerd"):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    for image in images.images():
        digest.update(image.archive.name.encode())
    return digest.hexdigest()[:12]


def _make(made: Path, containerd: Path, plugins: Path) -> Absent | None:
    tool = debian.unpacked(SUITE, ["mmdebstrap"], "usr/bin/mmdebstrap")
    if isinstance(tool, Absent):
        return tool
    # Not in /tmp, which may be small or forbid devices.
    with tempfile.TemporaryDirectory(prefix="podwire-image-", dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        built = subprocess.run(
            [
                # mmdebstrap mounts below the new root: in namespaces of its own no mount and no process can be left.
                *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
                *("perl", str(tool / "usr/bin/mmdebstrap"), "--mode=root", "--variant=minbase", "--format=directory"),
                *('--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "2"'),
                *("--dpkgopt=force-unsafe-io", f"--include={','.join(PACKAGES)}"),
                *(SUITE, str(root), f"deb [signed-by={debian.KEYRING}] {debian.mirror()} {SUITE} main"),
            ],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=600,
            env={**os.environ, "TMPDIR": folder, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        )
        if built.returncode != 0:
            words = "\n".join(built.stderr.strip().splitlines()[-8:])
            return Absent(f"mmdebstrap could not make the node image: {words}", mirror_has_it=False)
        _fill(root, containerd, plugins)
        aside = made.with_name(f".{made.name}")
        subprocess.run(["tar", "--numeric-owner", "-C", root, "-cf", aside, "."], check=True, capture_output=True)
        aside.rename(made)
    return None


def _fill(root: Path, containerd: Path, plugins: Path) -> None:
    """What kind adds to Debian: its entrypoint, containerd, CNI plugins, kubelet with its units, images."""
    for name, place in _PLACES.items():
        target = root / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FILES / name, target)
    for program in ("containerd", "containerd-shim-runc-v2", "ctr"):
        shutil.copy2(containerd / program, root / "usr/local/bin")
    for folder in ("opt/cni/bin", "etc/cni/net.d", "etc/kubernetes", "var/lib/kubelet", "kind/images"):
        (root / folder).mkdir(parents=True)
    for plugin in PLUGINS:
        shutil.copy2(plugins / plugin, root / "opt/cni/bin")
    for image in images.images():
        shutil.copyfile(image.archive, root / "kind/images" / image.archive.name)
    units = root / "etc/systemd/system"
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for unit in _ENABLED:
        (wants / unit).symlink_to(f"/etc/systemd/system/{unit}")
    for unit in _MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    for folder in _REMOVED:
        shutil.rmtree(root / folder, ignore_errors=True)
    (root / "var/log").mkdir()
