"""A payload runs where there is glibc and a shell, and nothing else, in whatever folder it lies."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.payload.built import Payload, run, system

COMMANDS = ("podwire-agent", "podwire-cri", "podwire-net", "podwire-node", "podwire-shim")
_PLACE = "opt/podwire/versions"
_EVERY_MODULE = """
import importlib, pathlib, sys
site = pathlib.Path([path for path in sys.path if path.endswith("site-packages")][0])
for package in ("cni_plugin", "cri_shim"):
    for path in sorted((site / package).rglob("*.py")):
        name = ".".join(path.relative_to(site).with_suffix("").parts).removesuffix(".__init__")
        importlib.import_module(name)
for name in (
    "grpc", "google.protobuf", "google._upb._message", "prometheus_client", "pyroute2", "rich.console", "yaml._yaml",
    "lightkube.core.client", "ssl", "sqlite3", "ctypes", "uuid", "lzma", "bz2", "zoneinfo",
):
    importlib.import_module(name)
outside = [path for path in sys.path if not path.startswith(sys.prefix)]
foreign = [module.__file__ for module in sys.modules.values()
           if getattr(module, "__file__", None) and not module.__file__.startswith(sys.prefix)]
print(len(sys.modules), outside, foreign)
"""


@pytest.fixture(scope="module")
def bare(payload: Payload, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root folder with Debian 12's glibc, a busybox, and the payload where nodes have it."""
    parts = system(
        f"root-{payload.architecture}", [(name, payload.architecture) for name in ("libc6", "busybox-static")]
    )
    root = tmp_path_factory.mktemp("bare")
    shutil.copytree(parts, root, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("share", "gconv"))
    run(["/usr/sbin/chroot", root, "/bin/busybox", "--install", "-s", "/bin"])
    (root / _PLACE).mkdir(parents=True)
    shutil.copytree(payload.tree, root / _PLACE / payload.tree.name)
    (root / "proc").mkdir()
    (root / "dev").mkdir()
    (root / "dev/null").touch()
    yield root
    shutil.rmtree(root)


def inside(root: Path, command: str, **env: str) -> str:
    """What a shell in `root` prints; no variable but `env` and PATH, and no mount but /proc.

    glibc takes $ORIGIN from /proc/self/exe. The mount namespace ends with the command.
    """
    enter = (
        'mount -t proc proc "$1/proc" && exec env -i PATH=/usr/sbin:/usr/bin:/bin "${@:3}" chroot "$1" /bin/sh -ec "$2"'
    )
    variables = [f"{name}={value}" for name, value in env.items()]
    argv: list[str | Path] = [
        "/usr/bin/unshare",
        "--mount",
        "/bin/bash",
        "-c",
        enter,
        "bash",
        root,
        command,
        *variables,
    ]
    return run(argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}).stdout


def test_from_a_moved_folder_every_path_lies_in_the_payload(payload: Payload) -> None:
    assert " " in str(payload.tree)
    code = "import sys; print('\\n'.join([sys.prefix, sys.exec_prefix, *sys.path]))"
    for flags in ("-I", "-ISB"):
        lines = run([payload.tree / "bin/python3", flags, "-c", code]).stdout.splitlines()
        assert [line for line in lines if not line.startswith(str(payload.tree))] == []
        assert (lines[-1] == f"{payload.tree}/lib/python3.11/site-packages") == (flags == "-I")


def test_an_environment_of_python_or_of_the_linker_changes_nothing(payload: Payload, tmp_path: Path) -> None:
    for name in ("libz.so.1", "libexpat.so.1"):
        (tmp_path / name).write_text("not a library")
    env = {"PYTHONPATH": str(tmp_path), "PYTHONHOME": str(tmp_path), "LD_LIBRARY_PATH": str(tmp_path)}
    said = run([payload.tree / "bin/podwire-cri", "--help"], env).stdout
    assert said.startswith("usage: podwire-cri")


def test_nothing_is_written_into_the_payload(payload: Payload) -> None:
    before = {path: path.stat().st_mtime_ns for path in payload.tree.rglob("*")}
    run([payload.tree / "bin/podwire-shim", "--help"])
    run([payload.tree / "bin/podwire-net", "--help"])
    assert {path: path.stat().st_mtime_ns for path in payload.tree.rglob("*")} == before


