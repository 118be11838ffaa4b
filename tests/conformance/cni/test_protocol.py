"""Cases 1-11 and 15: how a plugin takes its parameters, and how it refuses wrong ones.

SPEC.md sections 2 (execution protocol) and 5 (error), and what libcni's skeleton makes of them. Nothing here gets as
far as the kernel, so these cases share a node, and `still` must be as empty at the end as it was.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.cni import site
from tests.conformance.cni.cases import case
from tests.conformance.cni.network import VERSIONS
from tests.conformance.cni.plugin import Answer
from tests.conformance.cni.workbench import Cni
from tests.lab.netns import Named

NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
}


@pytest.fixture(scope="module")
def pod(still: Cni) -> Iterator[Named]:
    """A pod in which nothing may ever appear."""
    pod = still.pod()
    before = still.holdings()
    yield pod
    assert set(site.links(pod)) == {"lo"}
    still.restored(before)


def document(cni: Cni, **changes: object) -> bytes:
    """The plugin's configuration as stdin; None removes a key."""
    return json.dumps(cni.network.document(cni.network.position, **changes)).encode()


@case(1, "S", "version_lists_all")
@pytest.mark.parametrize("stdin", [b'{"cniVersion": "1.0.0"}', b""], ids=["as specified", "empty stdin"])
def test_version_lists_versions_without_any_parameter(still: Cni, stdin: bytes) -> None:
    """SPEC.md sections 2 and 5, VERSION: CNI_COMMAND alone is required. Without stdin goes further than the text."""
    answer = still.raw(stdin, {"CNI_COMMAND": "VERSION"})
    supported = answer.ok().document["supportedVersions"]
    assert isinstance(supported, list), answer
    assert set(supported) <= set(VERSIONS), f"unpublished versions: {supported}"
    assert still.subject.network.version in supported, f"the version of the configuration is missing: {supported}"
    assert answer.document["cniVersion"] in VERSIONS
    assert answer.seconds < 5


@case(2, "R", "no_command")
def test_a_human_who_runs_it_gets_an_explanation(still: Cni) -> None:
    """libcni's skeleton prints about-text to stderr and ends with 0; stdout belongs to the protocol."""
    answer = still.raw(b"", {})
    assert answer.exit_code == 0, answer
    assert answer.stdout == "", answer
    assert answer.stderr.strip(), answer


@case(3, "S", "unknown_command")
def test_an_unknown_command_is_refused(still: Cni, pod: Named) -> None:
    still.call("FOO", "abc", pod).refused(4, says=["CNI_COMMAND"])


@case(4, "S", "missing_env")
@pytest.mark.parametrize(("verb", "variable"), [(verb, each) for verb, names in NEEDED.items() for each in names])
def test_a_missing_variable_is_named(still: Cni, pod: Named, verb: str, variable: str) -> None:
    """SPEC.md section 2: the required parameters of each verb, and in section 5 error 4, which names them."""
    if verb == "CHECK":
        still.subject.need_version("0.4.0")
    answer = still.call(verb, "abc", pod, env={variable: None}, prevResult=None if verb == "ADD" else {})
    answer.refused(4, says=[variable])


@case(4, "S", "missing_env")
def test_del_is_content_without_a_namespace(still: Cni) -> None:
    """SPEC.md, DEL: CNI_NETNS is optional."""
    still.call("DEL", "abc", env={"CNI_NETNS": None}).ok()


@case(4, "S", "missing_env")
@pytest.mark.parametrize("verb", ["GC", "STATUS"])
def test_gc_and_status_need_no_container(still: Cni, verb: str) -> None:
    still.subject.need_version("1.1.0")
    extra: dict[str, Any] = {"cni.dev/valid-attachments": []} if verb == "GC" else {}
    still.call(verb, **extra).ok()


@case(5, "S", "bad_containerid")
@pytest.mark.parametrize("container", ["-a", ".a", "a/b", "a b", "a\nb", "../../x", "ä"])
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_a_container_id_outside_the_specified_letters_is_refused(
    still: Cni, pod: Named, verb: str, container: str
) -> None:
    """SPEC.md, parameters: it begins with a letter or digit; letters, digits, underscore, dot and hyphen follow."""
    still.call(verb, container, pod).refused(4)


@case(6, "S", "ifname_too_long")
def test_an_interface_name_of_16_bytes_is_refused(still: Cni, pod: Named) -> None:
    """IFNAMSIZ is 16 with the terminating zero."""
    still.call("ADD", "abc", pod, env={"CNI_IFNAME": "a" * 16}).refused(4)


@case(7, "S", "ifname_bad")
@pytest.mark.parametrize("ifname", [".", "..", "a/b", "a:b", "a b", "a\tb", "äöüäöüäö"])
def test_an_interface_name_that_no_kernel_takes_is_refused(still: Cni, pod: Named, ifname: str) -> None:
    """SPEC.md 0.4.0, parameters, and the kernel's dev_valid_name; the last one is 8 letters in 16 bytes."""
    still.call("ADD", "abc", pod, env={"CNI_IFNAME": ifname}).refused(4)


