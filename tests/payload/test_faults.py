"""What the builder says when it cannot build: what failed, with values, and what to do next."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cni_plugin.payload import build as builder
from cni_plugin.payload import debian, licences, wheels
from cni_plugin.payload.faults import BuildError
from tests.payload.built import REPOSITORY, WORK, Payload, build


@pytest.fixture
def made(tmp_path: Path, payload: Payload) -> Path:
    """A work folder with the inputs and the interpreter of the payload that was built, to be broken."""
    for part in ("inputs", "unpacked"):
        shutil.copytree(WORK / part, tmp_path / "work" / part, symlinks=True)
    assert payload.tree.exists()
    return tmp_path / "work"


def command(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-B", "-m", "cni_plugin.payload", *arguments],
        cwd=REPOSITORY,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} | env,
        capture_output=True,
        text=True,
    )


def test_an_unknown_architecture_is_wrong_use() -> None:
    done = command("--arch", "riscv64")
    assert done.returncode == 2
    assert "'amd64', 'arm64'" in done.stderr


def test_install_sh_wants_payload_first() -> None:
    done = subprocess.run(
        ["./install.sh", "build", "--arch", "arm64", "--payload"], cwd=REPOSITORY, capture_output=True
    )
    assert done.returncode == 2
    assert b"build takes --payload first, and got --arch arm64 --payload" in done.stderr


def test_a_mirror_out_of_reach_is_named_with_the_variables_that_choose_another(tmp_path: Path) -> None:
    mirror = "http://127.0.0.1:1/debian"
    done = command(f"--work={tmp_path}/work", f"--out={tmp_path}/out", PODWIRE_MIRROR=mirror)
    assert done.returncode == 1
    assert f"Debian bookworm cannot be read at {mirror} and {mirror}-security" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("  set PODWIRE_MIRROR")
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_changed_input_is_refused(made: Path, payload: Payload, repository: Path, tmp_path: Path) -> None:
    broken = next((made / "inputs" / payload.architecture / "debs").glob("zlib1g_*.deb"))
    broken.write_bytes(broken.read_bytes() + b"\0")
    with pytest.raises(BuildError, match=r"zlib1g_.* has sha256 [0-9a-f]{64}, and .*lock\.json says") as caught:
        build(repository, payload.architecture, tmp_path / "out", made)
    assert caught.value.hint.startswith("rm -r ")


def test_a_library_that_no_package_brings_ends_the_build(
    made: Path, payload: Payload, repository: Path, tmp_path: Path
) -> None:
    for library in (made / "unpacked").rglob("libffi.so.8*"):
        library.unlink()
    with pytest.raises(BuildError, match=r"_ctypes\..*\.so needs libffi\.so\.8, which no package") as caught:
        build(repository, payload.architecture, tmp_path / "out", made)
    assert "PACKAGES" in caught.value.hint


def test_an_archive_over_the_bound_is_not_kept(
    payload: Payload, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tree is there already: all that is left to do is an archive, and here it comes out too large."""

    def large(self: builder.Workshop, verb: str, tree: Path, file: Path) -> None:
        assert verb == "archive"
        file.touch()
        os.truncate(file, builder.LARGEST + 1_000_000)

    assert payload.archive.exists()
    monkeypatch.setattr(builder.Workshop, "inside", large)
    with pytest.raises(BuildError, match=r"the archive has 61\.0 MB, and at most 60 are allowed") as caught:
        build(repository, payload.architecture, tmp_path / "out")
    assert caught.value.hint.startswith("see what grew: du ")
    assert list((tmp_path / "out").iterdir()) == []


def test_markers_are_answered_for_the_node_and_not_for_the_builder(
    payload: Payload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wheel wants a second only on aarch64 with Python before 3.12, and a third on x86_64."""
    for name, wants in (
        (
            "first",
            [
                'second; platform_machine == "aarch64" and python_version < "3.12"',
                'third; platform_machine == "x86_64"',
            ],
        ),
        ("second", []),
        ("third", []),
    ):
        _wheel(tmp_path / "found" / f"{name}-1.0-py3-none-any.whl", name, wants)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "found"))
    (tmp_path / "to").mkdir()
    root = next((WORK / "unpacked").glob(f"{payload.architecture}-*"))
    pip = next((root / "usr/share/python-wheels").glob("pip-*.whl"))
    python = [str(payload.tree / "bin/python3"), "-BsP"]
    found = wheels.download(["first"], "arm64", python, {}, pip, tmp_path / "to")
    assert [path.name.partition("-")[0] for path in found] == ["first", "second"]


def test_a_requirement_without_a_wheel_for_the_node_is_named(
    payload: Payload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    root = next((WORK / "unpacked").glob(f"{payload.architecture}-*"))
    pip = next((root / "usr/share/python-wheels").glob("pip-*.whl"))
    with pytest.raises(BuildError, match=r"pip could not fetch wheels for aarch64 and Python 3\.11: .*nosuchthing"):
        wheels.download(["nosuchthing"], "arm64", [str(payload.tree / "bin/python3"), "-BsP"], {}, pip, tmp_path)


@pytest.mark.parametrize("member", ["../outside.py", "/outside.py"])
def test_a_wheel_that_reaches_outside_is_refused(member: str, tmp_path: Path) -> None:
    wheel = tmp_path / "evil-1.0-py3-none-any.whl"
    _wheel(wheel, "evil", [], member)
    with pytest.raises(BuildError, match="a wheel has a member"):
        wheels.unpack(wheel, tmp_path / "site")


@pytest.mark.parametrize(
    ("lines", "licence"),
    [
        pytest.param("License-Expression: MIT\nLicense: other", "MIT", id="an expression comes first"),
        pytest.param("License: BSD", "BSD", id="then a short statement"),
        pytest.param(
            "Classifier: License :: OSI Approved :: MIT License\nLicense: " + "x" * 80,
            "MIT License",
            id="a whole text is passed over for the classifier",
        ),
        pytest.param("License: UNKNOWN", "see LICENSES/", id="nothing is stated"),
    ],
)
def test_the_licence_is_what_the_wheel_states(lines: str, licence: str, tmp_path: Path) -> None:
    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.1\nName: some\nVersion: 1\n{lines}\n")
    assert licences.of_wheel(tmp_path, tmp_path / "LICENSES") == ("some", "1", licence)


def test_a_system_without_a_mirror_is_told_the_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("PODWIRE_MIRROR", raising=False)
    with pytest.raises(BuildError, match="name no mirror of Debian") as caught:
        debian.download([("zlib1g", "amd64")], tmp_path, lambda text: None)
    assert "PODWIRE_MIRROR" in caught.value.hint


def _wheel(path: Path, name: str, wants: list[str], member: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    info = f"{name}-1.0.dist-info"
    requires = "".join(f"Requires-Dist: {each}\n" for each in wants)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member or f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
