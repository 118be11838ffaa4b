"""The arm64 payload, built here and run by qemu's user mode on Debian 12's own arm64 glibc."""

import json
from pathlib import Path

import pytest

from tests.payload.built import Payload, run, system


@pytest.fixture(scope="module")
def emulated() -> list[str | Path]:
    """How a program of arm64 is called here."""
    root = system("arm64", [("qemu-user-static", "amd64"), ("libc6", "arm64")])
    return [root / "usr/bin/qemu-aarch64-static", "-L", root]


def test_the_interpreter_of_arm64_starts(foreign: Payload, emulated: list[str | Path]) -> None:
    code = "import platform, sys; print(platform.machine(), *sys.version_info[:2], sys.prefix)"
    said = run([*emulated, foreign.tree / "bin/python3", "-I", "-c", code]).stdout
    assert said.strip() == f"aarch64 3 11 {foreign.tree}"


def test_the_plugin_of_arm64_answers_from_its_bundle(foreign: Payload, emulated: list[str | Path]) -> None:
    command = [*emulated, foreign.tree / "bin/python3", "-ISB", foreign.tree / "cni/podwire"]
    assert "1.1.0" in json.loads(run(command, {"CNI_COMMAND": "VERSION"}).stdout)["supportedVersions"]
    # Without the bundle the sources would answer as well.
    code = "from _frozen_importlib_external import MAGIC_NUMBER; print(MAGIC_NUMBER.hex())"
    magic = run([*emulated, foreign.tree / "bin/python3", "-ISB", "-c", code]).stdout.strip()
    assert (foreign.tree / f"cni/podwire.lib/bundle.{magic}").exists()


def test_compiled_dependencies_of_arm64_are_imported(foreign: Payload, emulated: list[str | Path]) -> None:
    code = (
        "import grpc, ssl, ctypes, sqlite3, uuid, lzma, bz2, msgspec, pyroute2, lightkube;"
        "import google._upb._message, yaml._yaml;"
        "print(grpc.__version__)"
    )
    said = run([*emulated, foreign.tree / "bin/python3", "-IB", "-c", code]).stdout
    version = next(each["version"] for each in foreign.manifest["packages"] if each["name"] == "grpcio")
    assert said.strip() == version


def test_both_architectures_have_the_same_packages(payload: Payload, foreign: Payload) -> None:
    names = [{each["name"] for each in each_of.manifest["packages"]} for each_of in (payload, foreign)]
    assert names[0] == names[1]