@case(8, "S", "invalid_json")
@pytest.mark.parametrize(
    "stdin",
    [b"{", b"", b"[]", b'"x"', b'{"a": NaN}', b"\xef\xbb\xbf{}", b"{}{}", b"\xff\xfe", b"{'a': 1}"],
    ids=["cut off", "empty", "a list", "a string", "NaN", "byte order mark", "two documents", "no text", "quotes"],
)
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_stdin_that_is_no_json_object_cannot_be_decoded(still: Cni, pod: Named, verb: str, stdin: bytes) -> None:
    still.raw(stdin, still.environment(verb, "abc", pod)).refused(6)


@case(8, "S", "invalid_json")
def test_null_is_no_configuration(still: Cni, pod: Named) -> None:
    """To Go, null is an object without keys: then it lacks its name."""
    still.raw(b"null", still.environment("ADD", "abc", pod)).refused(6, 7)


@case(9, "S", "missing_name")
@pytest.mark.parametrize("name", [None, "", "-a", "a/b", "a b", "../x"])
def test_a_network_without_a_proper_name_is_invalid(still: Cni, pod: Named, name: str | None) -> None:
    """SPEC.md section 1: a name like a container id. It becomes part of paths in many plugins."""
    still.raw(document(still, name=name), still.environment("ADD", "abc", pod)).refused(7)


@case(9, "S", "missing_name")
def test_a_name_of_another_type_is_refused(still: Cni, pod: Named) -> None:
    still.raw(document(still, name=7), still.environment("ADD", "abc", pod)).refused(6, 7)


@case(10, "S", "version_unknown")
@pytest.mark.parametrize("version", ["9.9.9", "1.2.0", "0.9.0"])
@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
def test_an_unknown_version_is_incompatible_and_the_known_ones_are_listed(
    still: Cni, pod: Named, verb: str, version: str
) -> None:
    """SPEC.md section 5, error 1. libcni lists the plugin's versions: an operator sees what to write instead."""
    extra = {"prevResult": {"cniVersion": version}} if verb == "CHECK" else {}
    answer = still.raw(document(still, cniVersion=version, **extra), still.environment(verb, "abc", pod))
    answer.refused(1, says=still.subject.own_versions[-1:] if verb == "ADD" else ())


@case(11, "S", "version_garbage")
@pytest.mark.parametrize("version", ["abc", "1", "1.x.0", "1.0.0.0.0.", 1.1, ["1.0.0"]], ids=str)
def test_a_version_that_is_none_is_refused(still: Cni, pod: Named, version: object) -> None:
    still.raw(document(still, cniVersion=version), still.environment("ADD", "abc", pod)).refused(1, 6)


@case(15, "S", "verb_before_its_version")
@pytest.mark.parametrize(("verb", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")])
def test_a_verb_is_refused_in_a_version_that_does_not_have_it(still: Cni, pod: Named, verb: str, version: str) -> None:
    """CHECK came with 0.4.0, GC and STATUS with 1.1.0. libcni's skeleton answers 1 to who asks in an older version."""
    still.subject.need_version("0.4.0" if verb == "CHECK" else "1.1.0")
    if version not in still.subject.versions:
        pytest.skip(f"the plugin does not speak {version}")
    extra: dict[str, Any] = {"cni.dev/valid-attachments": []} if verb == "GC" else {}
    still.call(verb, "abc", pod, network=still.network.at(version), **extra).refused(1)


def failures(cni: Cni, pod: Named) -> Iterator[Answer]:
    """One failure of every kind that needs no state."""
    yield cni.call("FOO", "abc", pod)
    yield cni.call("ADD", "a/b", pod)
    yield cni.raw(b"{", cni.environment("ADD", "abc", pod))
    yield cni.raw(document(cni, name=None), cni.environment("ADD", "abc", pod))
    yield cni.raw(document(cni, cniVersion="9.9.9"), cni.environment("ADD", "abc", pod))
    yield cni.call("ADD", "abc", "/run/netns/there-is-none")


@case(16, "S", "error_is_json_on_stdout")
def test_every_error_is_one_document_on_stdout(still: Cni, pod: Named) -> None:
    """SPEC.md section 5 and, for stdout, 0.4.0. The overview of section 2 says stderr; libcni reads stdout."""
    for answer in failures(still, pod):
        answer.refused()
        assert answer.exit_code > 0, f"ended by a signal: {answer}"


@case(16, "S", "error_is_json_on_stdout")
def test_an_error_carries_the_version_of_the_configuration(still: Cni) -> None:
    """SPEC.md section 5, Error: there should be cniVersion, the version in use; in 0.4.0 it must."""
    for version in still.subject.versions:
        answer = still.call("ADD", "abc", "/run/netns/there-is-none", network=still.network.at(version))
        assert answer.refused().document.get("cniVersion") == version, answer
