"""Cases 141-146: codes and texts of errors, which kubelet reads."""

from typing import Any

import grpc
import pytest

from cri_shim import schema
from tests.conformance.cri.bench import Cri
from tests.conformance.cri.cases import case
from tests.conformance.cri.client import METHODS
from tests.conformance.cri.test_pods import UNKNOWN_ID
from tests.lab.cri import CriError

# Method -> the field of the id, and what else the request needs.
OF_ID: dict[str, tuple[str, dict[str, Any]]] = {
    "PodSandboxStatus": ("pod_sandbox_id", {}),
    "ContainerStatus": ("container_id", {}),
    "StartContainer": ("container_id", {}),
    "ExecSync": ("container_id", {"cmd": ["true"]}),
    "Exec": ("container_id", {"cmd": ["true"], "stdout": True}),
    "Attach": ("container_id", {"stdout": True}),
    "PortForward": ("pod_sandbox_id", {"port": [80]}),
    "ReopenContainerLog": ("container_id", {}),
    "UpdateContainerResources": ("container_id", {"linux": {"cpu_shares": 2}}),
    "ContainerStats": ("container_id", {}),
    "PodSandboxStats": ("pod_sandbox_id", {}),
    "CheckpointContainer": ("container_id", {"location": "/nowhere/checkpoint.tar"}),
}
# kubelet acts on NOT_FOUND of these; of the others the error alone matters to it.
MUST_SAY_NOT_FOUND = {"PodSandboxStatus", "ContainerStatus"}
NO_ANSWER = {grpc.StatusCode[name] for name in ("UNIMPLEMENTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")}


@case(141, "errors", "what is asked of an unknown id is refused; by the status calls with NOT_FOUND")
@pytest.mark.parametrize("method", OF_ID)
def test_what_is_asked_of_an_unknown_id_is_refused(cri: Cri, method: str) -> None:
    field, more = OF_ID[method]
    error = cri.refused(method, **{field: UNKNOWN_ID, **more})
    if method in MUST_SAY_NOT_FOUND:
        assert error.code is grpc.StatusCode.NOT_FOUND
    assert error.code not in NO_ANSWER
    assert UNKNOWN_ID in error.details or "not found" in error.details


@case(142, "errors", "a container in an unknown pod is refused")
def test_a_container_in_an_unknown_pod_is_refused(cri: Cri) -> None:
    pod, _ = cri.resident()
    request = {**cri.request(pod), "pod_sandbox_id": UNKNOWN_ID}
    assert UNKNOWN_ID in cri.refused("CreateContainer", **request).details


@case(143, "errors", "a call ends at its client's deadline with DEADLINE_EXCEEDED")
def test_a_call_ends_at_its_clients_deadline(cri: Cri) -> None:
    container = cri.started()
    error = raw(cri, "ExecSync", {"container_id": container, "cmd": ["sleep", "20"]}, timeout=1)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED


@case(144, "errors", "a method that does not exist is UNIMPLEMENTED")
@pytest.mark.parametrize(
    "path", ["/runtime.v1.RuntimeService/NoSuchMethod", "/runtime.v1alpha9.RuntimeService/Version"]
)
def test_a_method_that_does_not_exist_is_unimplemented(cri: Cri, path: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        cri.endpoint.sockets.send(path, b"", 20)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    cri.note(path, raised.value.details() or "")


@case(145, "errors", "a request that is no message is refused, and the next call is answered")
def test_a_request_that_is_no_message_is_refused(cri: Cri) -> None:
    error = raw(cri, "ContainerStatus", b"\xff\xff\xff\xff", timeout=20)
    assert error.code is not grpc.StatusCode.OK
    assert cri.call("Version").runtime_name


@case(146, "errors", "an error's text of many lines arrives as it is")
def test_an_errors_text_arrives_as_it_is(cri: Cri) -> None:
    _, container = cri.resident()
    command = "/no/such/" + "ünï" * 20 + "\n" + "second line " * 200
    error = cri.refused("ExecSync", container_id=container, cmd=[command], timeout=10)
    assert "second line second line" in error.details


def raw(cri: Cri, name: str, request: dict[str, Any] | bytes, timeout: float) -> CriError:
    """A call with a deadline of its own, or with bytes for a request, that must fail; its error is compared."""
    method = METHODS[name]
    body = request if isinstance(request, bytes) else schema.message(method.request)(**request).SerializeToString()
    with pytest.raises(grpc.RpcError) as raised:
        cri.endpoint.sockets.send(method.path, body, timeout)
    error = CriError(name, raised.value.code(), raised.value.details() or "")
    cri.note(f"the code of {name}", error.code.name)
    return error
