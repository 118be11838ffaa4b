"""What a call may load: every pod start pays for it. And the places that a call takes no orders from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cni_plugin.executable import INTERPRETER, VERSIONS, version
from tests.cni_plugin.samples import configuration, environment
from tests.lab.netns import Namespace

# Modules of the interpreter beyond what it holds at its start: built in, or a small shared object.
# `gc` and `marshal` serve the bundle, `_ctypes` would be setns on Python 3.11 and comes with the call alone.
ALLOWED = {"_blake2", "_json", "_signal", "_socket", "_struct", "errno", "fcntl", "gc", "marshal", "posix", "time"}
# Dear, and easily let in by an innocent line.
HEAVY = ("ctypes", "dataclasses", "difflib", "enum", "ipaddress", "json", "os", "pathlib", "re", "socket", "subprocess")
OWN_START = {
    *("__main__", "attachment", "call", "config", "ipam", "journal"),
    *("jsontext", "netlink", "nftables", "ports", "spec"),
}
LINKS = OWN_START | {"netns", "rtnetlink"}
CLAIMS = OWN_START | {"claims", "locks", "rtnetlink"}
VERBS = LINKS | CLAIMS | {"allocation", "node", "removal", "result", "verbs", "wiring"}

# What the import of a verb's module brings, exactly: the rest is imported where a call needs it.
PATHS = {
    "VERSION": ("__main__", OWN_START),
    "ADD and DEL": ("verbs", VERBS),
    "ADD behind another plugin": ("chained", VERBS | {"chained", "prevresult"}),
    "CHECK": ("check", LINKS | CLAIMS | {"check", "node", "prevresult", "result", "rtdump", "wiring"}),
    "GC": ("collect", LINKS | CLAIMS | {"allocation", "collect", "removal", "sweep"}),
    "STATUS": ("status", CLAIMS | {"node", "status", "wiring"}),
    "loopback": ("loopback", LINKS | {"loopback", "rtdump", "wiring"}),
}


def python(code: str) -> set[str]:
    """The names that `code` prints as JSON, in the interpreter and with the switches of the executable."""
    done = subprocess.run([INTERPRETER, "-ISB", "-c", code], capture_output=True, timeout=30, env={})
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    return set(json.loads(done.stdout))


TELL = "import sys; print('[' + ', '.join('\"' + name + '\"' for name in sys.modules) + ']')"


def loaded(podwire: Path, module: str) -> set[str]:
    """What the launcher's own lines and the import of `module` load."""
    launcher, _, last = podwire.read_text().rpartition("run()")
    assert last == "\n"
    code = f"__file__ = {str(podwire)!r}\nexec({launcher!r})\nimport {module}\n{TELL}"
    return python(code) - python(TELL)


@pytest.mark.parametrize("path", PATHS)
def test_a_call_loads_small_modules_only(podwire: Path, path: str) -> None:
    module, own = PATHS[path]
    found = loaded(podwire, f"cni_plugin.{module}")
    mine = {name for name in found if name.partition(".")[0] == "cni_plugin"}
    assert found - mine - ALLOWED == set(), "a module of the standard library came onto the path of every pod start"
    assert mine - {"cni_plugin"} == {f"cni_plugin.{name}" for name in own}, "other modules of ours than before"


def traced(podwire: Path, node: Namespace, variables: dict[str, str], document: dict[str, Any]) -> set[str]:
    """Our own modules that a call in the namespace `node` imports until its end; it must succeed."""
    command = [INTERPRETER, "-ISB", "-X", "importtime", str(podwire)]
    pairs = [f"{name}={value}" for name, value in variables.items()]
    done = node.run(["env", "-i", *pairs, *command], input=json.dumps(document))
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return {name.partition(".")[2] for name in names if name.startswith("cni_plugin.")}


