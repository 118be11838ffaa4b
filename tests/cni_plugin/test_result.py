"""The result of ADD in each version: exactly the fields that the version knows."""

from __future__ import annotations

from typing import Any

import pytest

from cni_plugin import result
from cni_plugin.spec import SUPPORTED_VERSIONS
from tests.cni_plugin.samples import attachment

ONE = attachment(address=b"\x0a\1\0\5", routes=["0.0.0.0/0", "10.0.0.0/8"])
ROUTES = [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "10.0.0.0/8", "gw": "169.254.1.1"}]
HOST_END = {"name": ONE.host_link, "mac": "02:70:77:00:00:01"}
POD_END = {"name": "eth0", "mac": "0a:58:0a:01:00:05", "sandbox": "/run/netns/c1"}
IP = {"address": "10.1.0.5/32", "gateway": "169.254.1.1", "interface": 1}

SHAPES: dict[str, dict[str, Any]] = {
    **{
        version: {
            "cniVersion": version,
            "ip4": {"ip": "10.1.0.5/32", "gateway": "169.254.1.1", "routes": ROUTES},
        }
        for version in ("0.1.0", "0.2.0")
    },
    **{
        version: {
            "cniVersion": version,
            "interfaces": [HOST_END, POD_END],
            "ips": [IP | {"version": "4"}],
            "routes": ROUTES,
        }
        for version in ("0.3.0", "0.3.1", "0.4.0")
    },
    "1.0.0": {"cniVersion": "1.0.0", "interfaces": [HOST_END, POD_END], "ips": [IP], "routes": ROUTES},
    "1.1.0": {
        "cniVersion": "1.1.0",
        "interfaces": [HOST_END | {"mtu": 1500}, POD_END | {"mtu": 1500}],
        "ips": [IP],
        "routes": ROUTES,
    },
}


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_a_result_has_exactly_the_fields_of_its_version(version: str) -> None:
    assert result.of_attachment(ONE, version, {}) == SHAPES[version]


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_dns_of_the_configuration_is_passed_on(version: str) -> None:
    dns = {"nameservers": ["10.0.0.10"], "search": ["svc"]}
    assert result.of_attachment(ONE, version, dns) == SHAPES[version] | {"dns": dns}
