"""The result of ADD in each version: exactly the fields that the version knows, for one family and for both."""

from __future__ import annotations

from typing import Any

import pytest

from cni_plugin import prevresult, result
from cni_plugin.ipam import format_address
from cni_plugin.spec import SUPPORTED_VERSIONS
from tests.cni_plugin.samples import attachment

DEFAULT4 = {"dst": "0.0.0.0/0", "gw": "169.254.1.1"}
DEFAULT6 = {"dst": "::/0", "gw": "fe80::1"}
IP4 = {"address": "10.1.0.5/32", "gateway": "169.254.1.1", "interface": 1}
IP6 = {"address": "fd00::5/128", "gateway": "fe80::1", "interface": 1}


def expected(version: str, texts: list[str], one: Any) -> dict[str, Any]:
    """The result of an attachment with these addresses, written out."""
    if version in ("0.1.0", "0.2.0"):
        sections: dict[str, Any] = {
            "ip4": {"ip": "10.1.0.5/32", "gateway": "169.254.1.1", "routes": [DEFAULT4]},
            "ip6": {"ip": "fd00::5/128", "gateway": "fe80::1", "routes": [DEFAULT6]},
        }
        keys = ["ip6" if ":" in each else "ip4" for each in texts]
        return {"cniVersion": version} | {key: sections[key] for key in keys}
    ends: list[dict[str, Any]] = [
        {"name": one.host_link, "mac": "02:70:77:00:00:01"},
        {"name": "eth0", "mac": one.mac.hex(":"), "sandbox": "/run/netns/c1"},
    ]
    ips: list[dict[str, Any]] = [IP6 if ":" in each else IP4 for each in texts]
    if version == "1.1.0":
        ends = [each | {"mtu": 1500} for each in ends]
    elif version != "1.0.0":
        ips = [each | {"version": "6" if ":" in each["address"] else "4"} for each in ips]
    routes = [DEFAULT6 if ":" in each else DEFAULT4 for each in texts]
    return {"cniVersion": version, "interfaces": ends, "ips": ips, "routes": routes}


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
@pytest.mark.parametrize("texts", [["10.1.0.5"], ["fd00::5"], ["fd00::5", "10.1.0.5"]], ids="+".join)
def test_a_result_has_exactly_the_fields_of_its_version(version: str, texts: list[str]) -> None:
    one = attachment("c1", "eth0", *texts)
    assert result.of_attachment(one, version, {}) == expected(version, texts, one)


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_dns_of_the_configuration_is_passed_on(version: str) -> None:
    one = attachment("c1", "eth0", "10.1.0.5")
    dns = {"nameservers": ["10.0.0.10"], "search": ["svc"]}
    assert result.of_attachment(one, version, dns) == expected(version, ["10.1.0.5"], one) | {"dns": dns}


ATTRIBUTES = {"mtu": 1400, "advmss": 1360, "priority": 5, "table": 300, "scope": 200}


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_attributes_of_a_route_are_told_from_1_1_0_on(version: str) -> None:
    one = attachment("c1", "eth0", "10.1.0.5", "fd00::5", routes=[DEFAULT4 | ATTRIBUTES, DEFAULT6, DEFAULT4])
    answer = result.of_attachment(one, version, {})
    if version in ("0.1.0", "0.2.0"):
        assert answer["ip4"]["routes"] == [DEFAULT4, DEFAULT4]
        assert answer["ip6"]["routes"] == [DEFAULT6]
    else:
        first = DEFAULT4 | ATTRIBUTES if version == "1.1.0" else DEFAULT4
        assert answer["routes"] == [first, DEFAULT6, DEFAULT4]


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_a_result_reads_back_as_a_previous_result(version: str) -> None:
    answer = result.of_attachment(attachment("c1", "eth0", "10.1.0.5", "fd00::5"), version, {})
    found = [(format_address(address), prefix) for address, prefix in prevresult.addresses(answer)]
    assert found == [("10.1.0.5", 32), ("fd00::5", 128)]
    names = [each["name"] for each in prevresult.interfaces(answer)]
    assert names == ([] if version in ("0.1.0", "0.2.0") else [attachment().host_link, "eth0"])


@pytest.mark.parametrize("previous", [{}, {"ips": None}, {"ips": [], "ip4": None, "interfaces": None}], ids=str)
def test_a_previous_result_may_be_empty(previous: dict[str, Any]) -> None:
    assert prevresult.addresses(previous) == []
    assert prevresult.interfaces(previous) == []


@pytest.mark.parametrize(
    ("previous", "words"),
    [
        ({"ips": 5}, "ips is no list of objects"),
        ({"ips": ["10.1.0.5/32"]}, "ips is no list of objects"),
        ({"ips": [{}]}, "None is no subnet"),
        ({"ips": [{"address": "10.1.0.5"}]}, "ADDRESS/PREFIX"),
        ({"ips": [{"address": "10.1.0.5/99"}]}, "prefix length"),
        ({"ip4": "10.1.0.5/32"}, "ip4 is no object"),
        ({"ip6": {}}, "None is no subnet"),
    ],
    ids=str,
)
def test_what_is_no_result_says_why(previous: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        prevresult.addresses(previous)


def test_interfaces_that_are_none_say_so() -> None:
    with pytest.raises(ValueError, match="interfaces is no list of objects"):
        prevresult.interfaces({"interfaces": ["eth0"]})
