"""The description of runtime.v1: complete, fresh, private, and harmless to what it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.unknown_fields import UnknownFieldSet

from cri_shim import schema
from cri_shim.errors import UnknownMessageError
from cri_shim.schema import descriptors

FOLDER = Path(descriptors.__file__).parent


@pytest.mark.parametrize("compiled", [descriptors.COMPILED, descriptors.CONTAINERD])
def test_the_compiled_description_is_fresh(tmp_path: Path, compiled: str) -> None:
    from grpc_tools import protoc

    out, source = tmp_path / "fresh.binpb", compiled.replace(".binpb", ".proto")
    assert protoc.main(["protoc", f"-I{FOLDER}", f"--descriptor_set_out={out}", source]) == 0
    fresh = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    committed = descriptor_pb2.FileDescriptorSet.FromString((FOLDER / compiled).read_bytes())
    assert committed == fresh, f"run the protoc command at the head of {source}"


def test_methods_hold_both_services_with_their_cardinality() -> None:
    methods = schema.methods()
    runtime = [m for m in methods.values() if m.service == "runtime.v1.RuntimeService"]
    image = [m for m in methods.values() if m.service == "runtime.v1.ImageService"]
    assert (len(runtime), len(image)) == (35, 6)
    assert {m.name for m in methods.values() if m.server_streaming} == {
        "GetContainerEvents",
        "StreamPodSandboxes",
        "StreamContainers",
        "StreamContainerStats",
        "StreamPodSandboxStats",
        "StreamPodSandboxMetrics",
        "StreamImages",
    }
    assert not any(m.client_streaming for m in methods.values())
    assert methods["/runtime.v1.RuntimeService/Version"].unary
    assert not methods["/runtime.v1.RuntimeService/GetContainerEvents"].unary


def test_every_request_and_response_has_a_class() -> None:
    for method in schema.methods().values():
        assert schema.message(method.request).DESCRIPTOR.full_name == f"runtime.v1.{method.request}"
        assert schema.message(method.response).DESCRIPTOR.full_name == f"runtime.v1.{method.response}"


def test_an_unknown_message_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(UnknownMessageError, match=r"'RunPodSandboxReqest'; did you mean 'RunPodSandboxRequest'\?"):
        schema.message("RunPodSandboxReqest")
    with pytest.raises(LookupError, match="no enum 'ContainerStat'; did you mean 'ContainerState'"):
        schema.enum("ContainerStat")


def test_enums_are_numbers_by_name() -> None:
    assert schema.enum("ContainerState")["CONTAINER_RUNNING"] == 1
    assert schema.enum("NamespaceMode")["NODE"] == 2


def test_the_default_pool_is_left_alone() -> None:
    schema.message("VersionRequest")
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("runtime.v1.VersionRequest")


def test_secrets_are_marked_for_redaction() -> None:
    fields = schema.message("AuthConfig").DESCRIPTOR.fields
    assert {f.name for f in fields if f.GetOptions().debug_redact} == {
        "password",
        "auth",
        "identity_token",
        "registry_token",
    }


def test_unknown_fields_survive_a_change_at_any_depth() -> None:
    inner = b"\x0a\x03pod" + b"\xfa\x7f\x02hi"  # metadata.name, then field 2047
    config = b"\x0a" + bytes([len(inner)]) + inner + b"\xfa\x7f\x02yo"
    request = schema.message("RunPodSandboxRequest").FromString(b"\x0a" + bytes([len(config)]) + config)
    request.config.hostname = "changed"
    again = schema.message("RunPodSandboxRequest").FromString(request.SerializeToString())
    config_again = again.config
    assert config_again.hostname == "changed"
    outer, inner_set = UnknownFieldSet(config_again), UnknownFieldSet(config_again.metadata)
    assert (outer[0].data, inner_set[0].data) == (b"yo", b"hi")


def test_environment_values_need_not_be_utf8() -> None:
    entry = schema.message("KeyValue").FromString(b"\x0a\x01k\x12\x02\xff\xfe")
    assert entry.value == b"\xff\xfe"
