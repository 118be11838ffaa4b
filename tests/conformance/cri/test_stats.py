"""Cases 111-117: what pods, containers and images use."""

import pytest

from tests.conformance.cri.bench import LABEL, Cri
from tests.conformance.cri.cases import case
from tests.lab.waiting import wait_until


@case(111, "stats", "ContainerStats names the container and measures processor, memory and disk")
def test_container_stats_names_and_measures(cri: Cri) -> None:
    _, container = cri.resident()
    stats = cri.call("ContainerStats", container_id=container).stats
    assert stats.attributes.id == container
    assert stats.attributes.metadata.name == "main"
    assert stats.attributes.labels["role"] == "resident"
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert stats.memory.working_set_bytes.value > 0
    assert stats.cpu.timestamp > 0


@case(112, "stats", "processor time grows where work is done")
def test_processor_time_grows_where_work_is_done(cri: Cri) -> None:
    container = cri.started("while true; do true; done")

    def used() -> int:
        return int(cri.ask("ContainerStats", container_id=container).stats.cpu.usage_core_nano_seconds.value)

    first = used()
    wait_until(lambda: used() > first + 10**7, 20, "ten milliseconds of processor time")


@case(113, "stats", "ListContainerStats has what its filter lets through")
@pytest.mark.parametrize("by", ["id", "pod_sandbox_id", "label_selector"])
def test_list_container_stats_has_what_its_filter_lets_through(cri: Cri, by: str) -> None:
    pod, container = cri.resident()
    other = cri.started()
    value = {"id": container, "pod_sandbox_id": pod.id, "label_selector": {"role": "resident"}}[by]
    found = cri.call("ListContainerStats", filter={by: value}).stats
    identities = [each.attributes.id for each in found]
    assert container in identities
    assert other not in identities


@case(114, "stats", "PodSandboxStats measures the pod and names its containers")
def test_pod_sandbox_stats_measures_the_pod(cri: Cri) -> None:
    pod, container = cri.resident()
    stats = cri.call("PodSandboxStats", pod_sandbox_id=pod.id).stats
    assert stats.attributes.id == pod.id
    assert stats.attributes.metadata.name == "resident"
    assert stats.linux.cpu.timestamp > 0
    assert stats.linux.network.default_interface.name == "eth0"
    assert stats.linux.process.process_count.value >= 1
    assert [each.attributes.id for each in stats.linux.containers] == [container]


@case(115, "stats", "ListPodSandboxStats has what its filter lets through")
@pytest.mark.parametrize("by", ["id", "label_selector"])
def test_list_pod_sandbox_stats_has_what_its_filter_lets_through(cri: Cri, by: str) -> None:
    pod, _ = cri.resident()
    value = {"id": pod.id, "label_selector": {LABEL: cri.endpoint.token}}[by]
    found = cri.call("ListPodSandboxStats", filter={by: value}).stats
    assert [each.attributes.id for each in found] == [pod.id]


@case(116, "stats", "ImageFsInfo measures the filesystem of the images")
def test_image_fs_info_measures_the_filesystem_of_the_images(cri: Cri) -> None:
    def measured() -> bool:
        """Runtimes measure in the background, for the first time some seconds after their start."""
        systems = cri.ask("ImageFsInfo").image_filesystems
        return bool(systems) and all(each.used_bytes.value > 0 for each in systems)

    wait_until(measured, 30, "a measurement of the images' filesystem", every=0.5)
    for each in cri.call("ImageFsInfo").image_filesystems:
        assert each.fs_id.mountpoint
        assert each.timestamp > 0


@case(117, "stats", "every metric of ListPodSandboxMetrics is described")
def test_every_metric_is_described(cri: Cri) -> None:
    cri.resident()
    described = {each.name for each in cri.call("ListMetricDescriptors").descriptors}
    pods = cri.ask("ListPodSandboxMetrics").pod_metrics
    named = {metric.name for pod in pods for metric in pod.metrics}
    named |= {metric.name for pod in pods for each in pod.container_metrics for metric in each.metrics}
    assert named <= described
