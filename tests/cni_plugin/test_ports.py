"""hostPorts as the runtime passes them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cni_plugin.samples import fails, ipam_with, network

V4, V6 = [{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]


def ports(*mappings: Any, sets: tuple[list[dict[str, str]], ...] = (V4,)) -> list[str]:
    found = network(
        capabilities={"portMappings": True},
        runtimeConfig={"portMappings": list(mappings)},
        **ipam_with(ranges=list(sets)),
    )
    return [f"{port}->{port.container_port}" for port in found.host_ports]


def test_port_mappings_become_host_ports() -> None:
    assert ports(
        {"hostPort": 8080, "containerPort": 80},
        {"hostPort": 53, "containerPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"},
        {"hostPort": 9, "containerPort": 65535, "protocol": "sctp", "hostIP": ""},
        {"hostPort": 0, "containerPort": 80},
        {"containerPort": 81},
    ) == ["tcp/0.0.0.0:8080->80", "udp/192.0.2.1:53->53", "sctp/0.0.0.0:9->65535"]


def test_port_mappings_are_read_as_containerd_writes_them() -> None:
    sent = {"HostPort": 18080, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": "192.0.2.1"}
    assert ports(sent) == ["tcp/192.0.2.1:18080->8080"]


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        pytest.param({"hostPort": 65536, "containerPort": 1}, "hostPort 65536 is no port", id="port too large"),
        pytest.param({"hostPort": -1, "containerPort": 1}, "hostPort -1 is no port", id="port negative"),
        pytest.param({"hostPort": "80", "containerPort": 1}, "hostPort '80' is no port", id="port a string"),
        pytest.param({"hostPort": True, "containerPort": 1}, "hostPort True is no port", id="port true"),
        pytest.param({"hostPort": 80}, "containerPort 0 is no port", id="no container port"),
        pytest.param({"hostPort": 80, "containerPort": 1, "protocol": "icmp"}, "'icmp' is none of", id="protocol"),
        pytest.param({"hostPort": 80, "containerPort": 1, "hostIP": "::1"}, "hostIP ::1 is of a family", id="IPv6"),
        pytest.param({"hostPort": 80, "containerPort": 1, "hostIP": "fe80:"}, "hostIP: 'fe80:'", id="hostIP torn"),
        pytest.param({"hostPort": 80, "containerPort": 1, "hostIP": 5}, "hostIP: 5", id="hostIP a number"),
        pytest.param("80:80", "is no object", id="a string"),
    ],
)
def test_a_wrong_port_mapping_is_named(mapping: Any, words: str) -> None:
    with fails(7, "runtimeConfig.portMappings[0]", words):
        ports(mapping)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ((V4,), ["tcp/0.0.0.0:80->8080"]),
        ((V6,), ["tcp/[::]:80->8080"]),
        ((V6, V4), ["tcp/0.0.0.0:80->8080", "tcp/[::]:80->8080"]),
        ((V4, [{"subnet": "10.2.0.0/24"}]), ["tcp/0.0.0.0:80->8080"]),
    ],
    ids=["IPv4", "IPv6", "dual stack", "two sets of a family"],
)
def test_a_mapping_without_host_address_is_made_for_each_family_of_the_pod(
    sets: tuple[list[dict[str, str]], ...], expected: list[str]
) -> None:
    assert ports({"hostPort": 80, "containerPort": 8080}, sets=sets) == expected


def test_a_host_address_chooses_its_family() -> None:
    hosts = ("192.0.2.1", "2001:db8::1", "::", "0.0.0.0")
    mappings = [{"hostPort": 80 + at, "containerPort": 1, "hostIP": host} for at, host in enumerate(hosts)]
    assert ports(*mappings, sets=(V4, V6)) == [
        "tcp/192.0.2.1:80->1",
        "tcp/[2001:db8::1]:81->1",
        "tcp/[::]:82->1",
        "tcp/0.0.0.0:83->1",
    ]


@pytest.mark.parametrize(
    ("first", "second", "fault"),
    [
        pytest.param({}, {}, "tcp/0.0.0.0:80", id="both anywhere"),
        pytest.param({}, {"hostIP": "192.0.2.1"}, "tcp/192.0.2.1:80", id="anywhere, then one"),
        pytest.param({"hostIP": "2001:db8::1"}, {}, "tcp/[::]:80", id="one of IPv6, then anywhere"),
        pytest.param({"hostIP": "::1"}, {"hostIP": "::1"}, "tcp/[::1]:80", id="same address"),
        pytest.param({"hostIP": "::1"}, {"hostIP": "::2"}, "", id="other address"),
        pytest.param({"hostIP": "::"}, {"hostIP": "0.0.0.0"}, "", id="other family"),
        pytest.param({}, {"protocol": "udp"}, "", id="other protocol"),
        pytest.param({}, {"hostPort": 81}, "", id="other port"),
    ],
)
def test_a_host_port_may_be_given_once(first: dict[str, Any], second: dict[str, Any], fault: str) -> None:
    base = {"hostPort": 80, "containerPort": 1}
    if fault:
        with fails(7, f"portMappings[1]: hostPort {fault} is given twice"):
            ports(base | first, base | second, sets=(V4, V6))
    else:
        assert ports(base | first, base | second, sets=(V4, V6))


def test_port_mappings_that_are_no_list_are_refused() -> None:
    with fails(7, "runtimeConfig.portMappings is no list"):
        network(runtimeConfig={"portMappings": {}})
