"""The variables of a call: which each verb needs, and what they may hold."""

from __future__ import annotations

import pytest

from cni_plugin.call import Call
from tests.cni_plugin.samples import environment, fails


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("DEL", ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
        ("CHECK", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("GC", ["CNI_PATH"]),
        ("STATUS", ["CNI_PATH"]),
    ],
)
def test_missing_variables_are_code_4_that_names_them_all(command: str, needed: list[str]) -> None:
    with fails(4, f"{command} needs {', '.join(needed)}, which is not set"):
        Call({"CNI_COMMAND": command})
    present = dict.fromkeys(needed, "x")
    for name in needed:
        with fails(4, f"{command} needs {name}, which is not set"):
            Call({"CNI_COMMAND": command, **present, name: ""})
    assert Call({"CNI_COMMAND": command, **present}).command == command


def test_version_needs_nothing() -> None:
    assert Call({"CNI_COMMAND": "VERSION"}).command == "VERSION"


@pytest.mark.parametrize("command", ["add", "UPDATE", "ADD ", "\udcff"])
def test_an_unknown_command_is_code_4(command: str) -> None:
    with fails(4, f"CNI_COMMAND {command!r} is none of ADD, DEL, CHECK, GC, STATUS, VERSION"):
        Call(environment(command))


@pytest.mark.parametrize("container_id", ["a", "0", "A.b_c-d", "x" * 200])
def test_a_container_id_of_the_specification_is_taken(container_id: str) -> None:
    assert Call(environment(CNI_CONTAINERID=container_id)).container_id == container_id


@pytest.mark.parametrize(
    "container_id", [".a", "-a", "_a", "a/b", "../a", "a b", "a\n", "ä", "a\udcff", "x" * 201], ids=ascii
)
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
def test_another_container_id_is_code_4(command: str, container_id: str) -> None:
    with fails(4, "CNI_CONTAINERID", "must begin with a letter or digit"):
        Call(environment(command, CNI_CONTAINERID=container_id))


@pytest.mark.parametrize("ifname", ["e", "eth0", "fifteen-bytes--", "eth0.100", "...", "é", "日本語", "a=b"])
def test_an_interface_name_that_the_kernel_takes_is_taken(ifname: str) -> None:
    assert Call(environment(CNI_IFNAME=ifname)).ifname == ifname


@pytest.mark.parametrize(
    ("ifname", "words"),
    [
        pytest.param("sixteen-bytes---", "has 16 bytes, the kernel takes 15", id="16 bytes"),
        pytest.param("日本語日本語", "has 18 bytes", id="6 letters of 18 bytes"),
        pytest.param(".", "must not be '.'", id="dot"),
        pytest.param("..", "must not be '.'", id="two dots"),
        pytest.param("a/b", "must not", id="slash"),
        pytest.param("a:b", "must not", id="colon"),
        pytest.param("a b", "must not", id="space"),
        pytest.param("a\tb", "must not", id="tab"),
        pytest.param("a\n", "must not", id="line feed"),
        pytest.param("a\x01", "must not", id="control character"),
        pytest.param("a\u2003b", "must not", id="em space"),
        pytest.param("à", "0xa0", id="a letter that ends in the byte 0xa0, white space to the kernel"),
        pytest.param("eth%d", "'%'", id="a pattern that the kernel would number"),
        pytest.param("eth\udcff", "is not UTF-8", id="a byte that is not UTF-8"),
    ],
)
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
def test_another_interface_name_is_code_4(command: str, ifname: str, words: str) -> None:
    with fails(4, "CNI_IFNAME", words):
        Call(environment(command, CNI_IFNAME=ifname))


def test_several_faults_are_reported_at_once() -> None:
    with fails(4, "CNI_CONTAINERID '.'", "CNI_IFNAME 'a/b'", "CNI_ARGS holds 'x'"):
        Call(environment(CNI_CONTAINERID=".", CNI_IFNAME="a/b", CNI_ARGS="x"))


def test_kubernetes_arguments_name_the_pod() -> None:
    arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-1;K8S_POD_INFRA_CONTAINER_ID=c;X=y"
    call = Call(environment(CNI_ARGS=arguments))
    assert call.pod == "shop/cart-1"
    assert call.args["X"] == "y"
    assert Call(environment()).pod == ""


@pytest.mark.parametrize("word", ["1", "true", "True", "TRUE"])
def test_unknown_arguments_are_let_by_on_request(word: str) -> None:
    assert Call(environment(CNI_ARGS=f"COLOR=1;IgnoreUnknown={word}")).args["COLOR"] == "1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param("COLOR=1;SIZE=2", "holds unknown COLOR, SIZE", id="unknown keys"),
        pytest.param("COLOR=1;IgnoreUnknown=0", "holds unknown COLOR", id="not ignored"),
        pytest.param("K8S_POD_NAME", "'K8S_POD_NAME', which is not KEY=VALUE", id="no equals sign"),
        pytest.param("K8S_POD_NAME=a=b", "'K8S_POD_NAME=a=b', which is not KEY=VALUE", id="two equals signs"),
        pytest.param("K8S_POD_NAME=a;", "'', which is not KEY=VALUE", id="trailing semicolon"),
    ],
)
def test_other_arguments_are_code_4(arguments: str, words: str) -> None:
    for command in ("ADD", "CHECK"):
        with fails(4, "CNI_ARGS", words):
            Call(environment(command, CNI_ARGS=arguments))


@pytest.mark.parametrize("command", ["DEL", "GC", "STATUS", "VERSION"])
def test_other_verbs_do_not_read_arguments(command: str) -> None:
    assert Call(environment(command, CNI_ARGS="rubbish")).args == {}
