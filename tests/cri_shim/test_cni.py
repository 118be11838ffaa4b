"""Which plugin the runtime's configuration names, and what comes of calling it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cri_shim.cni import Answer, Plugin

OURS = {"type": "podwire", "ipam": {}, "capabilities": {"portMappings": True}}
OTHER = {"type": "bridge"}


def listed(*plugins: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "net", "plugins": list(plugins), **more}


def found(tmp_path: Path, **files: Any) -> dict[str, Any] | None:
    """What is found in a folder of these files; _ stands for the dot of a name."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name.replace("_", ".")).write_text(text)
    return Plugin("", str(tmp_path), "/opt/cni/bin").configuration()


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"a_conflist": listed(OURS)}, id="list"),
        pytest.param({"a_conflist": listed(OTHER, OURS)}, id="second-of-a-list"),
        pytest.param({"a_conf": {**OURS, "cniVersion": "1.0.0", "name": "net"}}, id="single"),
        pytest.param({"b_conflist": listed(OTHER), "a_conflist": listed(OURS)}, id="first-by-name"),
        pytest.param({"a_txt": "notes", "b_conflist": listed(OURS)}, id="beside-another-file"),
    ],
)
def test_podwires_part_is_found_as_libcni_would_pass_it(tmp_path: Path, files: dict[str, Any]) -> None:
    assert found(tmp_path, **files) == {**OURS, "name": "net", "cniVersion": "1.1.0"}


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({}, id="empty-folder"),
        pytest.param({"a_conflist": listed(OTHER), "b_conflist": listed(OURS)}, id="another-first-by-name"),
        pytest.param({"a_conflist": {"plugins": 1}}, id="no-list"),
    ],
)
def test_without_a_network_of_podwire_there_is_none(tmp_path: Path, files: dict[str, Any]) -> None:
    assert found(tmp_path, **files) is None
    assert Plugin(f"{tmp_path}/absent", str(tmp_path), "").configuration() is None
    assert Plugin("", f"{tmp_path}/absent", "").configuration() is None


@pytest.mark.parametrize("text", ["{", "[]", "\\xff"])
def test_a_file_that_cannot_be_understood_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"a\.conflist"):
        found(tmp_path, a_conflist=text)


def test_a_list_that_wants_no_gc_says_so(tmp_path: Path) -> None:
    configuration = found(tmp_path, a_conflist=listed(OURS, disableGC=True))
    assert configuration is not None
    assert configuration["disableGC"] is True


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        pytest.param("exit 0", Answer(0), id="success"),
        pytest.param(
            'echo \'{"code": 50, "msg": "full", "details": "wait"}\'; exit 1', Answer(50, "full (wait)"), id="error"
        ),
        pytest.param(
            "echo broken >&2; exit 3", Answer(-1, "{} STATUS ended with 3 and no CNI error: broken"), id="crash"
        ),
    ],
)
def test_a_call_comes_to(tmp_path: Path, script: str, answer: Answer) -> None:
    executable = tmp_path / "podwire"
    executable.write_text(f"#!/bin/sh\ncat >/dev/null\n{script}\n")
    executable.chmod(0o755)
    came = asyncio.run(Plugin("", "", str(tmp_path)).call("STATUS", {}, 10))
    assert came == Answer(answer.code, answer.text.format(executable))


def test_a_plugin_that_is_not_there_is_a_failure_that_names_it() -> None:
    answer = asyncio.run(Plugin("", "", "/no/where").call("STATUS", {}, 10))
    assert answer == Answer(-1, "/no/where/podwire cannot be executed: No such file or directory")
