"""What is added is added once and everywhere; what was there stays, known to the schema or not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from cri_shim import schema
from cri_shim.call import Call
from cri_shim.errors import ConfigError
from cri_shim.interceptors.mutate import KEYS, Action, Mutate
from cri_shim.schema import RuntimeMessage, descriptors, enum
from tests.cri_shim.passing import METHODS, Passing, create, rule, run, sandbox

MODE = enum("NamespaceMode")
KUBELETS = {"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "u-1"}
# One value for every key; a key without one is a failure of the test of idempotence.
EVERYTHING = {
    "labels": '{ "example.com/team" = "shop" }',
    "annotations": '{ "example.com/cost" = "42" }',
    "dns": '{ servers = ["169.254.20.10"], searches = ["svc.example"], options = ["ndots:2", "rotate"] }',
    "runtime_handler": '{ host = "runc", plain = "kata" }',
    "container_labels": '{ "example.com/kind" = "app" }',
    "container_annotations": '{ "example.com/note" = "n" }',
    "environment": '{ HTTP_PROXY = "http://proxy.example:3128" }',
    "mounts": '[{ host_path = "/etc/ssl/certs" }]',
    "devices": '[{ host_path = "/dev/fuse", permissions = "rwm" }]',
    "cdi_devices": '["vendor.example/net=1"]',
    "ceilings": '{ memory = "512Mi", cpus = 2 }',
}
ALL = ", ".join(f"{key} = {value}" for key, value in EVERYTHING.items())
ADDITIONS = ", ".join(f"{key} = {value}" for key, value in EVERYTHING.items() if key != "dns")


def mutate(do: str, more: str = "") -> Passing:
    return Passing(Mutate, rule("house", "mutate", do, more))


def full_pod() -> RuntimeMessage:
    return sandbox({"labels": KUBELETS, "dns_config": {"servers": ["10.96.0.10"], "options": ["ndots:5"]}})


def test_all_keys_have_a_sample_here() -> None:
    assert set(EVERYTHING) == {row.key for row in KEYS} == set(Action.__slots__)


def test_a_pod_gets_the_same_in_both_calls() -> None:
    passing = mutate(ALL)
    ran = passing.request("RunPodSandbox", run(full_pod()))
    made = passing.request("CreateContainer", create({}, full_pod()))
    assert ran.config == made.sandbox_config
    assert ran.config.labels == {**KUBELETS, "example.com/team": "shop"}
    assert ran.config.annotations == {"example.com/cost": "42"}
    assert list(ran.config.dns_config.servers) == ["169.254.20.10"]
    assert list(ran.config.dns_config.searches) == ["svc.example"]
    assert list(ran.config.dns_config.options) == ["ndots:5", "rotate"]
    assert ran.runtime_handler == "kata"


def test_a_container_gets_what_is_a_containers() -> None:
    made = mutate(ALL).request("CreateContainer", create({"labels": KUBELETS}, full_pod())).config
    assert made.labels == {**KUBELETS, "example.com/kind": "app"}
    assert made.annotations == {"example.com/note": "n"}
    assert [(one.key, one.value) for one in made.envs] == [("HTTP_PROXY", b"http://proxy.example:3128")]
    (mount,) = made.mounts
    assert (mount.container_path, mount.host_path, mount.readonly) == ("/etc/ssl/certs", "/etc/ssl/certs", True)
    (device,) = made.devices
    assert (device.container_path, device.host_path, device.permissions) == ("/dev/fuse", "/dev/fuse", "rwm")
    assert [one.name for one in made.CDI_devices] == ["vendor.example/net=1"]
    limits = made.linux.resources
    assert (limits.memory_limit_in_bytes, limits.cpu_period, limits.cpu_quota) == (512 << 20, 100_000, 200_000)


@pytest.mark.parametrize("name", ["RunPodSandbox", "CreateContainer"])
def test_adding_twice_is_adding_once(name: str) -> None:
    request = run(full_pod()) if name == "RunPodSandbox" else create({}, full_pod())
    passing = mutate(ALL)
    once = passing.frame(name, request.SerializeToString())
    assert passing.frame(name, once) is once


def test_what_is_there_is_never_changed() -> None:
    pod = sandbox({"labels": {"example.com/team": "theirs"}, "annotations": {"example.com/cost": ""}})
    theirs = {
        "labels": {"example.com/kind": "theirs"},
        "annotations": {"example.com/note": "theirs"},
        "envs": [{"key": "HTTP_PROXY", "value": b"\xff"}],
        "mounts": [{"container_path": "/etc/ssl/certs/", "host_path": "/theirs"}],
        "devices": [{"container_path": "/dev/fuse", "host_path": "/dev/theirs", "permissions": "r"}],
        "CDI_devices": [{"name": "vendor.example/net=1"}],
        "linux": {"resources": {"memory_limit_in_bytes": 1 << 20, "cpu_quota": 5000, "cpu_period": 10_000}},
    }
    request = create(theirs, pod)
    assert mutate(ADDITIONS).request("CreateContainer", request) == request


def test_kubelets_own_keys_cannot_be_named() -> None:
    for key in ("labels", "annotations", "container_labels", "container_annotations"):
        for own in ("io.kubernetes.pod.name", "io.kubernetes.container.hash", "kubernetes.io/config.source"):
            with pytest.raises(ConfigError, match="are kubelet's own"):
                mutate(f'{key} = {{ "{own}" = "x" }}')


def test_a_search_list_alone_does_not_take_the_nodes_resolvers_away() -> None:
    request = run(sandbox())
    passing = mutate('dns = { searches = ["svc.example"], options = ["rotate"] }')
    assert passing.frame("RunPodSandbox", frame := request.SerializeToString()) is frame


def test_a_container_without_its_pods_configuration_is_given_none() -> None:
    request = schema.message("CreateContainerRequest")(pod_sandbox_id="s", config={"metadata": {"name": "app"}})
    after = mutate('labels = { a = "b" }, environment = { A = "b" }').request("CreateContainer", request)
    assert not after.HasField("sandbox_config")
    assert len(after.config.envs) == 1


@pytest.mark.parametrize(
    ("security", "handler"),
    [
        pytest.param({}, "kata", id="plain"),
        pytest.param({"namespace_options": {"pid": MODE["CONTAINER"]}}, "kata", id="own-processes"),
        pytest.param({"privileged": True}, "runc", id="privileged"),
        pytest.param({"namespace_options": {"network": MODE["NODE"]}}, "runc", id="hostNetwork"),
        pytest.param({"namespace_options": {"pid": MODE["NODE"]}}, "runc", id="hostPID"),
        pytest.param({"namespace_options": {"ipc": MODE["NODE"]}}, "runc", id="hostIPC"),
    ],
)
def test_pods_of_the_host_and_others_get_their_handler(security: dict[str, Any], handler: str) -> None:
    request = run(sandbox(security_context=security))
    passing = mutate('runtime_handler = { host = "runc", plain = "kata" }')
    assert passing.request("RunPodSandbox", request).runtime_handler == handler
    assert mutate('runtime_handler = "gvisor"').request("RunPodSandbox", request).runtime_handler == "gvisor"
    assert not passing.interceptor.wants(METHODS["CreateContainer"].path)


def test_a_kind_of_pod_without_a_handler_keeps_its_own() -> None:
    passing = mutate('runtime_handler = { host = "" }')
    assert passing.request("RunPodSandbox", run(sandbox(), "kata")).runtime_handler == "kata"
    privileged = sandbox(security_context={"privileged": True})
    assert passing.request("RunPodSandbox", run(privileged, "kata")).runtime_handler == ""


MIB = 1 << 20


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        pytest.param({}, {"memory_limit_in_bytes": 512 * MIB, "cpu_quota": 50_000, "cpu_period": 100_000}, id="none"),
        pytest.param(
            {"memory_limit_in_bytes": -1, "cpu_quota": -1},
            {"memory_limit_in_bytes": 512 * MIB, "cpu_quota": 50_000, "cpu_period": 100_000},
            id="unlimited",
        ),
        pytest.param(
            {"memory_limit_in_bytes": 1024 * MIB, "cpu_quota": 40_000, "cpu_period": 50_000},
            {"memory_limit_in_bytes": 512 * MIB, "cpu_quota": 25_000, "cpu_period": 50_000},
            id="too-much",
        ),
        pytest.param(
            {"memory_limit_in_bytes": 1024 * MIB, "memory_swap_limit_in_bytes": 1124 * MIB, "cpu_quota": 1000},
            {"memory_limit_in_bytes": 512 * MIB, "memory_swap_limit_in_bytes": 612 * MIB, "cpu_quota": 1000},
            id="swap-stays",
        ),
        pytest.param(
            {"memory_limit_in_bytes": 100 * MIB, "cpu_quota": 1000, "cpu_period": 100_000, "cpu_shares": 900},
            {"memory_limit_in_bytes": 100 * MIB, "cpu_quota": 1000, "cpu_period": 100_000, "cpu_shares": 900},
            id="less",
        ),
    ],
)
def test_ceilings_only_lower(asked: dict[str, int], got: dict[str, int]) -> None:
    passing = mutate('ceilings = { memory = "512Mi", cpus = 0.5 }')
    made = passing.request("CreateContainer", create({"linux": {"resources": asked}}))
    assert made.config.linux.resources == schema.message("LinuxContainerResources")(**got)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        pytest.param({"cpu_shares": 5}, {"cpu_shares": 5}, id="what-is-not-said-stays"),
        pytest.param(
            {"memory_limit_in_bytes": 1024 * MIB, "cpu_quota": -1, "cpu_period": 100_000},
            {"memory_limit_in_bytes": 512 * MIB, "cpu_quota": 50_000, "cpu_period": 100_000},
            id="a-raise-is-lowered",
        ),
    ],
)
def test_a_resize_does_not_get_round_the_ceilings(asked: dict[str, int], got: dict[str, int]) -> None:
    passing = mutate(f'{ALL.partition("ceilings")[0]}ceilings = {{ memory = "512Mi", cpus = 0.5 }}')
    request = schema.message("UpdateContainerResourcesRequest")(container_id="c", linux=asked)
    wanted = schema.message("UpdateContainerResourcesRequest")(container_id="c", linux=got)
    assert passing.request("UpdateContainerResources", request) == wanted


def newer_schema() -> Any:
    """Message classes of an API in which every message has a field more, number 2000: a text."""
    described = descriptor_pb2.FileDescriptorSet.FromString(
        Path(descriptors.__file__).with_name(descriptors.COMPILED).read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in described.file:
        for message in file.message_type:
            message.field.add(name="newer", number=2000, type="TYPE_STRING", label="LABEL_OPTIONAL")
        pool.Add(file)
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"runtime.v1.{name}"))


def mark(message: Any) -> int:
    """Fill the new field of the message and of all it holds; how many there are."""
    marked = 1
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            marked += sum(mark(one) for one in (value if field.is_repeated else [value]))
    message.newer = "from the future"
    return marked


def marks(message: Any) -> int:
    inner = [
        one
        for field, value in message.ListFields()
        if field.message_type is not None and not field.message_type.GetOptions().map_entry
        for one in (value if field.is_repeated else [value])
    ]
    return int(message.newer == "from the future") + sum(marks(one) for one in inner)


@pytest.mark.parametrize("name", ["RunPodSandbox", "CreateContainer"])
def test_fields_of_a_newer_api_survive_at_every_depth(name: str) -> None:
    newer = newer_schema()
    pod = sandbox(
        {"labels": KUBELETS, "dns_config": {"servers": ["10.96.0.10"]}, "port_mappings": [{"host_port": 1}]},
        security_context={"namespace_options": {"pid": 1, "userns_options": {"uids": [{"length": 1}]}}},
        resources={"hugepage_limits": [{"limit": 1}]},
    )
    container = {
        "image": {"image": "i"},
        "envs": [{"key": "A"}],
        "mounts": [{"container_path": "/x", "image": {"image": "v"}}],
        "devices": [{"container_path": "/dev/x"}],
        "linux": {"resources": {"memory_limit_in_bytes": 1 << 40}, "security_context": {"capabilities": {}}},
    }
    request = run(pod) if name == "RunPodSandbox" else create(container, pod)
    message = newer(type(request).DESCRIPTOR.name).FromString(request.SerializeToString())
    placed = mark(message)
    assert placed > 10
    passing = mutate(ALL)
    after = asyncio.run(passing.interceptor.on_request(Call(METHODS[name].path, []), message.SerializeToString()))
    (counts,) = passing.tally.values()
    assert counts.changes == 1
    assert marks(type(message).FromString(after)) == placed


@pytest.mark.parametrize(
    ("do", "more", "fault"),
    [
        ("", "", "says nothing to do; known are labels, annotations"),
        ("labels = {}", "", "says nothing to do"),
        ('labels = { a = "b" }', 'match = { containers = ["app"] }', "take containers out of match"),
        ('dns = { options = ["a"] }', 'unless = { images = ["x*"] }', "take images out of unless"),
        ('runtime_handler = "x"', 'match = { methods = ["RunPodSandbox"] }', "take methods out of match"),
        ('environment = { "A=B" = "c" }', "", "no environment variable"),
        ('mounts = [{ host_path = "etc" }]', "", "mounts: 1.host_path: must be an absolute path, not 'etc'"),
        ('mounts = [{ container_path = "/etc" }]', "", "mounts: 1.host_path is missing"),
        ('mounts = [{ host_path = "/a", propagation = "shared" }]', "", "must be 'private' or 'host_to_container'"),
        ('devices = [{ host_path = "/dev/a", permissions = "x" }]', "", "must be of r, w and m in this order"),
        ('dns = { servers = ["dns.example"] }', "", "does not appear to be an IPv4 or IPv6 address"),
        ('dns = { servers = ["::1", "::2", "::3", "::4"] }', "", "holds 4 servers; resolvers ask the first 3"),
        ('ceilings = { memory = "1TB" }', "", "must be a number of bytes or such as"),
        ("ceilings = { cpus = 0.001 }", "", "must be a number of processors from 0.01"),
        ('runtime_handler = { other = "x" }', "", "unknown key 'other'; known are host, plain"),
        ('environment = { A = "b" }', 'match = { methods = ["RunPodSandbox"] }', "acts on CreateContainer, and"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_a_fault(do: str, more: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        mutate(do, more)


def test_containers_may_be_matched_for_what_is_theirs() -> None:
    passing = mutate('environment = { A = "b" }', 'match = { containers = ["sidecar"] }')
    assert not passing.request("CreateContainer", create({})).config.envs
    assert passing.request("CreateContainer", create({"metadata": {"name": "sidecar"}})).config.envs


def test_a_rule_explains_itself() -> None:
    told = {
        "labels": {"a": "b"},
        "runtime_handler": {"host": "", "plain": "kata"},
        "mounts": [{"host_path": "/etc/ssl"}],
        "ceilings": {"memory": "1Mi"},
    }
    assert Mutate.explain(Mutate.parse(told)) == (
        "labels a; runtime handler host '', plain kata; mounts /etc/ssl; ceilings memory 1048576"
    )