@pytest.mark.root
def test_in_a_root_with_only_glibc_and_a_shell_every_module_is_imported(bare: Path, payload: Payload) -> None:
    (bare / "every.py").write_text(_EVERY_MODULE)
    count, rest = inside(bare, f'{_at(payload)}/bin/python3 -I -c "$(cat /every.py)"').split(" ", 1)
    assert int(count) > 500
    assert rest.strip() == "[] []"


@pytest.mark.root
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_starts_in_a_bare_root_through_a_chain_of_links(bare: Path, payload: Payload, command: str) -> None:
    chain = f"""
        mkdir -p "/a b" /usr/local/bin
        ln -sfn versions/{payload.tree.name} /opt/podwire/current
        ln -sf /opt/podwire/current/bin/{command} "/a b/{command}"
        ln -sf "../../../a b/{command}" /usr/local/bin/{command}
        cd / && PATH=$PATH:/usr/local/bin
        {command} --help
    """
    assert command in inside(bare, chain).splitlines()[0]


@pytest.mark.root
def test_the_executable_of_cni_runs_in_a_bare_root_by_its_first_line(bare: Path, payload: Payload) -> None:
    first = (payload.tree / "cni/podwire").read_text().splitlines()[0]
    assert first == f"#!/{_PLACE}/{payload.tree.name}/bin/python3 -ISB"
    inside(bare, f"mkdir -p /opt/cni/bin; ln -sfn {_at(payload)}/cni/podwire /opt/cni/bin/podwire")
    answer = json.loads(inside(bare, "/opt/cni/bin/podwire", CNI_COMMAND="VERSION"))
    assert "1.1.0" in answer["supportedVersions"]


def test_the_bundle_is_made_for_the_payloads_interpreter(payload: Payload) -> None:
    code = "from _frozen_importlib_external import MAGIC_NUMBER; print(MAGIC_NUMBER.hex())"
    magic = run([payload.tree / "bin/python3", "-ISB", "-c", code]).stdout.strip()
    assert (payload.tree / f"cni/podwire.lib/bundle.{magic}").exists()


@pytest.mark.root
def test_a_copy_of_the_executables_folder_runs_from_elsewhere_in_a_bare_root(bare: Path, payload: Payload) -> None:
    inside(bare, f'rm -rf "/x y" && mkdir "/x y" && cp -r {_at(payload)} "/x y/moved"')
    command = '"/x y/moved/bin/python3" -ISB "/x y/moved/cni/podwire"'
    assert "supportedVersions" in json.loads(inside(bare, command, CNI_COMMAND="VERSION"))


def test_tls_works_with_the_payloads_own_library(payload: Payload) -> None:
    code = "import ssl; print(ssl.create_default_context().minimum_version.name, ssl.OPENSSL_VERSION)"
    assert "OpenSSL 3.0" in run([payload.tree / "bin/python3", "-I", "-c", code]).stdout


def test_a_command_survives_being_called_by_sh_from_its_own_folder(payload: Payload) -> None:
    said = run(["/bin/sh", "podwire-cri", "--help"], {"PATH": os.defpath}, cwd=payload.tree / "bin").stdout
    assert said.startswith("usage: podwire-cri")


def test_a_command_becomes_the_interpreter(payload: Payload) -> None:
    """No shell stays behind: signals of a service manager reach the program."""
    code = "import os; print(os.readlink('/proc/self/exe'))"
    trampoline = (payload.tree / "bin/podwire-cri").read_text().replace("-m cri_shim.cli", f'-c "{code}"')
    shell = subprocess.Popen(
        ["/bin/sh", "-c", trampoline, str(payload.tree / "bin/podwire-cri")], stdout=subprocess.PIPE, text=True
    )
    said, _ = shell.communicate(timeout=30)
    assert said.strip() == str(payload.tree / "bin/python3")


def _at(payload: Payload) -> str:
    return f"/{_PLACE}/{payload.tree.name}"
