"""The failpoints themselves: every effect has one, and reaching it does what it says."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.crash.matrix import CONFIGURATIONS, host_ports, pod, trace
from tests.lab.failpoints import read
from tests.lab.threadnode import ThreadNode


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_no_effect_of_a_call_is_without_a_step(node: ThreadNode, configuration: str, verb: str) -> None:
    node.config |= CONFIGURATIONS[configuration] | host_ports(configuration, 8000)
    file = node.folder / "steps"
    # The first on the node makes folders and table; the second finds them.
    for container in ("first", "second"):
        path = pod(node, configuration)
        result = None
        for command in ("ADD", "CHECK", "STATUS", "GC", "DEL"):
            file.unlink(missing_ok=True)
            prev = {"prevResult": result} if command == "CHECK" else {}
            listed: dict[str, Any] = {"cni.dev/valid-attachments": []} if command == "GC" else {}
            reply = node.call(command, container, path, steps=file, **prev, **listed)
            assert reply.exit_code == 0, reply
            result = reply.json if command == "ADD" else result
            found = read(file)
            assert found.unguarded == ()
            if command == verb and verb in ("ADD", "DEL", "GC"):
                assert len(found.steps) > 3


def test_the_kernels_own_account_has_no_effect_without_a_step(node: ThreadNode) -> None:
    """strace counts the same files made, linked, renamed and removed, and the same processes, as the steps."""
    calls = "rename,link,symlink,unlink,mkdir,rmdir,setns,clone,?clone3,fork,vfork"
    file, account = node.folder / "steps", node.folder / "strace"
    node.config |= CONFIGURATIONS["dual stack"] | host_ports("dual stack", 8000)
    for verb in ("ADD", "DEL"):
        file.unlink(missing_ok=True)
        path = node.pods.get("abc") or node.pod("abc")
        wrap = ["strace", "-f", "-qq", "-o", str(account), "-e", f"trace={calls}"]
        assert node.call(verb, "abc", path, steps=file, wrap=wrap).exit_code == 0
        lines = [line.split(maxsplit=1)[1] for line in account.read_text().splitlines()]
        seen = [line.partition("(")[0] for line in lines if "(" in line and "resumed" not in line]
        names = [step.name.split()[0] for step in read(file).steps]
        for name in ("rename", "link", "symlink", "unlink", "mkdir", "rmdir", "setns"):
            assert names.count(name) == seen.count(name), (verb, name)
        made = sum(seen.count(name) for name in ("clone", "clone3", "fork", "vfork"))
        assert made == names.count("fork") + names.count("posix_spawn"), verb


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_ends_the_call_at_its_step(node: ThreadNode, when: str) -> None:
    steps = trace(node, "plain", "ADD")
    made = next(step for step in steps if step.name.startswith("link "))
    file = node.folder / "steps"
    reply = node.call("ADD", "abc", node.pod(), failpoint=made.kill(when), steps=file)
    assert (reply.exit_code, reply.stdout) == (-signal.SIGKILL, "")
    found = read(file)
    assert found.reached
    assert str(found.steps[-1]).split()[:2] == str(made).split()[:2]
    assert len(list(node.state_dir.glob("*/addresses/*"))) == (0 if when == "before" else 1)


def test_a_stop_holds_the_call_until_it_is_continued(node: ThreadNode) -> None:
    made = next(step for step in trace(node, "plain", "ADD") if step.name.startswith("link "))
    call = node.start("ADD", "abc", node.pod(), failpoint=made.stop("after"))
    call.wait_stopped()
    assert len(list(node.state_dir.glob("*/addresses/*"))) == 1
    assert list(node.state_dir.glob("*/attachments/*")) == []
    call.process.send_signal(signal.SIGCONT)
    assert call.finish().exit_code == 0


def test_a_failure_is_raised_in_place_of_the_step(node: ThreadNode) -> None:
    made = next(step for step in trace(node, "plain", "ADD") if step.name.startswith("link "))
    reply = node.call("ADD", "abc", node.pod(), failpoint=made.fail())
    assert (reply.exit_code, reply.code) == (1, 104)
    assert "No space left" in reply.json["msg"]


def test_the_executable_holds_nothing_of_it(launcher: Path) -> None:
    executable = launcher.with_name("podwire")
    for path in (executable, *executable.with_name("podwire.lib").rglob("*")):
        if path.is_file():
            assert b"PODWIRE_FAILPOINT" not in path.read_bytes()
    assert json.dumps("PODWIRE_FAILPOINT")[1:-1].encode() in launcher.with_name("failpoints.code").read_bytes()
