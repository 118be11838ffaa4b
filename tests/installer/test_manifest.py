"""A payload that is not as its manifest says is refused before anything changes; a whole one is placed by a rename."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cni_plugin.install import __main__ as command
from cni_plugin.install import manifest, rollback
from cni_plugin.install.journal import Journal
from cni_plugin.install.site import NodeError
from tests.installer.scratch import ScratchNode
from tests.installer.trees import tree

pytestmark = pytest.mark.root


def edited_manifest(**changes: object) -> Callable[[Path], None]:
    """What lays these keys over a payload's manifest."""

    def edit(payload: Path) -> None:
        path = payload / manifest.NAME
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def change(payload: Path) -> None:
    path = payload / "conf/shim.toml"
    path.write_bytes(path.read_bytes().replace(b"#", b"$", 1))


def add(payload: Path) -> None:
    (payload / "bin/more").write_text("")


def add_link(payload: Path) -> None:
    (payload / "conf/more").symlink_to("/etc")


def remove(payload: Path) -> None:
    (payload / "conf/agent.toml").unlink()


def retarget(payload: Path) -> None:
    (payload / "bin/python3").unlink()
    (payload / "bin/python3").symlink_to("/bin/true")


def link_instead_of_file(payload: Path) -> None:
    (payload / "conf/shim.toml").rename(payload / "conf/agent.toml.orig")
    (payload / "conf/shim.toml").symlink_to("agent.toml")


def wrong_mode(payload: Path) -> None:
    (payload / "bin/podwire-node").chmod(0o4755)


def garbage(payload: Path) -> None:
    (payload / manifest.NAME).write_text("{")


def cut_off(payload: Path) -> None:
    path = payload / "cni/podwire"
    os.truncate(path, path.stat().st_size // 2)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "changed": (change, "conf/shim.toml: SHA-256 is "),
    "added": (add, "bin/more: not in the manifest"),
    "a link added": (add_link, "conf/more: not in the manifest"),
    "missing": (remove, "conf/agent.toml: No such file or directory"),
    "a link that leads elsewhere": (retarget, "bin/python3: leads to /bin/true, not /usr/bin/python3"),
    "a link for a file": (link_instead_of_file, "conf/shim.toml: no regular file"),
    "set-uid": (wrong_mode, "bin/podwire-node: mode is 4755, not 0755"),
    "cut off": (cut_off, "cni/podwire: SHA-256 is "),
    "no manifest": (lambda payload: (payload / manifest.NAME).unlink(), "is no manifest of a payload"),
    "garbage for a manifest": (garbage, "is no manifest of a payload"),
    "a path that leads out": (
        edited_manifest(files={"../../etc/passwd": {"link": "x"}}),
        "file '../../etc/passwd' leads out of the payload",
    ),
    "an absolute path": (edited_manifest(files={"/etc/passwd": {"link": "x"}}), "leads out of the payload"),
    "an identity that is a path": (edited_manifest(identity="../x"), "identity '../x'"),
    "another machine's": (edited_manifest(arch="s390x"), "the payload is for s390x, and this node is "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_payload_is_refused_and_nothing_is_changed(scratch: ScratchNode, damage: str) -> None:
    damaged, words = DAMAGES[damage]
    payload = scratch.push()
    damaged(payload)
    before = scratch.picture()
    assert scratch.inside(lambda: command.main(["place", str(payload)], scratch.places)) == 1
    assert words in scratch.said()
    assert scratch.picture() == before


def test_every_fault_of_a_payload_is_told_at_once(scratch: ScratchNode) -> None:
    payload = scratch.push()
    for damage in (change, add, remove):
        damage(payload)
    with pytest.raises(NodeError) as refused:
        manifest.place(scratch.places, payload)
    assert str(refused.value).count("; ") == 2


@pytest.fixture
def placed(scratch: ScratchNode) -> Path:
    """A version folder with payload 1."""
    return scratch.places.version(scratch.place().identity)


def test_a_placed_version_is_whole_and_its_plugin_names_its_own_interpreter(scratch: ScratchNode, placed: Path) -> None:
    assert not manifest.faults(placed, manifest.read(placed))
    assert (placed / manifest.LAUNCHER).read_bytes().startswith(f"#!{placed}/bin/python3 ".encode())
    assert [path.name for path in scratch.places.home.iterdir()] == ["versions"], "nothing of the push is left"


def test_the_same_payload_twice_is_one_folder(scratch: ScratchNode, placed: Path) -> None:
    inode = placed.stat().st_ino
    scratch.place()
    assert placed.stat().st_ino == inode
    assert [path.name for path in scratch.places.home.iterdir()] == ["versions"]


def test_a_placed_version_that_was_damaged_is_replaced(scratch: ScratchNode, placed: Path) -> None:
    before = tree([placed])
    change(placed)
    (placed / "conf/agent.toml").unlink()
    scratch.place()
    assert tree([placed]) == before
    assert [path.name for path in scratch.places.home.iterdir()] == ["versions"]


def test_what_an_interpreter_compiled_for_itself_is_no_damage(placed: Path) -> None:
    (placed / "cni/podwire.lib/__pycache__").mkdir(exist_ok=True)
    (placed / "cni/podwire.lib/__pycache__/x.pyc").write_bytes(b"")
    assert not manifest.faults(placed, manifest.read(placed))


def test_a_version_that_was_only_placed_goes_with_a_rollback(scratch: ScratchNode) -> None:
    before = scratch.picture()
    scratch.place()
    assert scratch.inside(lambda: rollback.rollback(scratch.site())) == 0
    assert scratch.picture() == before


def test_a_place_that_is_killed_half_way_goes_with_a_rollback(scratch: ScratchNode) -> None:
    before = scratch.picture()
    payload = scratch.push()

    def work() -> int:
        pytest.MonkeyPatch().setattr(manifest, "_sync_filesystem", lambda folder: os._exit(137))
        return command.main(["place", str(payload)], scratch.places)

    assert scratch.inside(work) == 137
    assert Journal(scratch.places).load().document["placed"] == [payload.name]
    assert scratch.inside(lambda: rollback.rollback(scratch.site())) == 0
    assert {name: what for name, what in scratch.picture().items() if "install.lock" not in name} == before


def test_a_payload_from_another_filesystem_is_copied_first(scratch: ScratchNode) -> None:
    payload = scratch.push()
    other = Path("/dev/shm") / f"podwire-{os.getpid()}" / payload.name
    shutil.copytree(payload, other, symlinks=True)
    shutil.rmtree(payload.parent)
    try:
        assert other.lstat().st_dev != scratch.places.home.stat().st_dev
        found, fresh = manifest.place(scratch.places, other)
        assert fresh
        assert not manifest.faults(scratch.places.version(found.identity), found)
    finally:
        shutil.rmtree(other.parent)
