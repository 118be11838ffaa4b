"""Cases 17, 18 and 20-24: hostile surroundings. Whatever happens, stdout carries one JSON document or nothing."""

import json
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.cni.cases import case
from tests.conformance.cni.runtime import Runtime
from tests.conformance.cni.workbench import Cni

HOSTILE = {
    "PYTHONPATH": "/nonexistent",
    "PYTHONHOME": "/nonexistent",
    "PYTHONSTARTUP": "/etc/passwd",
    "PYTHONWARNINGS": "always",
    "PYTHONVERBOSE": "1",
    "PYTHONDEVMODE": "1",
    "GODEBUG": "gctrace=1,inittrace=1",
    "GOTRACEBACK": "all",
    "LANG": "C",
    "LC_ALL": "tlh_QO.UTF-8",
    "TMPDIR": "/nonexistent",
    "HOME": "/nonexistent",
}


@case(17, "X", "uncaught_exception")
@pytest.mark.parametrize("limit", ["nofile=6", "nofile=9", "nofile=12", "fsize=0", "nproc=1"])
def test_a_lack_of_resources_is_an_error_document(cni: Cni, limit: str) -> None:
    """Limits that make system calls fail where no author expects it; then DEL must bring back what there was."""
    before = cni.baseline()
    pod = cni.pod()
    answer = cni.call("ADD", "abc", pod, wrap=["prlimit", f"--{limit}"])
    assert "Traceback" not in answer.stdout, answer
    if answer.stdout or answer.succeeded:
        answer.pure()
    cni.delete("abc", pod, forgetful=True).ok()
    cni.restored(before)


@case(18, "X", "stdout_pure")
def test_hostile_variables_change_nothing(cni: Cni) -> None:
    pod = cni.pod()
    assert cni.call("ADD", "abc", pod, env=dict(HOSTILE)).addresses
    cni.call("DEL", "abc", pod, env=dict(HOSTILE)).ok()


@case(18, "X", "stdout_pure")
@pytest.mark.parametrize(("redirection", "answers"), [("2>&-", True), ("2>/dev/full", True), ("1>&-", False)])
def test_a_closed_stream_does_not_confuse_it(cni: Cni, redirection: str, answers: bool) -> None:
    """What is opened next must not become stdout; without stdout, ADD cannot say what it did and has to fail."""
    pod = cni.pod()
    answer = cni.call("ADD", "abc", pod, wrap=["sh", "-c", f'exec "$@" {redirection}', "sh"])
    if answers:
        assert answer.addresses
    else:
        assert not answer.succeeded, answer
    cni.delete("abc", pod, forgetful=True).ok()


@case(20, "X", "huge_stdin")
@pytest.mark.parametrize("what", ["five megabytes", "ten thousand routes"])
def test_a_huge_configuration_costs_little(cni: Cni, what: str) -> None:
    """At most two seconds of processor time and 512 MiB, whether it is taken or refused."""
    extra: dict[str, object] = {"args": {"labels": [{"key": f"k{n}", "value": "v" * 90} for n in range(42000)]}}
    if what == "ten thousand routes":
        cni.subject.need("ipam")
        routes = [{"dst": f"172.{16 + n // 65536}.{n // 256 % 256}.{n % 256}/32"} for n in range(10000)]
        cni.network, extra = cni.network.with_ipam(routes=routes), {}
    stdin = json.dumps(cni.network.document(cni.network.position, **extra)).encode()
    pod = cni.pod()
    executable = cni.runtime.find(cni.network.entry["type"])
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as told:
        given.write(stdin)
        given.seek(0)
        process = subprocess.Popen(
            cni.site.space.command([executable]),
            stdin=given,
            stdout=told,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], **cni.environment("ADD", "abc", pod)},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        document = json.loads(told.read())
    assert process.returncode == 0 or document["code"] in (5, 6, 7) or document["code"] >= 100, document
    assert usage.ru_utime + usage.ru_stime < 2, f"{usage.ru_utime + usage.ru_stime:.1f} s of processor time"
    assert usage.ru_maxrss < 512 * 1024, f"{usage.ru_maxrss} KiB of memory"
    cni.delete("abc", pod, forgetful=True).ok()


