"""The executable and its folder: they run from anywhere, survive a change of interpreter, and are replaced whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from cni_plugin import packaging
from tests.cni_plugin.children import fork
from tests.cni_plugin.executable import INTERPRETER, VERSIONS, version


def copied(podwire: Path, folder: Path) -> Path:
    shutil.copytree(podwire.parent, folder)
    return folder / "podwire"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit_sources(library: Path) -> None:
    """Give the sources another answer than the compiled modules."""
    source = library / "cni_plugin/spec.py"
    source.write_text(source.read_text().replace('"0.1.0", "0.2.0", ', ""))


@pytest.mark.parametrize("name", ["elsewhere", "with space", "ünï", "a'b\"c"])
def test_a_copy_runs_from_wherever_it_is(podwire: Path, tmp_path: Path, name: str) -> None:
    assert version(copied(podwire, tmp_path / name)) == VERSIONS


def test_it_runs_from_its_own_folder_and_by_search_path(podwire: Path) -> None:
    assert version("./podwire", cwd=podwire.parent) == VERSIONS
    done = subprocess.run(
        ["/bin/sh", "-c", "podwire"],
        env={"CNI_COMMAND": "VERSION", "PATH": str(podwire.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_symbolic_links_lead_to_the_real_place(podwire: Path, tmp_path: Path) -> None:
    program = copied(podwire, tmp_path / "bin")
    (tmp_path / "other").mkdir()
    links = {
        "bin/loopback": "podwire",
        "bin/again": "loopback",
        "other/absolute": str(program),
        "other/relative": "../bin/podwire",
        "other/chain": "../bin/again",
        "folder": "bin",
    }
    for place, target in links.items():
        (tmp_path / place).symlink_to(target)
    for place in (*links, "folder/podwire", "folder/loopback"):
        if place != "folder":
            assert version(tmp_path / place) == VERSIONS, place
    assert version("./loopback", cwd=tmp_path / "bin") == VERSIONS
    assert version("other/chain", cwd=tmp_path) == VERSIONS


def test_the_compiled_modules_are_what_runs(podwire: Path, tmp_path: Path) -> None:
    program = copied(podwire, tmp_path / "bin")
    edit_sources(tmp_path / "bin/podwire.lib")
    assert version(program) == VERSIONS
    shutil.rmtree(tmp_path / "bin/podwire.lib/cni_plugin")
    assert version(program) == VERSIONS


def test_the_sources_run_where_the_modules_were_compiled_for_another_interpreter(podwire: Path, tmp_path: Path) -> None:
    program = copied(podwire, tmp_path / "bin")
    library = tmp_path / "bin/podwire.lib"
    (library / f"bundle.{MAGIC_NUMBER.hex()}").rename(library / "bundle.00000d0a")
    (library / "bundle.00000d0a").write_bytes(b"of another interpreter")
    edit_sources(library)
    before = tree(tmp_path)
    assert version(program)["supportedVersions"] == VERSIONS["supportedVersions"][2:]
    assert tree(tmp_path) == before, "a call writes nothing beside itself"


def test_a_compiled_module_of_another_interpreter_falls_back_to_its_source(podwire: Path, tmp_path: Path) -> None:
    program = copied(podwire, tmp_path / "bin")
    library = tmp_path / "bin/podwire.lib"
    (library / f"bundle.{MAGIC_NUMBER.hex()}").unlink()
    cache = library / "cni_plugin/__pycache__"
    cache.mkdir()
    for tag in (sys.implementation.cache_tag, "cpython-399"):
        (cache / f"spec.{tag}.pyc").write_bytes(b"\0\0\r\n" + bytes(60))
    assert version(program) == VERSIONS


def test_a_build_is_executable_and_has_no_tests_nor_build_tools(podwire: Path) -> None:
    assert podwire.stat().st_mode & 0o777 == 0o755
    assert podwire.read_text().startswith(f"#!{INTERPRETER} -ISB\n")
    library = podwire.parent / "podwire.lib"
    names = {path.name for path in (library / "cni_plugin").iterdir()}
    assert names == {path.name for path in Path(packaging.__file__).parent.glob("*.py")} - {"packaging.py"}
    assert sorted(os.listdir(podwire.parent)) == ["podwire", "podwire.lib"]


def test_a_build_replaces_an_earlier_one_whole(podwire: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    copied(podwire, folder)
    library = folder / "podwire.lib"
    (library / "bundle.00000d0a").write_bytes(b"old")
    (library / "cni_plugin/gone.py").write_text("raise SystemExit\n")
    (library / "cni_plugin/__pycache__").mkdir()
    (library / "cni_plugin/__pycache__/spec.pyc").write_bytes(b"old")
    edit_sources(library)
    (folder / "podwire").write_text("old")
    (folder / "bridge").write_text("another plugin")
    packaging.build(folder, INTERPRETER)
    assert (folder / "bridge").read_text() == "another plugin"
    (folder / "bridge").unlink()
    assert tree(folder) == tree(podwire.parent)


def test_builds_of_the_same_sources_are_equal(podwire: Path, tmp_path: Path) -> None:
    packaging.build(tmp_path, INTERPRETER)
    assert tree(tmp_path) == tree(podwire.parent)


def test_calls_that_run_while_it_is_replaced_have_the_old_or_the_new(tmp_path: Path) -> None:
    program = packaging.build(tmp_path, INTERPRETER)

    def rebuild_for_ever() -> None:
        while True:
            packaging.build(tmp_path, INTERPRETER)

    builder = fork(rebuild_for_ever)
    try:
        for _ in range(25):
            assert version(program) == VERSIONS
    finally:
        os.kill(builder, 9)
        os.waitpid(builder, 0)
    # A build that was killed is no obstacle to the next.
    packaging.build(tmp_path, INTERPRETER)
    assert sorted(os.listdir(tmp_path / "podwire.lib")) == [f"bundle.{MAGIC_NUMBER.hex()}", "cni_plugin"]


def test_the_command_line_builds_into_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cni_plugin.packaging"]
    root = Path(packaging.__file__).parents[1]
    wrong = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert (wrong.returncode, wrong.stderr) == (1, "usage: python3 -m cni_plugin.packaging FOLDER\n")
    right = subprocess.run([*command, tmp_path / "made/bin"], capture_output=True, text=True, cwd=root)
    assert (right.returncode, right.stdout) == (0, f"{tmp_path}/made/bin/podwire\n")
    assert version(tmp_path / "made/bin/podwire") == VERSIONS
