"""One call: descriptors and environment in, one JSON document or nothing on stdout, an exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import config, jsontext
from cni_plugin.__main__ import main
from cni_plugin.spec import SUPPORTED_VERSIONS
from tests.cni_plugin.samples import configuration, environment


class Answer:
    """What a call left on its pipes."""

    def __init__(self, code: int, stdout: bytes, stderr: bytes) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def document(self) -> dict[str, Any]:
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value


def call(variables: dict[str, str], stdin: object = b"") -> Answer:
    raw = stdin if isinstance(stdin, bytes) else json.dumps(stdin).encode()
    (read_in, write_in), (read_out, write_out), (read_err, write_err) = os.pipe(), os.pipe(), os.pipe()
    with open(write_in, "wb") as feed:
        feed.write(raw)
    try:
        code = main(variables, read_in, write_out, write_err)
    finally:
        for descriptor in (read_in, write_out, write_err):
            os.close(descriptor)
    with open(read_out, "rb") as out, open(read_err, "rb") as err:
        return Answer(code, out.read(), err.read())


def status(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """A configuration whose STATUS needs nothing but a folder."""
    return configuration(**{"stateDir": str(tmp_path), "log": str(tmp_path / "log"), **changes})


@pytest.mark.parametrize("variables", [{}, {"CNI_COMMAND": ""}, {"PATH": "/bin"}], ids=["none", "empty", "others"])
def test_a_person_who_runs_it_is_told_what_it_is(variables: dict[str, str]) -> None:
    answer = call(variables)
    assert (answer.code, answer.stdout) == (0, b"")
    assert b"a CNI plugin" in answer.stderr
    assert ", ".join(SUPPORTED_VERSIONS).encode() in answer.stderr


@pytest.fixture
def broken() -> Iterator[int]:
    """The write end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def test_a_person_who_does_not_listen_is_no_failure(broken: int) -> None:
    assert main({}, 0, 1, broken) == 0


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        pytest.param(b"", "1.1.0", id="nothing"),
        pytest.param(b"garbage", "1.1.0", id="garbage"),
        pytest.param(b"\xff\xfe", "1.1.0", id="binary"),
        pytest.param({"cniVersion": "0.4.0"}, "0.4.0", id="known version"),
        pytest.param({"cniVersion": "9.9.9"}, "1.1.0", id="unknown version"),
        pytest.param({"cniVersion": 5}, "1.1.0", id="version a number"),
        pytest.param([], "1.1.0", id="list"),
    ],
)
def test_version_answers_whatever_is_on_stdin(stdin: object, version: str) -> None:
    answer = call({"CNI_COMMAND": "VERSION"}, stdin)
    assert (answer.code, answer.stderr) == (0, b"")
    assert answer.document == {"cniVersion": version, "supportedVersions": list(SUPPORTED_VERSIONS)}


def test_an_unknown_command_is_code_4_on_stdout() -> None:
    answer = call({"CNI_COMMAND": "UPDATE"}, configuration())
    assert (answer.code, answer.stderr) == (1, b"")
    assert (answer.document["code"], answer.document["cniVersion"]) == (4, "1.1.0")
    assert "'UPDATE'" in answer.document["msg"]
    assert set(answer.document) == {"cniVersion", "code", "msg", "details"}


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b"\xff", b'{"a": 1, "a": 2}'], ids=repr)
def test_input_that_is_no_json_object_is_code_6(command: str, stdin: bytes) -> None:
    answer = call(environment(command), stdin)
    assert (answer.code, answer.stderr, answer.document["code"]) == (1, b"", 6)
    assert answer.document["msg"].startswith("the network configuration on stdin is")


def test_missing_variables_are_code_4_before_stdin_is_read() -> None:
    answer = call({"CNI_COMMAND": "ADD"}, b"garbage")
    assert answer.document["code"] == 4


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_errors_bear_the_version_of_the_configuration(version: str) -> None:
    answer = call(environment(), configuration(cniVersion=version, mtu="x"))
    assert (answer.code, answer.document["code"], answer.document["cniVersion"]) == (1, 7, version)


def test_a_version_that_is_not_supported_is_answered_in_ours() -> None:
    answer = call(environment(), configuration(cniVersion="9.0.0"))
    assert (answer.document["code"], answer.document["cniVersion"]) == (1, "1.1.0")


@pytest.mark.parametrize("document", [{"mtu": 1e999}, {"dns": {"x": -1e999}}], ids=["judged", "passed on"])
def test_a_number_that_could_not_be_answered_is_not_read(document: dict[str, Any]) -> None:
    raw = json.dumps(configuration(**document)).replace("Infinity", "1e999").encode()
    answer = call(environment(), raw)
    assert answer.document["code"] == 6
    assert "out of range" in answer.document["msg"]


