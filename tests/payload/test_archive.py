"""The archive: the same from the same input, complete in its manifest, small enough, and plain to unpack."""

import gzip
import hashlib
import importlib.util
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from cni_plugin.payload.build import LARGEST
from tests.payload.built import WORK, Payload, build, run


def test_the_same_input_makes_the_same_archive_in_another_folder_without_a_network(
    payload: Payload, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another umask, time zone and folder; what is downloaded is there already, locked."""
    work, out = tmp_path / "elsewhere is work", tmp_path / "out"
    shutil.copytree(WORK / "inputs", work / "inputs")
    moved = shutil.copytree(repository, tmp_path / "other sources")
    monkeypatch.setenv("PODWIRE_MIRROR", "http://127.0.0.1:1/nothing")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("PYTHONHASHSEED", "4711")
    before = os.umask(0o077)
    try:
        again = build(moved, payload.architecture, out, work)
    finally:
        os.umask(before)
    assert again.name == payload.archive.name
    assert _sha256(again) == _sha256(payload.archive)


def test_nothing_is_made_again_when_nothing_changed(payload: Payload, repository: Path) -> None:
    before = payload.archive.stat()
    build(repository, payload.architecture, payload.archive.parent)
    after = payload.archive.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_the_archive_is_at_most_60_mb(payload: Payload, foreign: Payload) -> None:
    assert LARGEST == 60_000_000
    assert payload.archive.stat().st_size <= LARGEST
    assert foreign.archive.stat().st_size <= LARGEST


def test_the_digest_beside_it_is_what_sha256sum_checks(payload: Payload) -> None:
    run(["/usr/bin/sha256sum", "-c", f"{payload.archive.name}.sha256"], cwd=payload.archive.parent)


def test_every_member_is_plain_and_says_nothing_of_who_built_it(payload: Payload) -> None:
    with tarfile.open(payload.archive) as tar:
        members = tar.getmembers()
    top = payload.manifest["identity"]
    assert members[0].name == top
    assert all(member.name == top or member.name.startswith(f"{top}/") for member in members)
    assert [member.name for member in members if not (member.isdir() or member.isreg())] == []
    assert {(each.uid, each.gid, each.uname, each.gname, each.mtime) for each in members} == {(0, 0, "root", "root", 0)}
    assert {member.mode for member in members} == {0o755, 0o644}


def test_the_compressed_stream_has_neither_name_nor_time(payload: Payload) -> None:
    with payload.archive.open("rb") as file:
        header = file.read(10)
    assert header[:4] == b"\x1f\x8b\x08\x00"
    assert header[4:8] == bytes(4)


def test_the_identity_is_version_and_digest_of_the_inputs(payload: Payload, foreign: Payload) -> None:
    version, _, digest = payload.manifest["identity"].rpartition("-")
    assert version == payload.manifest["version"]
    assert len(digest) == 12
    assert payload.manifest["identity"] != foreign.manifest["identity"]


def test_every_file_is_in_the_manifest_with_its_digest_and_mode(payload: Payload) -> None:
    found = {
        path.relative_to(payload.tree).as_posix(): {
            "sha256": _sha256(path),
            "mode": f"{path.stat().st_mode & 0o7777:04o}",
        }
        for path in payload.tree.rglob("*")
        if path.is_file()
    }
    del found["MANIFEST.json"]
    assert payload.manifest["files"] == found


def test_every_package_has_a_version_a_licence_and_its_text(payload: Payload) -> None:
    packages = payload.manifest["packages"]
    assert {"podwire", "python3.11-minimal", "libssl3", "grpcio", "protobuf", "pyroute2"} <= {
        package["name"] for package in packages
    }
    texts = {path.split("/")[2] for path in payload.manifest["files"] if path.startswith("LICENSES/")}
    faults = [
        package["name"]
        for package in packages
        if not package["version"] or package["licence"].startswith("see ") or package["name"] not in texts
    ]
    assert faults == []


def test_every_source_has_bytecode_that_no_time_can_outdate(payload: Payload) -> None:
    sources = sorted((payload.tree / "lib").rglob("*.py"))
    assert len(sources) > 1000
    faults = []
    for source in sources:
        compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc"
        header = compiled.read_bytes()[:16] if compiled.exists() else b""
        # PEP 552: magic, flags 1 for a hash that is not checked, hash of the source.
        if header[4:] != (1).to_bytes(4, "little") + importlib.util.source_hash(source.read_bytes()):
            faults.append(str(source))
    assert faults == []


def test_the_builder_itself_and_tests_are_not_shipped(payload: Payload) -> None:
    files = payload.manifest["files"]
    assert [path for path in files if "/cni_plugin/payload/" in path or "/site-packages/tests/" in path] == []


def test_configuration_and_units_are_those_of_the_repository(payload: Payload, repository: Path) -> None:
    ours = {path.name: path.read_bytes() for path in (repository / "conf").rglob("*") if path.is_file()}
    assert {path.name: path.read_bytes() for path in (payload.tree / "conf").rglob("*") if path.is_file()} == ours


def test_a_changed_source_is_another_identity_and_only_our_part_is_made_again(
    payload: Payload, repository: Path, tmp_path: Path
) -> None:
    changed = shutil.copytree(repository, tmp_path / "sources")
    (changed / "conf/shim.toml").write_text((changed / "conf/shim.toml").read_text() + "# changed\n")
    work = tmp_path / "work"
    for part in ("inputs", "unpacked", "base"):
        shutil.copytree(WORK / part, work / part, symlinks=True)
    layers = {path.name for path in (work / "base").iterdir()}
    out = tmp_path / "out"
    out.mkdir()
    # What lies there from before is replaced, also when it is no archive any more.
    (out / payload.archive.name).write_bytes(b"damaged")
    with gzip.open(build(changed, payload.architecture, out, work)) as stream:
        name = tarfile.TarInfo.frombuf(stream.read(512), "utf-8", "strict").name
    assert name.split("/")[0] != payload.manifest["identity"]
    assert {path.name for path in (work / "base").iterdir()} == layers


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
