"""An install from begin to end on a node in a folder, its repetition, and its failure at every point."""

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cni_plugin.install import rollback, selftest, transaction, uninstall
from cni_plugin.install.interruption import Interruption
from cni_plugin.install.journal import Journal
from cni_plugin.install.manifest import Manifest
from cni_plugin.install.options import Options
from tests.installer.faulty import ENDS, KILLED, Points
from tests.installer.scratch import ALL, PLAIN, ScratchNode, listening

pytestmark = pytest.mark.root
SEED = int(os.environ.get("PODWIRE_SEED", "7"))


def install(
    node: ScratchNode,
    payload: Manifest,
    options: Options,
    points: Points | None = None,
    *,
    real_self_test: bool = False,
) -> int:
    """podwire-node install, in a child, without the preflight, which has tests of its own, as the self-test has."""

    def work() -> int:
        patch = pytest.MonkeyPatch()
        if not real_self_test:
            patch.setattr(selftest, "run", lambda site, plugin: "not tried")
        patch.setattr("cni_plugin.install.install.KUBELET_STAYS_SECONDS", 0)
        if points is not None:
            points.install(patch)
        said: list[str] = []
        with Interruption() as interruption:
            code = transaction.install(node.site(said), payload, options, interruption, checked=False)
        print("\n".join(said))
        if points is not None:
            (node.tools / "passed").write_text(str(points.passed))
        return code

    with listening(node.places.shim_socket) if options.shim else _nothing():
        return node.inside(work)


class _nothing:  # noqa: N801 - reads as a statement
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def roll_back(node: ScratchNode) -> int:
    return node.inside(lambda: rollback.rollback(replace(node.site(), say=print)))


def commit(node: ScratchNode) -> int:
    return node.inside(lambda: rollback.commit(node.site()))


def remove(node: ScratchNode) -> int:
    def work() -> int:
        said: list[str] = []
        code = uninstall.uninstall(node.site(said), 5, delete_pods=True, dry_run=False)
        print("\n".join(said))
        return code

    return node.inside(work)


def without_run(picture: dict[str, str]) -> dict[str, str]:
    """Without /run/podwire, whose socket the test makes itself."""
    return {name: what for name, what in picture.items() if "/run/podwire" not in name}


@pytest.fixture
def pictured(scratch: ScratchNode) -> Callable[[], dict[str, str]]:
    return lambda: without_run(scratch.picture())


Picture = Callable[[], dict[str, str]]


def test_everything_is_in_its_place_after_an_install(scratch: ScratchNode) -> None:
    payload = scratch.place()
    assert install(scratch, payload, ALL) == 0, scratch.said()
    places = scratch.places
    assert os.readlink(places.current) == f"versions/{payload.identity}"
    assert places.executable.resolve() == (places.version(payload.identity) / "cni/podwire").resolve()
    assert os.readlink(places.loopback) == "podwire"
    assert json.loads(places.conflist.read_text())["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.244.7.0/24"}]]
    assert f'conflist = "{places.conflist}"' in places.shim_config.read_text()
    assert 'node_name = "n7"' in places.agent_config.read_text()
    assert (places.sysctls / "net/ipv4/ip_forward").read_text() == "1"
    assert f"containerRuntimeEndpoint: unix://{places.shim_socket}" in places.kubelet_config.read_text()
    order = [line for line in scratch.calls.read_text().splitlines() if line.split()[0] in ("enable", "restart")]
    assert order == [
        "enable --now podwire-agent.service",
        "enable --now podwire-shim.service",
        "restart kubelet.service",
        "enable --now podwire-watchdog.timer",
    ]


def test_the_conflist_comes_last(scratch: ScratchNode) -> None:
    assert install(scratch, scratch.place(), ALL) == 0
    transaction = Journal(scratch.places).load().transaction
    assert transaction is not None
    assert transaction["steps"][-1]["kind"] == "network"


def test_the_same_again_changes_nothing(scratch: ScratchNode) -> None:
    payload = scratch.place()
    assert install(scratch, payload, ALL) == 0
    for committed in (False, True):
        before, calls = scratch.picture(), scratch.calls.read_text()
        assert install(scratch, payload, ALL) == 0
        assert scratch.said().rstrip().splitlines()[-1].startswith(f"already installed: {payload.identity}")
        assert scratch.picture() == before, f"committed: {committed}"
        words = [line.split()[0] for line in scratch.calls.read_text().removeprefix(calls).splitlines()]
        assert set(words) <= {"is-active", "is-enabled"}
        assert commit(scratch) == 0