@case(21, "S", "unknown_keys_ignored")
def test_an_unknown_key_of_the_protocol_is_ignored(cni: Cni) -> None:
    """SPEC.md section 1: keys below cni.dev/ are the runtime's. A version adds some; only other ones may be refused."""
    pod = cni.pod()
    extra = {"cni.dev/not-yet-invented": {"a": 1}}
    assert cni.call("ADD", "abc", pod, **extra).addresses
    cni.call("DEL", "abc", pod, **extra).ok()


@case(21, "S", "unknown_keys_ignored")
def test_other_unknown_keys_are_ignored_or_refused_by_name(cni: Cni) -> None:
    """SPEC.md section 1: a plugin may generate an error for them; section 5: error 2 must name key and value."""
    pod = cni.pod()
    answer = cni.call("ADD", "abc", pod, someUnknownKey="itsValue")
    if cni.subject.has("rejects_unknown_keys"):
        answer.refused(2, says=["someUnknownKey", "itsValue"])
    else:
        assert answer.addresses
        cni.call("DEL", "abc", pod, someUnknownKey="itsValue").ok()


@case(22, "X", "traceparent")
@pytest.mark.parametrize("value", ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "garbage", ""])
def test_trace_context_is_taken_or_ignored(cni: Cni, value: str) -> None:
    """libcni passes TRACEPARENT on to plugins; one that keeps a log is expected to name the trace in it."""
    pod = cni.pod()
    assert cni.call("ADD", "abc", pod, env={"TRACEPARENT": value, "TRACESTATE": "a=b"}).addresses
    log = cni.subject.profile.log
    if cni.subject.has("traces") and value.startswith("00-"):
        assert value.split("-")[1] in cni.site.path(log).read_text()


@case(23, "R", "text_file_busy")
def test_it_can_be_replaced_by_rename_while_it_is_used(cni: Cni) -> None:
    """An upgrade renames new files over old ones while pods start: none of 100 ADDs may fail for it."""
    network = cni.with_pool("10.88.0.0/24") if cni.subject.has("ipam") else cni.network
    source, target = cni.subject.executable, cni.folder / "bin"
    target.mkdir()
    names = [source.name, *cni.subject.profile.companions]
    for name in names:
        copy(source.parent / name, target / name)
    cni.runtime = Runtime(cni.site, [target, *cni.subject.search])
    done = False

    def upgrade() -> int:
        count = 0
        while not done:
            copy(source, target / ".new")
            (target / ".new").rename(target / source.name)
            count += 1
        return count

    pods = cni.pods(100)
    with ThreadPoolExecutor(max_workers=1) as pool:
        upgrades = pool.submit(upgrade)
        try:
            for number, pod in enumerate(pods):
                cni.call("ADD", f"pod{number}", pod, network=network).ok()
        finally:
            done = True
    assert upgrades.result() > 10


def copy(source: Path, target: Path) -> None:
    """A program, or a folder that belongs to it."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


@case(24, "R", "path_edge")
@pytest.mark.parametrize("before", ["", "/nonexistent", "/run/with space", "relative", "/etc/passwd"])
def test_an_odd_search_path_still_leads_to_the_delegate(cni: Cni, before: str) -> None:
    cni.subject.need("delegated_ipam")
    pod = cni.pod()
    path = ":".join([before, "", *map(str, cni.subject.search)])
    assert cni.call("ADD", "abc", pod, env={"CNI_PATH": path}).addresses
    cni.call("DEL", "abc", pod, env={"CNI_PATH": path}).ok()


@case(24, "R", "path_edge")
def test_a_delegate_that_is_nowhere_is_named(cni: Cni) -> None:
    cni.subject.need("delegated_ipam")
    answer = cni.call("ADD", "abc", cni.pod(), env={"CNI_PATH": "/nonexistent"})
    answer.refused(says=[cni.network.ipam["type"]])
