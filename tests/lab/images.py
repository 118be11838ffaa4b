"""The lab's container images, made from what the machine has; no image registry is asked.

`pause` is twenty lines of C; `tools` is the distribution's static busybox. A node has these two; `person` and `spare`
are for what CRI says of images. All are docker-archive tars, which `ctr images import` and `docker load` take. The same
inputs give the same bytes, so a tar is built once and kept.
"""

import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / "build" / "lab"
PAUSE_SOURCE = Path(__file__).with_name("pause.c")

PAUSE = "podwire.local/pause:1"
TOOLS = "podwire.local/tools:1"
PERSON = "podwire.local/person:1"
SPARE = "podwire.local/spare:1"

# What the tests and the demo use inside a pod. busybox has some 270 more applets.
_APPLETS = (
    "sh",
    "cat",
    "echo",
    "httpd",
    "ip",
    "ls",
    "nc",
    "ping",
    "printf",
    "ps",
    "sleep",
    "test",
    "true",
    "wget",
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


@dataclass(frozen=True)
class Image:
    """A docker-archive on disk and the reference it carries."""

    reference: str
    archive: Path


def pause_binary() -> Path:
    """The compiled pause, built on first use."""
    digest = hashlib.sha256(PAUSE_SOURCE.read_bytes()).hexdigest()[:12]
    binary = CACHE / f"pause-{digest}"
    if not binary.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        temporary = CACHE / f".{binary.name}.{os.getpid()}"
        subprocess.run(["gcc", "-Os", "-static", "-s", "-Wall", "-Werror", "-o", temporary, PAUSE_SOURCE], check=True)
        temporary.rename(binary)
    return binary


def images() -> tuple[Image, Image]:
    """The pause and the tools image, in this order."""
    return (
        _image(PAUSE, {"pause": pause_binary().read_bytes()}, links={}, command=["/pause"]),
        _image(
            TOOLS,
            {"bin/busybox": _busybox().read_bytes(), "www/index.html": b"hello from podwire\n"},
            links={f"bin/{applet}": "busybox" for applet in _APPLETS},
            command=["/bin/sh"],
        ),
    )


def person() -> Image:
    """busybox with users and groups, and with every setting of an image that a container inherits."""
    return _image(
        PERSON,
        {
            "bin/busybox": _busybox().read_bytes(),
            "etc/passwd": b"root:x:0:0::/:/bin/sh\nworker:x:1000:3000::/:/bin/sh\n",
            "etc/group": b"root:x:0:\nworker:x:3000:\ncrew:x:50000:worker\n",
        },
        links={f"bin/{applet}": "busybox" for applet in _APPLETS},
        command=["/bin/echo", "entry"],
        more={
            "User": "worker",
            "Cmd": ["from", "image"],
            "Env": ["PATH=/bin", "COLOUR=blue", "SHAPE=round"],
            "WorkingDir": "/www",
            "StopSignal": "SIGUSR1",
        },
    )


def spare() -> Image:
    """One that nothing runs from, to be removed."""
    return _image(SPARE, {"www/spare.txt": b"spare\n"}, links={}, command=["/nothing"])


def _busybox() -> Path:
    """A static busybox: install.sh unpacks one where installing the package would replace another."""
    aside = CACHE / "busybox-static"
    candidates = [aside / "usr/bin/busybox", aside / "bin/busybox", Path("/usr/bin/busybox"), Path("/bin/busybox")]
    for candidate in candidates:
        # A dynamic program names its loader in the first page; there is none in the image.
        if candidate.exists() and b"/ld-linux" not in candidate.read_bytes()[:4096]:
            return candidate
    raise FileNotFoundError("no static busybox: install busybox-static")


def _image(
    reference: str,
    files: Mapping[str, bytes],
    links: Mapping[str, str],
    command: Sequence[str],
    more: Mapping[str, object] | None = None,
) -> Image:
    layer = _layer(files, links)
    layer_digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": list(command), "Env": ["PATH=/bin"], **(more or {})},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "podwire lab"}],
    }
    config_bytes = json.dumps(config, sort_keys=True).encode()
    config_name = hashlib.sha256(config_bytes).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [reference], "Layers": ["layer.tar"]}]
    archive = CACHE / f"{reference.split('/')[1].replace(':', '-')}-{config_name[:12]}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        parts = {
            "manifest.json": json.dumps(manifest, sort_keys=True).encode(),
            config_name: config_bytes,
            "layer.tar": layer,
        }
        # Written aside and renamed, so that two test runs at once never read half an archive.
        with tempfile.NamedTemporaryFile(dir=CACHE, delete=False) as temporary:
            temporary.write(_tar(parts, {}, directories=()))
        os.chmod(temporary.name, 0o644)
        os.rename(temporary.name, archive)
    return Image(reference, archive)


def _layer(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    # /proc, /sys, /dev and /etc exist in every image that runc is given; /tmp is where the tests write.
    return _tar(files, links, directories=("bin", "dev", "etc", "proc", "sys", "tmp", "www"))


def _tar(files: Mapping[str, bytes], links: Mapping[str, str], directories: Sequence[str]) -> bytes:
    """A tar with fixed owners, times and order: equal contents are equal bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in directories:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
        for name, target in sorted(links.items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return out.getvalue()
