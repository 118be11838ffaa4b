"""What a call asks for beyond the configuration: which source counts, and what is no request."""

from __future__ import annotations

from typing import Any

import pytest

from cni_plugin import config
from cni_plugin.ipam import format_address
from tests.cni_plugin.samples import fails, ipam_with, network

DUAL = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]
PODS = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart;K8S_POD_UID=u-1"


def asked(
    runtime: dict[str, Any] | None = None,
    annotations: Any = None,
    args: Any = None,
    words: str = PODS,
    command: str = "ADD",
    **changes: Any,
) -> config.Network:
    """The network of a call whose requests come from these places."""
    runtime = dict(runtime or {})
    if annotations is not None:
        runtime[config.ANNOTATIONS] = annotations
    return network(
        command,
        {"CNI_ARGS": words},
        runtimeConfig=runtime or None,
        args=None if args is None else {"cni": args},
        **{**ipam_with(ranges=DUAL), **changes},
    )


def addresses(found: config.Network) -> list[str]:
    return list(map(format_address, found.requested))


def test_nothing_asked_is_nothing_requested() -> None:
    empty = asked({"ips": [], "mac": "", "dns": None}, {"other/key": "x"}, {"ips": []})
    for found in (asked(), asked({}, {}, {}, ""), empty):
        assert (found.requested, found.mac, found.sticky, found.dns) == ([], b"", None, {})


SOURCES: dict[str, dict[str, Any]] = {
    "runtimeConfig": {"runtime": {"ips": ["10.1.0.1"], "mac": "0a:00:00:00:00:01"}},
    "annotations": {"annotations": {"podwire.dev/ips": "10.1.0.2", "podwire.dev/mac": "0a:00:00:00:00:02"}},
    "args": {"args": {"ips": ["10.1.0.3"], "mac": "0a:00:00:00:00:03"}},
    "CNI_ARGS": {"words": "IP=10.1.0.4;MAC=0a:00:00:00:00:04"},
}


@pytest.mark.parametrize("first", range(4), ids=list(SOURCES))
@pytest.mark.parametrize("second", range(4), ids=list(SOURCES))
def test_the_first_source_that_names_something_decides(first: int, second: int) -> None:
    names = list(SOURCES)
    found = asked(**{**SOURCES[names[second]], **SOURCES[names[first]]})
    winner = min(first, second) + 1
    assert (addresses(found), found.mac) == ([f"10.1.0.{winner}"], bytes((10, 0, 0, 0, 0, winner)))


def test_a_source_decides_alone_and_only_what_it_names() -> None:
    words = "IP=10.1.0.4,fd00::4;MAC=0a:00:00:00:00:04"
    found = asked({"mac": "0a:00:00:00:00:01"}, None, {"ips": ["10.1.0.3"]}, words)
    assert (addresses(found), found.mac[-1]) == (["10.1.0.3"], 1)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param({"runtime": {"ips": ["10.1.0.5/24", "fd00::5"]}}, id="runtimeConfig, with a prefix length"),
        pytest.param({"annotations": {"podwire.dev/ips": "10.1.0.5, fd00::5/64"}}, id="annotation, with a space"),
        pytest.param({"args": {"ips": ["10.1.0.5", "fd00::5/128"]}}, id="args"),
        pytest.param({"words": "IP=10.1.0.5/32,FD00::5"}, id="CNI_ARGS"),
    ],
)
def test_an_address_of_each_family_may_be_asked_for(found: dict[str, Any]) -> None:
    assert addresses(asked(**found)) == ["10.1.0.5", "fd00::5"]


@pytest.mark.parametrize("text", ["0a:58:0a:f4:00:05", "0A-58-0A-F4-00-05"])
def test_a_mac_is_read_in_both_notations(text: str) -> None:
    assert asked({"mac": text}).mac == bytes.fromhex("0a580af40005")


BAD_MACS = [
    *["", "0a:58:0a:f4:00", "0a:58:0a:f4:00:05:06", "0a580af40005", "0a:58:0a:f4:00-05", "0a:58:0a:f4:00:0g"],
    *["+a:58:0a:f4:00:05", " a:58:0a:f4:00:05", "0a:5_:0a:f4:00:05", "\u0660a:58:0a:f4:00:05", 5, [], True],
]


@pytest.mark.parametrize("mac", [each for each in BAD_MACS if each], ids=repr)
def test_a_mac_that_is_none_is_code_7(mac: Any) -> None:
    with fails(7, f"requested MAC {mac!r} is not six bytes"):
        asked({"mac": mac})