@pytest.mark.root
def test_real_calls_import_no_more_than_they_need(podwire: Path, tmp_path: Path) -> None:
    plain = configuration(stateDir=str(tmp_path / "state"), log="none")
    with Namespace() as node, Namespace() as pod:
        netns = f"/proc/{pod.pid}/ns/net"

        def call(command: str, ifname: str = "eth0", **changes: Any) -> set[str]:
            variables = environment(command, CNI_NETNS=netns, CNI_IFNAME=ifname)
            if command == "GC":
                changes["cni.dev/valid-attachments"] = []
            return traced(podwire, node, variables, plain | changes)

        assert call("ADD") == VERBS | {"first_run", "foreign"}
        assert call("ADD", "net1") == VERBS
        previous = {"ips": [{"address": "10.1.0.1/32"}]}
        assert call("CHECK", prevResult=previous) == PATHS["CHECK"][1] | {"firewall", "netfilter"}
        assert call("STATUS") == PATHS["STATUS"][1]
        # One release of many sweeps.
        assert call("DEL") - {"sweep"} == VERBS | {"conntrack", "netfilter"}
        assert call("DEL", "none") == VERBS
        assert call("GC") == PATHS["GC"][1] | {"conntrack", "netfilter", "secondary"}
        assert call("ADD", runtimeConfig={"ips": ["10.1.0.9"]}) == VERBS | {"requests", "reservations"}
        call("DEL")


def test_a_heavy_module_would_be_noticed(podwire: Path) -> None:
    for name in HEAVY:
        assert loaded(podwire, name) - ALLOWED, name


def test_a_call_of_version_loads_nothing_else_until_its_end(podwire: Path) -> None:
    done = subprocess.run(
        [INTERPRETER, "-ISB", "-X", "importtime", podwire],
        env={"CNI_COMMAND": "VERSION"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )
    assert json.loads(done.stdout) == VERSIONS
    names = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()} - {"imported package"}
    assert names, done.stderr
    own = {f"cni_plugin.{name}" for name in OWN_START} | {"cni_plugin"}
    at_start = python(TELL) | {"encodings"}
    assert names - at_start - ALLOWED - own == set()


def put_traps(folder: Path) -> None:
    for name in ("posix", "errno", "fcntl", "_json", "os", "time", "sitecustomize", "usercustomize", "cni_plugin"):
        (folder / f"{name}.py").write_text("raise SystemExit('a trap was imported')\n")


def test_modules_beside_the_caller_are_not_imported(podwire: Path, tmp_path: Path) -> None:
    put_traps(tmp_path)
    variables = {
        "PYTHONPATH": str(tmp_path),
        "PYTHONSTARTUP": str(tmp_path / "os.py"),
        "PYTHONUSERBASE": str(tmp_path),
        "HOME": str(tmp_path),
    }
    assert version(podwire, variables, cwd=tmp_path) == VERSIONS


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONHOME": "/nonexistent"},
        {"PYTHONINSPECT": "1"},
        {"PYTHONVERBOSE": "1"},
        {"PYTHONWARNINGS": "error"},
        {"PYTHONIOENCODING": "utf-16"},
        {"PYTHONUTF8": "0", "LANG": "C"},
        {"LC_ALL": "POSIX"},
        {"LC_ALL": "tr_TR.ISO-8859-9"},
        {"LANG": "no such locale"},
        {"PATH": ""},
        {"CNI_ARGS": "\udcff\udcfe"},
        {"LANG": "C", "CNI_IFNAME": "\udcff"},
    ],
    ids=str,
)
def test_variables_of_the_caller_change_nothing(podwire: Path, variables: dict[str, str]) -> None:
    assert version(podwire, variables) == VERSIONS


@pytest.mark.parametrize(
    ("closed", "code", "answers"),
    [("<&-", 0, True), ("2>&-", 0, True), ("<&- 2>&-", 0, True), (">&-", 1, False), ("<&- >&- 2>&-", 1, False)],
)
def test_closed_descriptors_are_no_trap(podwire: Path, closed: str, code: int, answers: bool) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" {closed}', podwire],
        env={"CNI_COMMAND": "VERSION"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == code
    assert done.stdout == (json.dumps(VERSIONS, separators=(",", ":")).encode() if answers else b"")
    assert done.stderr == b""


def test_a_person_is_told_what_it_is(podwire: Path) -> None:
    done = subprocess.run([podwire], env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.startswith(b"podwire: a CNI plugin")


def test_a_reader_that_left_is_exit_code_1_without_a_traceback(podwire: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" > /dev/full', podwire],
        env={"CNI_COMMAND": "VERSION"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (1, b"")