def test_another_option_is_applied_alone(scratch: ScratchNode) -> None:
    payload = scratch.place()
    assert install(scratch, payload, PLAIN) == 0
    assert commit(scratch) == 0
    assert install(scratch, payload, replace(ALL, cni=False, agent=False, pod_cidrs=(), cluster_cidrs=())) == 0
    journal = Journal(scratch.places).load()
    assert journal.transaction is not None
    assert {step["part"] for step in journal.transaction["steps"]} == {"shim", "kubelet", "watchdog"}
    assert journal.transaction["options"]["cni"], "what was installed stays"
    assert journal.transaction["options"]["pod_cidrs"] == ["10.244.7.0/24"]


def test_what_was_damaged_is_mended_by_the_same_again(scratch: ScratchNode) -> None:
    payload = scratch.place()
    assert install(scratch, payload, ALL) == 0
    assert commit(scratch) == 0
    before = scratch.picture()
    scratch.places.conflist.unlink()
    scratch.places.executable.unlink()
    (scratch.root / "systemd/active/podwire-agent.service").unlink()
    assert install(scratch, payload, ALL) == 0
    assert commit(scratch) == 0
    now = scratch.picture()
    # The journal says since when.
    assert {name for name in now | before if before.get(name) != now.get(name)} <= {str(scratch.places.journal)}


def test_an_edited_configuration_stays_and_is_kept_beside_when_it_must_change(scratch: ScratchNode) -> None:
    payload = scratch.place()
    assert install(scratch, payload, ALL) == 0
    assert commit(scratch) == 0
    edited = scratch.places.agent_config.read_text() + "# mine\n"
    scratch.places.agent_config.write_text(edited)
    assert install(scratch, payload, ALL) == 0
    assert scratch.places.agent_config.read_text() == edited
    assert install(scratch, payload, replace(ALL, mode="vxlan")) == 0
    assert 'mode = "vxlan"' in scratch.places.agent_config.read_text()
    kept = scratch.places.agent_config.with_name("agent.toml.podwire-kept")
    assert kept.read_text() == edited
    assert roll_back(scratch) == 0
    assert scratch.places.agent_config.read_text() == edited
    assert not kept.exists()


@pytest.mark.parametrize("options", [ALL, PLAIN], ids=["plugin, agent and shim", "plugin alone"])
def test_rolled_back_the_node_is_byte_for_byte_as_before(
    scratch: ScratchNode, options: Options, pictured: Picture
) -> None:
    before = pictured()
    assert install(scratch, scratch.place(), options) == 0
    assert roll_back(scratch) == 0, scratch.said()
    assert pictured() == before


@pytest.mark.parametrize("options", [ALL, PLAIN], ids=["plugin, agent and shim", "plugin alone"])
def test_uninstalled_the_node_is_byte_for_byte_as_before(
    scratch: ScratchNode, options: Options, pictured: Picture
) -> None:
    before = pictured()
    assert install(scratch, scratch.place(), options) == 0
    assert commit(scratch) == 0
    assert remove(scratch) == 0, scratch.said()
    assert pictured() == before


def test_an_upgrade_switches_by_links_and_keeps_the_old_version_until_it_is_committed(scratch: ScratchNode) -> None:
    old = scratch.place("1")
    assert install(scratch, old, ALL) == 0
    assert commit(scratch) == 0
    conflist, inode = scratch.places.conflist.read_text(), scratch.places.conflist.stat().st_ino
    calls = scratch.calls.read_text()
    new = scratch.place("2")
    assert install(scratch, new, ALL) == 0, scratch.said()
    assert os.readlink(scratch.places.current) == f"versions/{new.identity}"
    assert sorted(path.name for path in scratch.places.versions.iterdir()) == [old.identity, new.identity]
    assert (scratch.places.conflist.read_text(), scratch.places.conflist.stat().st_ino) == (conflist, inode)
    made = [
        line for line in scratch.calls.read_text().removeprefix(calls).splitlines() if line.split()[0] != "is-active"
    ]
    assert [line for line in made if line.split()[0] in ("restart", "reload", "stop", "disable")] == [
        "restart podwire-agent.service",
        "reload podwire-shim.service",
        "restart podwire-watchdog.timer",
    ]
    assert commit(scratch) == 0
    assert [path.name for path in scratch.places.versions.iterdir()] == [new.identity]


def test_a_version_that_a_process_runs_from_stays(scratch: ScratchNode) -> None:
    old = scratch.place("1")
    assert install(scratch, old, PLAIN) == 0
    assert commit(scratch) == 0
    program = scratch.places.version(old.identity) / "bin/sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    pid = os.posix_spawn(program, [str(program), "60"], {})
    try:
        assert install(scratch, scratch.place("2"), PLAIN) == 0
        assert commit(scratch) == 0
        assert scratch.places.version(old.identity).is_dir()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert commit(scratch) == 0
    assert not scratch.places.version(old.identity).exists()


