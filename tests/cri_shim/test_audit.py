"""What an audit line holds, what it never holds, and how long it may be."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from cri_shim import schema
from cri_shim.call import Call, EndedBy
from cri_shim.capabilities import Services, Setup
from cri_shim.errors import ConfigError
from cri_shim.interceptors.audit import WHAT, Audit, bounded, redacted, shown
from cri_shim.log import encoded_size
from cri_shim.pods import SUBJECT, Pods, Subject

PREFIX = {name: f"/runtime.v1.{'ImageService' if name == 'PullImage' else 'RuntimeService'}/" for name in WHAT}
POD = Subject("shop", "web", "uid-1", "s1", "c1", "app")
NODE = schema.enum("NamespaceMode")["NODE"]


def audited(file: Path, name: str, code: int = 0, response: dict[str, Any] | None = None, **fields: Any) -> list[Any]:
    """The lines of one call, read back from the file."""
    method = PREFIX[name] + name

    async def story() -> None:
        audit = Audit(Setup("audit", {"file": str(file)}))
        await audit.start()
        call = Call(method, [("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")])
        call.notes[SUBJECT] = POD
        known = schema.methods()[method]
        await audit.on_request(call, schema.message(known.request)(**fields).SerializeToString())
        if code == 0:
            answer = schema.message(known.response)(**(response or {})).SerializeToString()
            await audit.on_response(call, answer)
        call.conclude(code, "not written: hunter2", EndedBy.RUNTIME)
        await audit.on_end(call)
        await audit.close()

    asyncio.run(story())
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_a_line_says_who_what_when_and_with_which_result(file: Path) -> None:
    [line] = audited(
        file, "ExecSync", response={"exit_code": 3, "stdout": b"hunter2"}, container_id="c1", cmd=["id", "-u"]
    )
    assert line.pop("time").endswith("Z")
    assert line.pop("duration_ms") >= 0
    assert line == {
        "event": "audit",
        "method": "ExecSync",
        "pod_namespace": "shop",
        "pod_name": "web",
        "pod_uid": "uid-1",
        "sandbox_id": "s1",
        "container_id": "c1",
        "container_name": "app",
        "cmd": ["id", "-u"],
        "exit_code": 3,
        "code": "OK",
        "ended_by": "runtime",
        "trace_id": "a" * 32,
    }


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        pytest.param("Exec", {"cmd": ["sh"], "tty": True, "stdin": True}, {"cmd": ["sh"], "tty": True}, id="exec"),
        pytest.param("Attach", {"stdin": True}, {"stdin": True}, id="attach"),
        pytest.param("PortForward", {"port": [80, 443]}, {"port": [80, 443]}, id="port-forward"),
        pytest.param("PullImage", {"image": {"image": "web:1"}}, {"image": "web:1"}, id="pull"),
        pytest.param(
            "RunPodSandbox",
            {"config": {"linux": {"security_context": {"namespace_options": {"network": NODE, "pid": NODE}}}}},
            {"host_namespaces": ["network", "pid"]},
            id="host-namespaces",
        ),
        pytest.param(
            "CreateContainer",
            {"config": {"image": {"image": "web:1"}, "linux": {"security_context": {"privileged": True}}}},
            {"privileged": True, "image": "web:1"},
            id="privileged",
        ),
    ],
)
def test_what_a_line_says_of_each_method(file: Path, name: str, fields: dict[str, Any], says: dict[str, Any]) -> None:
    [line] = audited(file, name, **fields)
    assert says.items() <= line.items()


@pytest.mark.parametrize("name", ["RunPodSandbox", "CreateContainer"])
def test_without_privileges_pods_are_not_audited(file: Path, name: str) -> None:
    assert audited(file, name, config={"metadata": {"name": "x"}}) == []


def test_a_failed_call_has_its_code_and_no_text(file: Path) -> None:
    [line] = audited(file, "Exec", code=5, cmd=["sh"])
    assert line["code"] == "NOT_FOUND"
    assert "hunter2" not in file.read_text()


def test_neither_credentials_nor_environment_nor_output_are_written(file: Path) -> None:
    audited(file, "PullImage", image={"image": "i"}, auth={"username": "u", "password": "hunter2", "auth": "hunter2"})
    privileged = {"security_context": {"privileged": True}}
    envs = [{"key": "TOKEN", "value": b"hunter2"}]
    audited(file, "CreateContainer", config={"envs": envs, "linux": privileged})
    audited(file, "ExecSync", cmd=["x"], response={"stderr": b"hunter2"})
    audited(file, "Exec", cmd=["x"], response={"url": "http://127.0.0.1/exec/hunter2"})
    assert file.read_text().count("\n") == 4
    assert "hunter2" not in file.read_text()


def test_fields_the_schema_marks_as_secret_are_replaced() -> None:
    auth = schema.message("AuthConfig")(username="u", password="p", auth="a", identity_token="i", registry_token="r")
    assert {key for key, value in redacted(auth).items() if value != "[redacted]"} == {"username"}
    pull = schema.message("PullImageRequest")(auth=auth)
    assert shown(pull, "auth.password") == "[redacted]"
    container = schema.message("ContainerConfig")(envs=[{"key": "A", "value": b"secret"}])
    assert redacted(container) == {"envs": [{"key": "A", "value": "[redacted]"}]}


def test_the_file_is_for_its_owner_and_is_appended_to(file: Path) -> None:
    file.write_text("before\n")
    file.chmod(0o644)
    asyncio.run(_started_and_closed(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == "before\n"


async def _started_and_closed(file: Path) -> None:
    audit = Audit(Setup("audit", {"file": str(file)}))
    await audit.start()
    await audit.close()


@pytest.mark.parametrize("most", [1024, 4096])
@pytest.mark.parametrize(
    "text", ["x" * 100_000, "é" * 100_000, "\x01" * 100_000], ids=["ascii", "two-bytes", "escaped"]
)
def test_a_long_line_is_shortened_and_says_so(text: str, most: int) -> None:
    for cmd in ([text], ["sh", "-c", text, text], ["x"] * 50_000):
        record: dict[str, object] = {"method": "Exec", "cmd": cmd, "code": "OK"}
        short = bounded(record, most)
        assert encoded_size(short) <= most
        assert (short["truncated"], short["code"]) == (True, "OK")


def test_a_line_that_fits_is_left_alone() -> None:
    record: dict[str, object] = {"method": "Exec", "cmd": ["sh"]}
    assert bounded(record, 1024) == record


def test_a_full_disk_fails_nothing_and_is_counted() -> None:
    services = Services(pods=Pods())

    async def story() -> None:
        audit = Audit(Setup("audit", {"file": "/dev/full"}, services=services))
        await audit.start()
        call = Call(PREFIX["Exec"] + "Exec", [])
        assert await audit.on_request(call, b"") == b""
        call.conclude(0, "", EndedBy.RUNTIME)
        await audit.on_end(call)
        await audit.close()

    mode = os.stat("/dev/full").st_mode
    asyncio.run(story())
    assert services.vitals.lost_lines == {"audit": 1}
    assert os.stat("/dev/full").st_mode == mode


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        pytest.param({"fil": "/x"}, "unknown key 'audit.fil'; did you mean 'audit.file'?", id="misspelt"),
        pytest.param({"file": "x"}, "audit.file: must be the absolute path of a file, not 'x'", id="relative"),
        pytest.param({"line_bytes": 5}, "audit.line_bytes: must be from 1024 to 1048576, not 5", id="short-lines"),
    ],
)
def test_a_fault_names_the_key(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Audit(Setup("audit", settings))
    assert caught.value.faults == (fault,)
