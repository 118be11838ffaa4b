"""A call's configuration: every key right and wrong, every fault at once, and how little DEL needs of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import config
from cni_plugin.call import Call
from cni_plugin.spec import SUPPORTED_VERSIONS
from tests.cni_plugin.samples import environment, fails, ipam_with, network

GC_KEY = "cni.dev/valid-attachments"


def test_a_minimal_configuration_gets_the_defaults() -> None:
    found = network()
    assert (found.cni_version, found.name, found.type) == ("1.1.0", "pods", "podwire")
    assert list(map(str, found.range_sets)) == ["10.1.0.1-10.1.0.254"]
    assert (found.cooldown, found.routes, found.mtu, found.dns) == (30, [{"dst": "0.0.0.0/0"}], 0, {})
    assert (found.ip_masq, found.no_masquerade, found.wants_host_ports) == (False, [], False)
    assert (found.state_dir, found.log, found.chained) == ("/run/podwire", "syslog", [])
    assert (found.host_ports, found.prev_result, found.requested) == ([], None, [])
    assert (found.mac, found.sticky) == (b"", None)


def test_every_key_arrives() -> None:
    found = network(
        ipMasq=True,
        noMasquerade=["10.0.0.0/8", "192.0.2.1", "fd00::/8"],
        mtu=1400,
        stateDir="/var/lib/pw/",
        log="/var/log/pw.log",
        dns={"nameservers": ["10.0.0.10"]},
        capabilities={"portMappings": True, "bandwidth": False},
        **ipam_with(type="podwire", cooldownSeconds=0),
    )
    assert (found.ip_masq, found.mtu, found.cooldown) == (True, 1400, 0)
    assert found.no_masquerade == ["10.0.0.0/8", "192.0.2.1", "fd00::/8"]
    assert (found.state_dir, found.log) == ("/var/lib/pw", "/var/log/pw.log")
    assert found.dns == {"nameservers": ["10.0.0.10"]}
    assert found.wants_host_ports


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
        pytest.param(
            ipam_with(routes=[{"dst": "10.9.0.0/16", "mtu": "big"}]), ['ipam.routes[0].mtu "big"'], id="mtu of a route"
        ),
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
        pytest.param({"chained": "portMappings"}, ["chained", "of type list"], id="chained a string"),
        pytest.param(
            {"chained": ["bandwidth"]}, ['chained ["bandwidth"]: it can be ["portMappings"]'], id="chained unknown"
        ),
        pytest.param({"chained": ["portMappings"] * 2}, ["chained", "it can be"], id="chained twice"),
        pytest.param({"chained": [["portMappings"]]}, ["chained", "it can be"], id="chained nested"),
        pytest.param({"chained": ["portMappings"]}, ["prevResult is missing"], id="chained first in the list"),
        pytest.param(
            {"chained": ["portMappings"], "prevResult": {"ips": 5}},
            ["prevResult: ips is no list of objects"],
            id="chained behind rubbish",
        ),
        pytest.param({"ipam": None}, ["ipam is missing"], id="ipam missing"),
        pytest.param({"ipam": []}, ["ipam is missing"], id="ipam a list"),
        pytest.param({"ipam": {}}, ["ipam.ranges must be"], id="ipam empty"),
        pytest.param(ipam_with(type="host-local"), ["ipam.type 'host-local'"], id="ipam.type foreign"),
        pytest.param(ipam_with(cooldownSeconds="1"), ["cooldownSeconds"], id="cooldownSeconds a string"),
        pytest.param(ipam_with(cooldownSeconds=3601), ["cooldownSeconds 3601 is not from 0"], id="cooldown too long"),
        pytest.param(ipam_with(cooldownSeconds=1.5), ["cooldownSeconds"], id="cooldownSeconds a float"),
        pytest.param(
            ipam_with(cooldownSeconds=-1), ["cooldownSeconds -1 is not from 0 to 3600"], id="cooldownSeconds negative"
        ),
        pytest.param(
            {"prevResult": {}}, ["prevResult is given", '"chained": ["portMappings"]'], id="prevResult at ADD"
        ),
        pytest.param({"runtimeConfig": []}, ["runtimeConfig is no object"], id="runtimeConfig a list"),
    ],
)
def test_a_wrong_value_is_code_7_that_names_key_and_value(changes: dict[str, Any], words: list[str]) -> None:
    with fails(7, *words):
        network(**changes)


def test_every_fault_is_reported_at_once() -> None:
    with fails(
        7, "name 'a b'", "mtu 1", "stateDir", "log 'x'", "noMasquerade", "cooldownSeconds -5", "exclude", "routes[0]"
    ):
        network(
            name="a b",
            mtu=1,
            stateDir="x",
            log="x",
            noMasquerade=["y"],
            **ipam_with(cooldownSeconds=-5, exclude=["z"], routes=[{"gw": 1}]),
        )


@pytest.mark.parametrize("mtu", [0, 68, 1500, 65535])
def test_an_mtu_within_the_limits_is_taken(mtu: int) -> None:
    assert network(mtu=mtu).mtu == mtu


@pytest.mark.parametrize(("given", "taken"), [("/", "/"), ("/run//", "/run"), ("/with space", "/with space")])
def test_a_state_folder_loses_its_trailing_slashes_only(given: str, taken: str) -> None:
    assert network(stateDir=given).state_dir == taken


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
        network(command, prevResult={} if command == "CHECK" else None, **changes)


def test_keys_of_a_domain_pass() -> None:
    foreign: dict[str, Any] = {"example.com/color": "red", GC_KEY: 5}
    network(**foreign)
    network(ipam={"ranges": [[{"subnet": "10.1.0.0/24"}]], "example.com/x": 1})


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_every_supported_version_is_taken(version: str) -> None:
    assert network(cniVersion=version).cni_version == version
    assert config.echo_version({"cniVersion": version}) == version


@pytest.mark.parametrize("document", [{}, {"cniVersion": ""}], ids=["missing", "empty"])
def test_no_version_means_0_1_0(document: dict[str, Any]) -> None:
    assert config.version_of(document) == "0.1.0"


@pytest.mark.parametrize("version", ["0.5.0", "2.0.0", "1.0", "v1.0.0", "1.0.0 "])
def test_an_unknown_version_is_code_1_with_the_supported_ones(version: str) -> None:
    with fails(1, f"cniVersion {version!r} is not supported", ", ".join(SUPPORTED_VERSIONS)):
        network(cniVersion=version)
    assert config.echo_version({"cniVersion": version}) == "1.1.0"


@pytest.mark.parametrize("version", [1, 1.1, True, ["1.0.0"], {}], ids=repr)
def test_a_version_that_is_no_string_is_code_6(version: Any) -> None:
    with fails(6, "cniVersion", "is no string"):
        network(cniVersion=version)
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
        network(command, cniVersion=too_old)


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
        pytest.param({"runtimeConfig": {"ips": 5, "mac": 5}, "args": 5}, id="requests broken"),
        pytest.param({"chained": 7}, id="chained broken"),
        pytest.param({"chained": ["portMappings"]}, id="chained without prevResult"),
    ],
)
def test_delete_judges_only_what_it_needs(changes: dict[str, Any]) -> None:
    found = network("DEL", stateDir="/run/elsewhere", **changes)
    assert (found.name, found.state_dir) == ("pods", "/run/elsewhere")


def test_delete_does_not_guess_where_its_records_are() -> None:
    with fails(7, "stateDir 'x'"):
        network("DEL", stateDir="x")


@pytest.mark.parametrize("previous", [None, [], "x"], ids=repr)
def test_check_needs_a_previous_result(previous: Any) -> None:
    with fails(7, "prevResult is missing"):
        network("CHECK", prevResult=previous)


def test_the_role_of_loopback_needs_no_addresses() -> None:
    found = network(type="loopback", ipam=None, prevResult={"ips": []}, anything=1)
    assert (found.type, found.prev_result) == ("loopback", {"ips": []})


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"null", b"{}{}"], ids=repr)
def test_standard_input_that_is_no_object_is_code_6(raw: bytes) -> None:
    with fails(6, "the network configuration on stdin"):
        config.decode(raw)


def test_the_shipped_configuration_says_what_the_defaults_are() -> None:
    shipped = json.loads((Path(__file__).parents[2] / "conf/10-podwire.conflist").read_text())
    (plugin,) = shipped["plugins"]
    full = {"cniVersion": shipped["cniVersion"], "name": shipped["name"], **plugin}
    found = config.network(full, Call(environment()))
    bare = {**full, "ipam": {"ranges": plugin["ipam"]["ranges"]}}
    for key in ("mtu", "stateDir", "log"):
        del bare[key]
    coded = config.network(bare, Call(environment()))
    for name in ("mtu", "state_dir", "log", "cooldown", "routes", "dns", "prev_result"):
        assert getattr(found, name) == getattr(coded, name), name
    assert list(map(str, found.range_sets)) == list(map(str, coded.range_sets))
    assert all(each.excluded == [] for each in found.range_sets)
    assert (found.ip_masq, found.wants_host_ports) == (True, True)


PREVIOUS = {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.5/24"}, {"address": "fd09::5/64"}]}


def test_behind_another_plugin_the_mappings_are_for_the_families_of_its_result() -> None:
    found = network(
        chained=["portMappings"],
        ipam=None,
        prevResult=PREVIOUS,
        runtimeConfig={"portMappings": [{"hostPort": 80, "containerPort": 8080}]},
    )
    assert (found.chained, found.range_sets, found.prev_result) == (["portMappings"], [], PREVIOUS)
    assert list(map(str, found.host_ports)) == ["tcp/0.0.0.0:80", "tcp/[::]:80"]


@pytest.mark.parametrize("command", ["CHECK", "GC", "STATUS", "DEL"])
def test_the_other_verbs_need_no_addresses_behind_another_plugin(command: str) -> None:
    assert network(command, chained=["portMappings"], ipam=None, prevResult=PREVIOUS).range_sets == []


@pytest.mark.parametrize("name", config.CAPABILITIES)
def test_a_capability_that_it_has_may_be_declared(name: str) -> None:
    assert network(capabilities={name: True}).wants_host_ports is (name == "portMappings")
