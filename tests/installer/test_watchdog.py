"""Kubelet goes back to containerd when the shim stays down, only then, once, and to the byte."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin.install import status, watchdog, watchdog_probe
from cni_plugin.install.locking import Turn
from cni_plugin.install.places import Places
from cni_plugin.install.site import Site
from cni_plugin.install.systemd import Systemd
from tests.installer.systemctl import Systemctl
from tests.installer.watched import KUBEADM, REPOSITORY, Watched, lean_run

ANSWER = 1.0


@pytest.fixture
def root() -> Iterator[Path]:
    """Short, since a socket's path may have 107 bytes only."""
    made = Path(tempfile.mkdtemp(prefix="pw-wd-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def watched(root: Path) -> Iterator[Watched]:
    """A node whose kubelet uses the shim; both it and the runtime serve."""
    made = Watched(root)
    try:
        made.start("runtime", "shim")
        made.switch()
        yield made
    finally:
        made.close()


class Watchdog:
    """Looks at one node, at times that the test says."""

    def __init__(self, node: Watched) -> None:
        self.node = node
        self.systemctl = Systemctl(kubelet="active")
        self.booted = node.places.root

    def look(self, at: float) -> int:
        systemd = Systemd(self.systemctl, self.booted)
        return watchdog.look(self.node.places, lambda: at, answer=ANSWER, systemd=systemd)

    @property
    def restarted(self) -> int:
        return self.systemctl.calls.count(("restart", "kubelet.service"))


@pytest.fixture
def dog(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> Watchdog:
    monkeypatch.setattr("cni_plugin.install.watchdog_revert.STAYS_SECONDS", 0.0)
    return Watchdog(watched)


def test_a_shim_that_serves_is_left_in_peace(dog: Watchdog) -> None:
    assert dog.look(100) == 0
    assert dog.node.endpoint() == dog.node.shim_endpoint
    assert not (dog.node.places.run / "watchdog.json").exists()


@pytest.mark.parametrize("how", ["end", "hang"])
def test_a_shim_that_stays_down_loses_kubelet(how: str, dog: Watchdog, capfd: pytest.CaptureFixture[str]) -> None:
    getattr(dog.node, how)("shim")
    assert [dog.look(at) for at in (100, 115, 130, 144)] == [0] * 4
    assert (dog.node.endpoint(), dog.restarted) == (dog.node.shim_endpoint, 0)
    assert dog.look(145) == 0
    assert (dog.node.endpoint(), dog.restarted) == ("unix:///run/containerd/containerd.sock", 1)
    said = capfd.readouterr().err
    assert f"<2>podwire-node watchdog: the shim at {dog.node.places.shim_socket} did not answer for 45 s" in said


def test_kubelets_files_are_what_they_were_before_the_shim(dog: Watchdog) -> None:
    dog.node.end("shim")
    dog.look(100)
    dog.look(200)
    for path, content in dog.node.kubelets_files().items():
        original = KUBEADM / "1.31" / Path(path).relative_to(dog.node.places.root)
        assert content == original.read_bytes(), path


def test_what_happened_is_in_the_record(dog: Watchdog) -> None:
    dog.node.end("shim")
    dog.look(100)
    dog.look(200)
    mark = json.loads(dog.node.places.journal.read_text())["reverted"]
    assert mark["restarted"] is True
    assert "did not answer for 100 s" in mark["reason"]
    assert mark["endpoint"] == dog.node.runtime_endpoint
    assert {Path(path).name for path in mark["files"]} == {"kubeadm-flags.env", "crictl.yaml"}


def test_kubelet_stays_where_it_is_when_the_shim_comes_and_goes(dog: Watchdog) -> None:
    dog.node.end("shim")
    dog.look(100)
    dog.look(200)
    for at in (215, 300, 1000):
        assert dog.look(at) == 0
    dog.node.start("shim")
    assert dog.look(1100) == 0
    dog.node.end("shim")
    assert [dog.look(at) for at in (1200, 1300)] == [0, 0]
    assert (dog.node.endpoint(), dog.restarted) == ("unix:///run/containerd/containerd.sock", 1)


def test_a_shim_that_came_back_in_time_starts_anew(dog: Watchdog) -> None:
    dog.node.hang("shim")
    dog.look(100)
    dog.node.resume("shim")
    dog.look(130)
    dog.node.hang("shim")
    assert [dog.look(at) for at in (160, 200)] == [0, 0]
    assert dog.node.endpoint() == dog.node.shim_endpoint


@pytest.mark.parametrize("shim", ["lives", "ended"])
def test_nothing_is_done_while_the_runtime_itself_is_down(shim: str, dog: Watchdog) -> None:
    dog.node.end("runtime")
    if shim == "ended":
        dog.node.end("shim")
    assert [dog.look(at) for at in (100, 200, 300)] == [0] * 3
    assert (dog.node.endpoint(), dog.restarted) == (dog.node.shim_endpoint, 0)


def test_the_shims_time_begins_when_the_runtime_is_back(dog: Watchdog) -> None:
    dog.node.end("runtime")
    dog.node.end("shim")
    dog.look(100)
    dog.node.start("runtime")
    assert [dog.look(at) for at in (200, 240)] == [0, 0]
    assert dog.node.endpoint() == dog.node.shim_endpoint
    dog.look(246)
    assert dog.node.endpoint() != dog.node.shim_endpoint


def test_times_of_an_earlier_boot_do_not_count(dog: Watchdog) -> None:
    dog.node.end("shim")
    dog.look(5000)
    assert dog.look(20) == 0
    assert dog.node.endpoint() == dog.node.shim_endpoint


def test_an_installation_that_runs_is_not_disturbed(dog: Watchdog, capfd: pytest.CaptureFixture[str]) -> None:
    dog.node.end("shim")
    dog.look(100)
    with Turn(dog.node.places, "install", 0):
        assert dog.look(200) == 0
        assert dog.node.endpoint() == dog.node.shim_endpoint
    assert "nothing is changed: the installation is being changed" in capfd.readouterr().err
    dog.look(215)
    assert dog.node.endpoint() != dog.node.shim_endpoint


@pytest.mark.parametrize("damage", ["no record", "garbage", "no originals", "kubeadm rewrote a file"])
def test_the_way_back_needs_no_other_part_of_the_installation(damage: str, dog: Watchdog) -> None:
    places = dog.node.places
    match damage:
        case "no record":
            places.journal.unlink()
        case "garbage":
            places.journal.write_text("{")
        case "no originals":
            shutil.rmtree(places.originals)
        case _:
            places.kubelet_flags.write_text(places.kubelet_flags.read_text().replace('ARGS="', 'ARGS="--new=1 '))
    dog.node.end("shim")
    dog.look(100)
    assert dog.look(200) == 0
    assert "/run/containerd/containerd.sock" in dog.node.endpoint()
    assert dog.restarted == 1
    if damage == "kubeadm rewrote a file":
        assert "--new=1 --container-runtime-endpoint=" in places.kubelet_flags.read_text()


def test_the_runtime_is_the_one_that_the_shim_is_configured_for(dog: Watchdog) -> None:
    dog.node.places.shim_config.parent.mkdir(parents=True)
    dog.node.places.shim_config.write_text('upstream = "unix:///run/other/containerd.sock"\n')
    dog.node.end("shim")
    # Nothing answers there: it is not the shim's fault.
    assert [dog.look(at) for at in (100, 200)] == [0, 0]
    assert dog.node.endpoint() == dog.node.shim_endpoint


def test_a_kubelet_that_does_not_start_is_an_error_and_tried_again(
    dog: Watchdog, capfd: pytest.CaptureFixture[str]
) -> None:
    dog.node.end("shim")
    dog.systemctl.fails["restart"] = "no such unit"
    dog.look(100)
    assert dog.look(200) == 1
    assert "kubelet could not be put back to the runtime: systemctl restart" in capfd.readouterr().err
    dog.systemctl.fails.clear()
    assert dog.look(215) == 0
    assert json.loads(dog.node.places.journal.read_text())["reverted"]["restarted"] is True


def test_a_file_that_cannot_be_understood_is_told_at_each_look(
    dog: Watchdog, capfd: pytest.CaptureFixture[str]
) -> None:
    dog.node.end("shim")
    dog.node.places.kubelet_config.write_text("[")
    dog.look(100)
    assert dog.look(200) == 1
    assert (
        f"<2>podwire-node watchdog: kubelet could not be put back to the runtime: {dog.node.places.kubelet_config}"
        in (capfd.readouterr().err)
    )


def test_a_kubelet_that_does_not_use_the_shim_is_none_of_its_business(root: Path) -> None:
    node = Watched(root)
    before = node.kubelets_files()
    assert watchdog.look(node.places, lambda: 100.0, limit=0, answer=ANSWER) == 0
    assert node.kubelets_files() == before


def test_the_paths_of_the_short_way_are_those_of_the_installation() -> None:
    places = Places()
    assert str(places.shim_socket) == watchdog.SHIM_SOCKET
    assert str(places.run / "watchdog.json") == watchdog.STATE


def test_a_look_imports_nothing_that_costs(watched: Watched) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); before = set(sys.modules)\n"
        "from cni_plugin.install import watchdog\n"
        f"watchdog.SHIM_SOCKET = {str(watched.places.shim_socket)!r}\n"
        "assert watchdog.main([]) == 0\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = lean_run(["-c", script])
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {
        "_socket",
        "cni_plugin",
        "cni_plugin.install",
        "cni_plugin.install.watchdog",
        "cni_plugin.install.watchdog_probe",
    }


@pytest.mark.parametrize("what", ["nothing", "a file", "a server of something else"])
def test_what_does_not_speak_cri_does_not_serve(what: str, root: Path) -> None:
    path = root / "socket"
    if what == "a file":
        path.write_text("")
    elif what == "a server of something else":
        import socket

        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen()
            # It is accepted by the kernel alone, as with a program that hangs.
            assert not watchdog_probe.serves(str(path), 0.2)
        return
    assert not watchdog_probe.serves(str(path), 0.2)


def test_wrong_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert watchdog.main(["soon"]) == 2
    assert capsys.readouterr().err == "podwire-node watchdog: 'soon' is no number of seconds\n"


def test_status_tells_of_it_until_kubelet_uses_the_shim_again(dog: Watchdog) -> None:
    dog.node.end("shim")
    dog.look(100)
    dog.look(200)
    site = Site(dog.node.places, Systemd(dog.systemctl, dog.booted), print)
    told = [line for line in status.lines(status.document(site)) if line.startswith("the watchdog gave kubelet back")]
    assert len(told) == 1
    assert "did not answer for 100 s" in told[0]
    dog.node.switch()
    assert "the watchdog gave" not in "\n".join(status.lines(status.document(site)))
