"""What an interceptor sees of a call, and that it sees nothing of grpcio."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from cri_shim.call import Call, Code, EndedBy


def test_a_path_has_a_service_and_a_name() -> None:
    call = Call("/runtime.v1.RuntimeService/Version", [])
    assert (call.service, call.name) == ("runtime.v1.RuntimeService", "Version")
    assert (Call("odd", []).service, Call("odd", []).name) == ("", "odd")


def test_an_absent_deadline_stays_absent() -> None:
    assert Call("/a/b", []).deadline is None
    assert Call("/a/b", []).time_remaining() is None


def test_the_remaining_time_shrinks_and_stops_at_zero() -> None:
    call = Call("/a/b", [], 5.0)
    remaining = call.time_remaining()
    assert remaining is not None
    assert 4 < remaining <= 5.0
    assert Call("/a/b", [], -1.0).time_remaining() == 0.0


def test_the_first_end_holds() -> None:
    call = Call("/a/b", [])
    before = call.code
    assert before is None
    call.conclude(Code.NOT_FOUND, "gone", EndedBy.RUNTIME)
    ended = call.duration
    call.conclude(Code.OK, "", EndedBy.CLIENT)
    end: tuple[int | None, str, EndedBy] = (call.code, call.text, call.ended_by)
    assert end == (Code.NOT_FOUND, "gone", EndedBy.RUNTIME)
    assert call.duration == ended


def test_the_shims_share_is_what_the_runtime_did_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    call = Call("/a/b", [])
    clock[0] = 103.0
    call.upstream_seconds = 2.0
    assert (call.duration, call.shim_seconds) == (3.0, 1.0)
    call.upstream_seconds = 3.5
    assert call.shim_seconds == 0.0


def test_codes_are_grpcs_own() -> None:
    import grpc

    assert {code.name: code.value for code in Code} == {s.name: s.value[0] for s in grpc.StatusCode}


@pytest.mark.parametrize("module", ["call", "chain", "interceptors.observe", "config", "endpoint", "__main__", "pods"])
def test_grpcio_is_not_loaded_by(module: str) -> None:
    script = f"import sys, cri_shim.{module}; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
