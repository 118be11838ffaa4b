"""A call's configuration: every key right and wrong, every fault at once, and how little DEL needs of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import config
from cni_plugin.spec import SUPPORTED_VERSIONS
from tests.cni_plugin.samples import configuration, fails

VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
GC_KEY = "cni.dev/valid-attachments"


def judged(command: str = "ADD", **changes: Any) -> config.Network:
    return config.network(configuration(**changes), command)


def ipam_with(**changes: Any) -> dict[str, Any]:
    section: dict[str, Any] = {"ranges": [[{"subnet": "10.1.0.0/24"}]], **changes}
    return {"ipam": {key: value for key, value in section.items() if value is not None}}


def test_a_minimal_configuration_gets_the_defaults() -> None:
    network = judged()
    assert (network.cni_version, network.name, network.type) == ("1.1.0", "pods", "podwire")
    assert str(network.range_set) == "10.1.0.1-10.1.0.254"
    assert (network.cooldown, network.routes, network.mtu, network.dns) == (30, ["0.0.0.0/0"], 0, {})
    assert (network.ip_masq, network.no_masquerade, network.wants_host_ports) == (False, [], False)
    assert (network.state_dir, network.log) == ("/run/podwire", "syslog")
    assert (network.host_ports, network.prev_result, network.valid_attachments) == ([], None, None)


def test_every_key_arrives() -> None:
    network = judged(
        ipMasq=True,
        noMasquerade=["10.0.0.0/8", "192.0.2.1"],
        mtu=1400,
        stateDir="/var/lib/pw/",
        log="/var/log/pw.log",
        dns={"nameservers": ["10.0.0.10"]},
        capabilities={"portMappings": True, "bandwidth": False},
        **ipam_with(
            type="podwire",
            ranges=[[{"subnet": "10.1.0.0/24", "gateway": "10.1.0.1"}, {"subnet": "10.2.0.0/30"}]],
            exclude=["10.1.0.2", "10.1.0.128/25"],
            routes=[{"dst": "10.0.0.0/8"}, {"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8"}],
            cooldownSeconds=0,
        ),
    )
    assert (network.ip_masq, network.no_masquerade, network.mtu) == (True, ["10.0.0.0/8", "192.0.2.1"], 1400)
    assert (network.state_dir, network.log) == ("/var/lib/pw", "/var/log/pw.log")
    assert network.dns == {"nameservers": ["10.0.0.10"]}
    assert network.wants_host_ports
    assert network.range_set.size() == 254 - 1 - 1 - 127 + 2
    assert (network.routes, network.cooldown) == (["10.0.0.0/8", "0.0.0.0/0"], 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"name": None}, ["name None"], id="name missing"),
        pytest.param({"name": 5}, ["name 5"], id="name a number"),
        pytest.param({"name": "a/b"}, ["name 'a/b'"], id="name with a slash"),
        pytest.param({"name": ".hidden"}, ["name '.hidden'"], id="name begins with a dot"),
        pytest.param({"name": "n" * 201}, ["name 'n"], id="name too long"),
        pytest.param({"type": None}, ["type is missing"], id="type missing"),
        pytest.param({"type": 1}, ["type is missing"], id="type a number"),
        pytest.param({"ipMasq": "yes"}, ['ipMasq "yes" must be of type bool'], id="ipMasq a string"),
        pytest.param({"ipMasq": 1}, ["ipMasq 1 must be of type bool"], id="ipMasq a number"),
        pytest.param({"mtu": True}, ["mtu true must be of type int"], id="mtu true"),
        pytest.param({"mtu": 1500.0}, ["mtu 1500.0 must be of type int"], id="mtu a float"),
        pytest.param({"mtu": 67}, ["mtu 67 is neither"], id="mtu too small"),
        pytest.param({"mtu": 65536}, ["mtu 65536 is neither"], id="mtu too large"),
        pytest.param({"mtu": -1}, ["mtu -1 is neither"], id="mtu negative"),
        pytest.param({"dns": []}, ["dns [] must be of type dict"], id="dns a list"),
        pytest.param({"stateDir": 1}, ["stateDir 1 must be of type str"], id="stateDir a number"),
        pytest.param({"stateDir": "run"}, ["stateDir 'run'", "absolute path"], id="stateDir relative"),
        pytest.param({"stateDir": "syslog"}, ["stateDir 'syslog'", "absolute path"], id="stateDir syslog"),
        pytest.param({"stateDir": ""}, ["stateDir ''"], id="stateDir empty"),
        pytest.param({"stateDir": "/a\0b"}, ["stateDir '/a\\x00b'"], id="stateDir with NUL"),
        pytest.param({"stateDir": "/\ud800"}, ["stateDir '/\\ud800'"], id="stateDir with a surrogate"),
        pytest.param({"log": "stderr"}, ["log 'stderr'", "nor syslog, nor none"], id="log unknown"),
        pytest.param({"log": "/a\0b"}, ["log '/a\\x00b'"], id="log with NUL"),
        pytest.param({"log": False}, ["log false must be of type str"], id="log a bool"),
        pytest.param({"noMasquerade": "10.0.0.0/8"}, ["noMasquerade", "of type list"], id="noMasquerade a string"),
        pytest.param({"noMasquerade": ["10.0.0.1/8"]}, ["noMasquerade: ", "host bits"], id="noMasquerade host bits"),
        pytest.param({"noMasquerade": [None]}, ["noMasquerade: None"], id="noMasquerade null"),
        pytest.param({"capabilities": ["portMappings"]}, ["capabilities", "type dict"], id="capabilities a list"),
        pytest.param({"capabilities": {"bandwidth": True}}, ["capabilities.bandwidth"], id="capability unknown"),
        pytest.param({"ipam": None}, ["ipam is missing"], id="ipam missing"),
        pytest.param({"ipam": []}, ["ipam is missing"], id="ipam a list"),
        pytest.param({"ipam": {}}, ["ipam.ranges must be"], id="ipam empty"),
        pytest.param(ipam_with(type="host-local"), ["ipam.type 'host-local'"], id="ipam.type foreign"),
        pytest.param(ipam_with(cooldownSeconds="1"), ["cooldownSeconds"], id="cooldownSeconds a string"),
        pytest.param(ipam_with(cooldownSeconds=1.5), ["cooldownSeconds"], id="cooldownSeconds a float"),
        pytest.param(ipam_with(cooldownSeconds=-1), ["cooldownSeconds -1 is negative"], id="cooldownSeconds negative"),
        pytest.param(ipam_with(exclude={}), ["exclude {} must be of type list"], id="exclude an object"),
        pytest.param(ipam_with(exclude=["10.1.0.x"]), ["ipam.exclude: "], id="exclude no address"),
        pytest.param(ipam_with(routes={}), ["routes {} must be of type list"], id="routes an object"),
        pytest.param(ipam_with(routes=["0.0.0.0/0"]), ["ipam.routes[0] takes dst alone"], id="route a string"),
        pytest.param(
            ipam_with(routes=[{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]), ["ipam.routes[0]"], id="route with gateway"
        ),
        pytest.param(ipam_with(routes=[{}]), ["ipam.routes[0].dst"], id="route without dst"),
        pytest.param(ipam_with(routes=[{"dst": "10.0.0.1/8"}]), ["ipam.routes[0].dst", "host bits"], id="route bits"),
        pytest.param(ipam_with(ranges=None), ["ipam.ranges must be"], id="ranges missing"),
        pytest.param(ipam_with(ranges=[]), ["ipam.ranges must be"], id="ranges empty"),
        pytest.param(ipam_with(ranges=[[]]), ["ipam.ranges must be"], id="range set empty"),
        pytest.param(ipam_with(ranges=[{"subnet": "10.1.0.0/24"}]), ["ipam.ranges must be"], id="ranges flat"),
        pytest.param(ipam_with(ranges=[[5]]), ["ipam.ranges[0][0] is no object"], id="range a number"),
        pytest.param(
            ipam_with(ranges=[[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]),
            ["holds 2 range sets"],
            id="two range sets",
        ),
        pytest.param(ipam_with(ranges=[[{"subnet": "fd00::/64"}]]), ["IPv6"], id="IPv6 range"),
        pytest.param(
            ipam_with(ranges=[[{"subnet": "10.1.0.0/24"}, {"subnet": "10.1.0.0/25"}]]),
            ["ipam.ranges[0][1]: 10.1.0.0/25 overlaps 10.1.0.0/24"],
            id="ranges overlap",
        ),
        pytest.param({"prevResult": {}}, ["prevResult is given"], id="prevResult at ADD"),
        pytest.param({"runtimeConfig": []}, ["runtimeConfig is no object"], id="runtimeConfig a list"),
    ],
)
def test_a_wrong_value_is_code_7_that_names_key_and_value(changes: dict[str, Any], words: list[str]) -> None:
    with fails(7, *words):
        judged(**changes)


def test_every_fault_is_reported_at_once() -> None:
    with fails(7, "name 'a b'", "mtu 1", "stateDir", "log 'x'", "noMasquerade", "cooldownSeconds -5", "exclude", "dst"):
        judged(
            name="a b",
            mtu=1,
            stateDir="x",
            log="x",
            noMasquerade=["y"],
            **ipam_with(cooldownSeconds=-5, exclude=["z"], routes=[{"gw": 1}]),
        )


@pytest.mark.parametrize("mtu", [0, 68, 1500, 65535])
def test_an_mtu_within_the_limits_is_taken(mtu: int) -> None:
    assert judged(mtu=mtu).mtu == mtu


@pytest.mark.parametrize(("given", "taken"), [("/", "/"), ("/run//", "/run"), ("/with space", "/with space")])
def test_a_state_folder_loses_its_trailing_slashes_only(given: str, taken: str) -> None:
    assert judged(stateDir=given).state_dir == taken


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"ipMask": True}, ["unknown key ipMask with value true", "did you mean ipMasq?"], id="typing slip"
        ),
        pytest.param({"zzz": [1]}, ["unknown key zzz with value [1]", "known here: cniVersion"], id="nothing close"),
        pytest.param(ipam_with(range=[]), ["unknown key ipam.range with value []", "ranges?"], id="in ipam"),
        pytest.param(
            ipam_with(ranges=[[{"subnet": "10.1.0.0/24", "rangestart": "10.1.0.9"}]]),
            ['unknown key ipam.ranges[0][0].rangestart with value "10.1.0.9"', "did you mean rangeStart?"],
            id="in a range",
        ),
    ],
)
@pytest.mark.parametrize("command", ["ADD", "CHECK", "GC", "STATUS"])
def test_an_unknown_key_is_code_2_with_key_value_and_suggestion(
    command: str, changes: dict[str, Any], words: list[str]
) -> None:
    with fails(2, *words):
        judged(command, **{GC_KEY: [], "prevResult": {} if command == "CHECK" else None}, **changes)


def test_keys_of_a_domain_pass() -> None:
    foreign: dict[str, Any] = {"example.com/color": "red", GC_KEY: 5}
    judged(**foreign)
    judged(ipam={"ranges": [[{"subnet": "10.1.0.0/24"}]], "example.com/x": 1})


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_every_supported_version_is_taken(version: str) -> None:
    assert judged(cniVersion=version).cni_version == version
    assert config.echo_version({"cniVersion": version}) == version


@pytest.mark.parametrize("document", [{}, {"cniVersion": ""}], ids=["missing", "empty"])
def test_no_version_means_0_1_0(document: dict[str, Any]) -> None:
    assert config.version_of(document) == "0.1.0"


@pytest.mark.parametrize("version", ["0.5.0", "2.0.0", "1.0", "v1.0.0", "1.0.0 "])
def test_an_unknown_version_is_code_1_with_the_supported_ones(version: str) -> None:
    with fails(1, f"cniVersion {version!r} is not supported", ", ".join(SUPPORTED_VERSIONS)):
        judged(cniVersion=version)
    assert config.echo_version({"cniVersion": version}) == "1.1.0"


@pytest.mark.parametrize("version", [1, 1.1, True, ["1.0.0"], {}], ids=repr)
def test_a_version_that_is_no_string_is_code_6(version: Any) -> None:
    with fails(6, "cniVersion", "is no string"):
        judged(cniVersion=version)
    assert config.echo_version({"cniVersion": version}) == "1.1.0"


@pytest.mark.parametrize(
    ("command", "too_old", "since"),
    [
        *[("CHECK", version, "0.4.0") for version in ("0.1.0", "0.2.0", "0.3.0", "0.3.1")],
        *[(verb, version, "1.1.0") for verb in ("GC", "STATUS") for version in ("0.1.0", "0.4.0", "1.0.0")],
    ],
)
def test_a_verb_below_its_version_is_code_1(command: str, too_old: str, since: str) -> None:
    with fails(1, f"{command} came with CNI {since}", f"says {too_old}", f"set cniVersion to {since}"):
        judged(command, cniVersion=too_old)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"ipam": None}, id="ipam missing"),
        pytest.param({"ipam": {"ranges": "garbage", "unknown": 1}}, id="ipam broken"),
        pytest.param({"mtu": "big", "ipMasq": 7, "dns": 3}, id="values of wrong types"),
        pytest.param({"mtu": 5}, id="mtu too small"),
        pytest.param({"log": "nowhere"}, id="log unknown"),
        pytest.param({"noMasquerade": ["x"]}, id="noMasquerade broken"),
        pytest.param({"capabilities": {"bandwidth": True}}, id="capability unknown"),
        pytest.param({"colour": "red"}, id="unknown key"),
        pytest.param({"prevResult": "rubbish"}, id="prevResult broken"),
        pytest.param({"runtimeConfig": {"portMappings": [{"hostPort": "x"}]}}, id="runtimeConfig broken"),
    ],
)
def test_delete_judges_only_what_it_needs(changes: dict[str, Any]) -> None:
    network = judged("DEL", stateDir="/run/elsewhere", **changes)
    assert (network.name, network.state_dir) == ("pods", "/run/elsewhere")


def test_delete_does_not_guess_where_its_records_are() -> None:
    with fails(7, "stateDir 'x'"):
        judged("DEL", stateDir="x")


@pytest.mark.parametrize("changes", [{GC_KEY: []}, {"cni.dev/attachments": []}], ids=["new key", "old key"])
def test_garbage_collection_takes_either_key(changes: dict[str, Any]) -> None:
    assert judged("GC", **changes).valid_attachments == []


def test_garbage_collection_keeps_what_either_key_names() -> None:
    network = judged(
        "GC",
        **{
            GC_KEY: [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b"}],
            "cni.dev/attachments": [{"containerID": "c", "ifname": None}],
        },
    )
    assert network.valid_attachments == [("a", "eth0"), ("b", ""), ("c", "")]


def test_garbage_collection_without_a_list_is_code_7() -> None:
    with fails(7, f"{GC_KEY} is missing", "nothing was removed"):
        judged("GC")


@pytest.mark.parametrize(
    "attachments",
    [{}, "a", ["a"], [{"ifname": "eth0"}], [{"containerID": 5}], [{"containerID": "a", "ifname": 5}]],
    ids=repr,
)
def test_a_garbled_list_removes_nothing(attachments: Any) -> None:
    with fails(7, GC_KEY):
        judged("GC", **{GC_KEY: attachments})


@pytest.mark.parametrize("previous", [None, [], "x"], ids=repr)
def test_check_needs_a_previous_result(previous: Any) -> None:
    with fails(7, "prevResult is missing"):
        judged("CHECK", prevResult=previous)


def test_the_role_of_loopback_needs_no_addresses() -> None:
    network = judged(type="loopback", ipam=None, prevResult={"ips": []}, anything=1)
    assert (network.type, network.prev_result) == ("loopback", {"ips": []})


def ports(*mappings: Any) -> list[str]:
    network = judged(capabilities={"portMappings": True}, runtimeConfig={"portMappings": list(mappings)})
    return [f"{port}->{port.container_port}" for port in network.host_ports]


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
        pytest.param({"hostPort": 80, "containerPort": 1, "hostIP": "::1"}, "hostIP: '::1' is IPv6", id="IPv6"),
        pytest.param({"hostPort": 80, "containerPort": 1, "hostIP": 5}, "hostIP: 5", id="hostIP a number"),
        pytest.param("80:80", "is no object", id="a string"),
    ],
)
def test_a_wrong_port_mapping_is_named(mapping: Any, words: str) -> None:
    with fails(7, "runtimeConfig.portMappings[0]", words):
        ports(mapping)


def test_a_host_port_may_be_given_once() -> None:
    with fails(7, "portMappings[1]: hostPort tcp/0.0.0.0:80 is given twice"):
        ports({"hostPort": 80, "containerPort": 1}, {"hostPort": 80, "containerPort": 2})


def test_port_mappings_that_are_no_list_are_refused() -> None:
    with fails(7, "runtimeConfig.portMappings is no list"):
        judged(runtimeConfig={"portMappings": {}})


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"null", b"{}{}"], ids=repr)
def test_standard_input_that_is_no_object_is_code_6(raw: bytes) -> None:
    with fails(6, "the network configuration on stdin"):
        config.decode(raw)


def test_the_shipped_configuration_says_what_the_defaults_are() -> None:
    shipped = json.loads((Path(__file__).parents[2] / "conf/10-podwire.conflist").read_text())
    (plugin,) = shipped["plugins"]
    full = {"cniVersion": shipped["cniVersion"], "name": shipped["name"], **plugin}
    network = config.network(full, "ADD")
    bare = {**full, "ipam": {"ranges": plugin["ipam"]["ranges"]}}
    for key in ("mtu", "stateDir", "log"):
        del bare[key]
    coded = config.network(bare, "ADD")
    for name in ("mtu", "state_dir", "log", "cooldown", "routes", "dns", "prev_result"):
        assert getattr(network, name) == getattr(coded, name), name
    assert str(network.range_set) == str(coded.range_set)
    assert network.range_set.excluded == []
    assert (network.ip_masq, network.wants_host_ports) == (True, True)
