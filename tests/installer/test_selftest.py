"""podwire-node self-test: the real plugin passes it, every lie is found, and the node notices nothing."""

import os
from pathlib import Path

import pytest

from cni_plugin.install import selftest
from cni_plugin.install.selftest import SelfTestError
from tests.installer.scratch import PLAIN, ScratchNode
from tests.installer.test_install import install
from tests.kernel.conftest import executable
from tests.lab import witness
from tests.lab.waiting import wait_until

__all__ = ["executable"]
pytestmark = pytest.mark.root

# A plugin that passes everything on, but for one command.
WRAPPED = """\
#!/bin/sh
case $CNI_COMMAND in {command}) {instead} ;; esac
exec {executable} "$@"
"""
ADDED = '{"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.2/32"}], "interfaces": []}'
LIES = {
    "ADD fails": ("ADD", 'echo \'{"code": 11, "msg": "no"}\'; exit 1', "ADD ended with 1"),
    "ADD does nothing": ("ADD", f"echo '{ADDED}'; exit 0", "after ADD the host end is missing or down"),
    "CHECK fails": ("CHECK", "exit 3", "CHECK ended with 3"),
    "DEL does nothing": ("DEL", "exit 0", "after DEL there is still"),
    "VERSION crashes": ("VERSION", "kill -SEGV $$", "VERSION ended with -11"),
}


def test_the_real_plugin_passes_and_the_node_is_untouched(scratch: ScratchNode, executable: Path) -> None:
    before = witness.of_node(scratch.namespace, scratch.root)
    log = scratch.tools / "log"
    assert scratch.inside(lambda: print(selftest.run(scratch.site(), executable)) or 0, log) == 0, scratch.said()
    assert scratch.said().startswith("CNI 1.1.0: plain; masquerade and hostPort, IPv4 and IPv6")
    assert not witness.settled(before, lambda: witness.of_node(scratch.namespace, scratch.root))


@pytest.mark.parametrize("lie", LIES)
def test_a_plugin_that_does_not_do_what_it_says_is_found_out(scratch: ScratchNode, executable: Path, lie: str) -> None:
    command, instead, words = LIES[lie]
    plugin = scratch.tools / "lying"
    plugin.write_text(WRAPPED.format(command=command, instead=instead, executable=executable))
    plugin.chmod(0o755)
    with pytest.raises(SelfTestError, match=r"the self-test of .* failed: ") as found:
        selftest.run(scratch.site(), plugin)
    assert words in str(found.value)


def test_a_plugin_without_an_interpreter_is_found_out(scratch: ScratchNode) -> None:
    plugin = scratch.tools / "lost"
    plugin.write_text("#!/nowhere/bin/python3\n")
    plugin.chmod(0o755)
    with pytest.raises(SelfTestError, match="No such file or directory"):
        selftest.run(scratch.site(), plugin)


def test_a_plugin_that_hangs_is_ended(scratch: ScratchNode, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = scratch.tools / "hanging"
    plugin.write_text(f"#!/bin/sh\necho $$ >{scratch.tools}/pid\nexec sleep 60\n")
    plugin.chmod(0o755)
    monkeypatch.setattr(selftest, "SECONDS", 2.0)
    monkeypatch.setattr("tempfile.tempdir", str(scratch.tools))
    with pytest.raises(SelfTestError, match="did not end within 2 s"):
        selftest.run(scratch.site(), plugin)
    assert not list(scratch.tools.glob("podwire-self-test-*"))
    pid = int((scratch.tools / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10, "the plugin to end")


def test_an_install_tries_the_plugin_before_anything_uses_it(scratch: ScratchNode) -> None:
    payload = scratch.place()
    before = scratch.picture()
    launcher = scratch.places.version(payload.identity) / "cni/podwire"
    whole = launcher.read_bytes()
    os.truncate(launcher, 100)
    assert install(scratch, payload, PLAIN, real_self_test=True) == 1
    assert "the self-test of" in scratch.said()
    launcher.write_bytes(whole)
    ignored = {str(launcher), str(scratch.places.lock)}
    assert {name: what for name, what in scratch.picture().items() if name not in ignored} == {
        name: what for name, what in before.items() if name not in ignored
    }
    assert install(scratch, payload, PLAIN, real_self_test=True) == 0, scratch.said()
    assert "masquerade and hostPort" in scratch.said()