@pytest.mark.parametrize(
    "mac", ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:70:77:00:00:01"], ids=str
)
def test_a_mac_that_no_pod_may_have_is_code_7(mac: str) -> None:
    with fails(7, f"requested MAC {mac!r} is no single interface's"):
        asked({"mac": mac})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"runtime": {"ips": "10.1.0.5"}}, ["ips", "of type list"], id="ips a string"),
        pytest.param({"runtime": {"ips": [5]}}, ["requested address: 5"], id="ips of numbers"),
        pytest.param({"runtime": {"ips": ["10.1.0.5/33"]}}, ["requested address", "0-32"], id="prefix"),
        pytest.param({"runtime": {"ips": ["10.1.0"]}}, ["requested address: '10.1.0'"], id="torn"),
        pytest.param({"runtime": {"ips": ["::ffff:10.1.0.5"]}}, ["write 10.1.0.5"], id="mapped"),
        pytest.param({"runtime": {"ips": ["fd00::5", "FD00:0::5/64"]}}, ["FD00:0::5/64 is given twice"], id="twice"),
        pytest.param({"annotations": []}, [config.ANNOTATIONS, "of type dict"], id="annotations a list"),
        pytest.param({"annotations": {"podwire.dev/ips": ["10.1.0.5"]}}, ["podwire.dev/ips", "str"], id="annotation"),
        pytest.param({"annotations": {"podwire.dev/ips": "10.1.0.5,"}}, ["requested address: ''"], id="trailing comma"),
        pytest.param({"args": []}, ["cni [] must be of type dict"], id="args.cni a list"),
        pytest.param({"args": {"ips": {}}}, ["ips {} must be of type list"], id="args.cni.ips an object"),
        pytest.param({"words": "IP=x"}, ["requested address: 'x'"], id="CNI_ARGS"),
        pytest.param({"runtime": {"dns": []}}, ["dns [] must be of type dict"], id="dns a list"),
        pytest.param({"runtime": {"dns": {"servers": "x"}}}, ["servers", "of type list"], id="servers a string"),
        pytest.param({"runtime": {"dns": {"searches": [5]}}}, ["runtimeConfig.dns.searches"], id="searches of numbers"),
    ],
)
def test_a_wrong_request_is_code_7_that_names_it(changes: dict[str, Any], words: list[str]) -> None:
    with fails(7, *words):
        asked(**changes)


def test_arguments_that_are_no_object_are_code_7() -> None:
    with fails(7, "args 5 must be of type dict"):
        network(args=5)


@pytest.mark.parametrize("command", ["CHECK", "GC", "STATUS", "DEL"])
def test_other_verbs_pass_over_requests(command: str) -> None:
    wrong: dict[str, Any] = {"ips": 5, "mac": 5, "dns": 5}
    found = asked(wrong, 5, 5, PODS, command, prevResult={} if command == "CHECK" else None)
    assert (found.requested, found.mac, found.sticky) == ([], b"", None)


def test_dns_of_the_runtime_replaces_what_it_names() -> None:
    stated = {"nameservers": ["10.0.0.10"], "domain": "cluster.local", "search": ["svc"], "options": ["ndots:5"]}
    runtime = {"dns": {"servers": ["10.0.0.11", "fd00::a"], "searches": [], "options": ["ndots:2"]}}
    assert asked(runtime, dns=stated).dns == stated | {
        "nameservers": ["10.0.0.11", "fd00::a"],
        "options": ["ndots:2"],
    }


def sticky(words: str = PODS, **annotations: Any) -> tuple[str, int] | None:
    keys = {"kind": "podwire.dev/sticky", "seconds": "podwire.dev/sticky-seconds"}
    return asked(annotations={keys[name]: value for name, value in annotations.items()}, words=words).sticky


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"kind": "name"}, ("pods/eth0/name/shop/cart", 300)),
        ({"kind": "uid"}, ("pods/eth0/uid/u-1", 300)),
        ({"kind": "uid", "seconds": "1"}, ("pods/eth0/uid/u-1", 1)),
        ({"kind": "uid", "seconds": "2592000"}, ("pods/eth0/uid/u-1", 2592000)),
        ({"kind": "false"}, None),
        ({"kind": ""}, None),
        ({"seconds": "60"}, None),
    ],
    ids=str,
)
def test_addresses_are_kept_for_the_pod_of_that_name_or_uid(annotations: Any, expected: Any) -> None:
    assert sticky(**annotations) == expected


def test_the_names_of_pods_and_their_uids_are_told_apart() -> None:
    found = {
        sticky("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=a/b", kind="name"),
        sticky("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=a/b", kind="uid"),
    }
    assert len(found) == 2


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        pytest.param({"kind": "true"}, ["'true', neither 'name' nor 'uid'"], id="true"),
        pytest.param({"kind": True}, ["True, neither"], id="a bool"),
        pytest.param({"kind": ["uid"]}, ["['uid'], neither"], id="a list"),
        *[
            pytest.param({"kind": "uid", "seconds": seconds}, ["sticky-seconds", "1 to 2592000"], id=repr(seconds)[:9])
            for seconds in ("0", "-1", "1.5", "", "2592001", "soon", "²", "٣", 60, "9" * 5000)
        ],
    ],
)
def test_a_wrong_wish_to_be_kept_is_code_7(annotations: dict[str, Any], words: list[str]) -> None:
    with fails(7, *words):
        sticky(**annotations)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [("uid", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart"), ("name", "K8S_POD_UID=u-1"), ("name", "")],
)
def test_a_pod_that_the_runtime_does_not_tell_cannot_be_kept_for(kind: str, arguments: str) -> None:
    with fails(7, f"is {kind!r}, but the runtime told no pod {kind} in CNI_ARGS"):
        sticky(arguments, kind=kind)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with fails(7, "requested address: 'x'", "requested MAC 'y'", "servers", "neither 'name' nor 'uid'"):
        asked({"ips": ["x"], "mac": "y", "dns": {"servers": 1}}, {"podwire.dev/sticky": "z"})