def test_odd_text_of_the_caller_comes_back_as_ascii() -> None:
    answer = call(environment("ADD", CNI_CONTAINERID="ä\udcff"), configuration())
    assert answer.stdout.isascii()
    assert answer.document["code"] == 4


def test_an_unforeseen_failure_is_code_999_and_its_traceback_stays_off_stdout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("on purpose \udcff")

    monkeypatch.setattr(config, "network", fails)
    answer = call(environment(), configuration(cniVersion="0.4.0"))
    assert answer.code == 1
    assert (answer.document["code"], answer.document["cniVersion"]) == (999, "0.4.0")
    assert answer.document["msg"] == "unforeseen ZeroDivisionError: on purpose \udcff"
    assert "defect" in answer.document["details"]
    assert b"Traceback" in answer.stderr


def test_an_unforeseen_failure_is_answered_even_where_stderr_is_broken(
    broken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "decode", lambda raw: 1 // 0)
    read, write = os.pipe()
    with open("/dev/null", "rb") as nothing:
        assert main(environment(), nothing.fileno(), write, broken) == 1
    os.close(write)
    with open(read, "rb") as out:
        assert json.loads(out.read())["code"] == 999


def test_an_answer_that_cannot_be_written_is_exit_code_1(broken: int, tmp_path: Path) -> None:
    with open("/dev/null", "rb") as nothing:
        assert main({"CNI_COMMAND": "VERSION"}, nothing.fileno(), broken, 2) == 1


def test_a_call_without_an_answer_needs_no_stdout(broken: int, tmp_path: Path) -> None:
    source = tmp_path / "stdin"
    source.write_text(json.dumps(status(tmp_path)))
    with source.open("rb") as stdin:
        assert main(environment("STATUS"), stdin.fileno(), broken, 2) == 0


def test_input_that_cannot_be_read_is_code_5(broken: int) -> None:
    read, write = os.pipe()
    assert main(environment(), broken, write, 2) == 1
    os.close(write)
    with open(read, "rb") as out:
        assert json.loads(out.read())["code"] == 5


def test_input_without_end_is_code_5() -> None:
    read, write = os.pipe()
    with open("/dev/zero", "rb") as endless:
        assert main(environment(), endless.fileno(), write, 2) == 1
    os.close(write)
    with open(read, "rb") as out:
        document = json.loads(out.read())
    assert document["code"] == 5
    assert "larger than" in document["msg"]


def test_status_answers_with_nothing_and_leaves_a_line(tmp_path: Path) -> None:
    answer = call(environment("STATUS"), status(tmp_path))
    assert (answer.code, answer.stdout, answer.stderr) == (0, b"", b"")
    (line,) = (tmp_path / "log").read_text().splitlines()
    fields = json.loads(line)
    assert (fields["command"], fields["network"], fields["code"]) == ("STATUS", "pods", 0)
    assert list(fields["phases"]) == ["start", "config", "answer"]
    assert os.listdir(tmp_path) == ["log"]


def test_status_is_fine_where_the_folder_is_yet_to_be_made(tmp_path: Path) -> None:
    answer = call(environment("STATUS"), status(tmp_path, stateDir=str(tmp_path / "a/b/c")))
    assert (answer.code, answer.stdout) == (0, b"")


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_status_is_code_50_where_the_state_folder_cannot_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "file").chmod(0o755)
    answer = call(environment("STATUS"), status(tmp_path, stateDir=str(tmp_path / place)))
    assert (answer.code, answer.document["code"]) == (1, 50)
    assert f"{tmp_path}/{place} cannot be written" in answer.document["msg"]
    assert json.loads((tmp_path / "log").read_text())["code"] == 50


def test_a_log_that_cannot_be_written_fails_no_call(tmp_path: Path) -> None:
    answer = call(environment("STATUS"), status(tmp_path, log="/dev/full"))
    assert (answer.code, answer.stdout, answer.stderr) == (0, b"", b"")


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_loopback_has_nothing_to_collect_nor_to_tell(command: str) -> None:
    document = configuration(type="loopback", ipam=None, log="none", **{"cni.dev/valid-attachments": []})
    answer = call(environment(command), document)
    assert (answer.code, answer.stdout) == (0, b"")


def test_error_documents_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = call(environment(), configuration(name="a\nb"))
    assert b"\n" not in answer.stdout
    assert jsontext.loads(answer.stdout) == answer.document
