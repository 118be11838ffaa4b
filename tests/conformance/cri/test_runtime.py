"""Cases 1-6: what the runtime says of itself, as kubelet asks for it at its start and ever after."""

from cri_shim import schema
from tests.conformance.cri.bench import Cri
from tests.conformance.cri.cases import case


@case(1, "runtime", "Version answers what kubelet demands")
def test_version_answers_what_kubelet_demands(cri: Cri) -> None:
    version = cri.call("Version", version="0.1.0")
    assert version.version == "0.1.0"
    assert version.runtime_name
    assert version.runtime_version
    assert version.runtime_api_version == "v1"


@case(2, "runtime", "Status has both conditions, and both are true")
def test_status_has_both_conditions_and_both_are_true(cri: Cri) -> None:
    conditions = {each.type: each.status for each in cri.call("Status").status.conditions}
    assert conditions.get("RuntimeReady") is True
    assert conditions.get("NetworkReady") is True


@case(3, "runtime", "Status tells more when it is asked to be verbose")
def test_status_tells_more_when_it_is_asked_to_be_verbose(cri: Cri) -> None:
    assert not cri.call("Status").info
    assert cri.call("Status", verbose=True).info


@case(4, "runtime", "RuntimeConfig names the cgroup driver, the same each time")
def test_runtime_config_names_the_cgroup_driver(cri: Cri) -> None:
    drivers = {cri.call("RuntimeConfig").linux.cgroup_driver for _ in range(3)}
    assert len(drivers) == 1
    assert drivers <= set(schema.enum("CgroupDriver").values())


@case(5, "runtime", "UpdateRuntimeConfig without a pod CIDR changes nothing, twice")
def test_update_runtime_config_without_a_pod_cidr_changes_nothing(cri: Cri) -> None:
    for _ in range(2):
        cri.call("UpdateRuntimeConfig", runtime_config={"network_config": {"pod_cidr": ""}})
    assert all(each.status for each in cri.call("Status").status.conditions)


@case(6, "runtime", "the default runtime handler is among those of Status")
def test_the_default_runtime_handler_is_among_those_of_status(cri: Cri) -> None:
    handlers = {each.name for each in cri.call("Status").runtime_handlers}
    cri.needs(bool(handlers), "Status names no runtime handlers (CRI before 0.30)")
    assert "" in handlers
    for handler in sorted(handlers - {""})[:1]:
        pod = cri.pod(handler=handler)
        assert cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status.runtime_handler == handler