def test_an_uninstall_after_upgrades_still_knows_what_was_before_the_first_install(
    scratch: ScratchNode, pictured: Picture
) -> None:
    before = pictured()
    for version, options in (("1", PLAIN), ("2", ALL), ("3", replace(ALL, mode="vxlan"))):
        assert install(scratch, scratch.place(version), options) == 0, scratch.said()
        assert commit(scratch) == 0
    assert remove(scratch) == 0, scratch.said()
    assert pictured() == before


def test_a_runtime_that_does_not_take_the_network_undoes_everything(
    scratch: ScratchNode, pictured: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cni_plugin.install.install.SETTLE_SECONDS", 0.3)
    (scratch.root / "deaf").touch()
    before = pictured()
    assert install(scratch, scratch.place(), ALL) == 1
    assert "does not take" in scratch.said()
    assert "writing it again" in scratch.said()
    assert roll_back(scratch) == 0
    assert pictured() == before


def test_a_dead_install_is_undone_before_the_next_begins(scratch: ScratchNode) -> None:
    payload = scratch.place()
    assert install(scratch, payload, ALL, Points(20, "kill -9")) == KILLED
    assert install(scratch, payload, PLAIN) == 0, scratch.said()
    assert "comes first" in scratch.said()
    assert not scratch.places.shim_config.exists()


# Failure at every point: of each step written down and not done, and done. Without --soak a seeded part of them.


def upgraded(node: ScratchNode) -> tuple[Manifest, Options]:
    """A node with version 1, on which version 2 is placed."""
    assert install(node, node.place("1"), replace(ALL, shim=False)) == 0
    assert commit(node) == 0
    return node.place("2"), ALL


def fresh(node: ScratchNode) -> tuple[Manifest, Options]:
    """A node without podwire, on which version 1 is placed."""
    return node.place("1"), ALL


SCENES = {"first install": fresh, "upgrade with the shim added": upgraded}


def points_of(request: pytest.FixtureRequest, count: int, salt: str) -> Iterator[int]:
    everything = list(range(count))
    if request.config.getoption("--soak"):
        yield from everything
    else:
        yield from sorted(random.Random(f"{SEED}{salt}").sample(everything, count // 8))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("scene", SCENES)
def test_a_failure_at_any_point_is_undone_whole(
    scratch: ScratchNode, scene: str, end: str, request: pytest.FixtureRequest, pictured: Picture
) -> None:
    payload, options = SCENES[scene](scratch)
    placed = pictured()
    assert install(scratch, payload, options, Points()) == 0, scratch.said()
    count = int((scratch.tools / "passed").read_text())
    assert count > 35
    assert roll_back(scratch) == 0
    bare = pictured()
    scratch.place(payload.identity[-1])
    for point in points_of(request, count, scene + end):
        code = install(scratch, payload, options, Points(point, end))
        if end == "kill -9":
            assert code == KILLED
            assert roll_back(scratch) == 0, f"point {point}: {scratch.said()}"
            assert but_lock(pictured()) == but_lock(bare), f"point {point} of {count}"
            scratch.place(payload.identity[-1])
        else:
            assert code == 1, f"point {point}: {scratch.said()}"
            assert but_lock(pictured()) == but_lock(placed), f"point {point} of {count}: an install undoes itself"


def but_lock(picture: dict[str, str]) -> dict[str, str]:
    """Without the lock file, in which a killed process left its number."""
    return {name: what for name, what in picture.items() if not name.endswith("install.lock")}


@pytest.mark.parametrize("end", ["exception", "kill -9"])
def test_a_rollback_that_is_cut_off_is_finished_by_the_next(
    scratch: ScratchNode, end: str, request: pytest.FixtureRequest, pictured: Picture
) -> None:
    before = pictured()

    def cut_off(points: Points) -> int:
        def work() -> int:
            points.install_in_undo(pytest.MonkeyPatch())
            code = rollback.rollback(node.site())
            (node.tools / "passed").write_text(str(points.passed))
            return code

        node = scratch
        return scratch.inside(work)

    assert install(scratch, scratch.place(), ALL) == 0
    assert cut_off(Points()) == 0
    count = int((scratch.tools / "passed").read_text())
    for point in points_of(request, count, end):
        assert install(scratch, scratch.place(), ALL) == 0
        assert cut_off(Points(point, end)) in (KILLED, 70)
        assert roll_back(scratch) == 0, f"point {point}: {scratch.said()}"
        assert pictured() == before, f"point {point} of {count}"
