"""Whatever comes in: one JSON document or nothing comes out, in bounded time and memory, and no file elsewhere."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni_plugin.attachment import Attachment, parse
from tests.lab.threadnode import ThreadNode

REPOSITORY = Path(__file__).resolve().parents[2]
VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
SECONDS = 12
bounded = settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Outcome:
    """What one call did."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.code: int = answer["code"]
        self.stdout: str = answer["stdout"]
        self.stderr: str = answer["stderr"]
        self.written: list[str] = answer["written"]
        self.seconds: float = answer["seconds"]


class Target:
    """A node on which `main` runs in forks of one process, and everything writable but its own folder is watched."""

    def __init__(self, node: ThreadNode) -> None:
        self.node = node
        self.pod = node.pod("pod")
        # The default state folder and syslog of a configuration that names none.
        node.run(["mount", "-t", "tmpfs", "none", "/run"])
        self.process = node.do(
            subprocess.Popen,
            [sys.executable, "-m", "tests.lab.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def call(self, verb: str, stdin: bytes, **environment: str) -> Outcome:
        """One call; `environment` is laid over that of a runtime."""
        whole = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "abc", "CNI_IFNAME": "eth0", "CNI_NETNS": self.pod}
        whole |= {"CNI_PATH": "/opt/cni/bin", "PATH": os.environ["PATH"]} | environment
        encoded = {name: value.encode(errors="surrogateescape").decode("latin-1") for name, value in whole.items()}
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"environment": encoded, "stdin": stdin.decode("latin-1")}) + "\n")
        self.process.stdin.flush()
        return Outcome(json.loads(self.process.stdout.readline()))

    def judge(self, outcome: Outcome) -> None:
        """What holds for every call."""
        told = f"{outcome.stdout[:300]} {outcome.stderr[-1500:]}"
        assert outcome.code in (0, 1), told
        document = json.loads(outcome.stdout) if outcome.stdout else None
        assert document is None or isinstance(document, dict), told
        if outcome.code == 1:
            assert document, "no error document"
            assert isinstance(document["code"], int), told
            assert document["code"] != 999, told
            assert document["msg"], told
        else:
            assert not document or "code" not in document, told
        assert outcome.seconds < SECONDS, f"{outcome.seconds:.1f} s: {told}"
        own = (f"{self.node.state_dir}", "/run/podwire")
        for written in outcome.written:
            path = os.path.normpath(written)
            kept = any(path == folder or path.startswith(f"{folder}/") for folder in own)
            # mkdir -p of the state folder tries its parents.
            parent = any(folder.startswith(f"{path}/") for folder in own)
            kernel = path.startswith(("/proc/sys/net/", "/dev/null"))
            assert kept or parent or kernel or path == str(self.node.log), f"wrote {written}"

    def run(self, verb: str, stdin: bytes, **environment: str) -> Outcome:
        """A call that is judged, and undone by DEL where it may have attached something."""
        outcome = self.call(verb, stdin, **environment)
        self.judge(outcome)
        if verb == "ADD" and outcome.code == 0:
            undone = self.call("DEL", json.dumps(self.node.config).encode(), **environment)
            self.judge(undone)
            assert undone.code == 0
        return outcome


@pytest.fixture(scope="module")
def target(launcher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One node for all examples."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    with ThreadNode(launcher, tmp_path_factory.mktemp("hostile")) as node:
        made = Target(node)
        yield made
        made.close()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
awkward = st.sampled_from(
    ["", ".", "..", "../../etc/x", "/", "a/b", "a" * 300, "x" * 70000, "\u0000", "\ud800", "eth0\n", "-rf", "%s", "*",
     "0.0.0.0", "::", "fe80::1%eth0", "10.244.0.5/33", "::ffff:1.2.3.4", "255.255.255.255", "127.0.0.1/8", "1e999"]
)  # fmt: skip
wild = values | awkward | st.sampled_from([-1, 0, 1 << 16, 1 << 31, 1 << 63, 1 << 70])
KEYS = {
    "": ("cniVersion", "name", "type", "ipMasq", "noMasquerade", "mtu", "chained", "capabilities", "dns", "args",
         "ipam", "prevResult", "runtimeConfig", "cni.dev/valid-attachments", "cni.dev/attachments", "podwire.dev/gc"),
    "ipam": ("type", "ranges", "exclude", "routes", "cooldownSeconds"),
    "runtimeConfig": ("portMappings", "ips", "mac", "ipRanges", "dns", "io.kubernetes.cri.pod-annotations"),
    "prevResult": ("cniVersion", "interfaces", "ips", "routes", "dns"),
    "args": ("cni",),
}  # fmt: skip
ENTRIES = {
    "ranges": st.lists(st.lists(st.dictionaries(
        st.sampled_from(["subnet", "rangeStart", "rangeEnd", "gateway"]), wild, max_size=4), max_size=2), max_size=3),
    "portMappings": st.lists(st.fixed_dictionaries({}, optional={
        key: st.integers(-2, 70000) | wild for key in ("hostPort", "containerPort", "protocol", "hostIP")}),
        max_size=3),
    "routes": st.lists(st.fixed_dictionaries({}, optional={
        key: wild | st.just("10.0.0.0/8") for key in ("dst", "gw", "mtu", "advmss", "priority", "table", "scope")}),
        max_size=3),
    "ips": st.lists(awkward | st.just("10.244.0.9/24") | st.fixed_dictionaries({"address": wild}), max_size=3),
    "interfaces": st.lists(st.dictionaries(st.sampled_from(["name", "mac", "sandbox", "mtu"]), wild, max_size=4)),
}  # fmt: skip


@st.composite
def configurations(draw: st.DrawFn, base: dict[str, Any]) -> bytes:
    """A valid configuration of which up to three keys, at any depth, became something else."""
    document: dict[str, Any] = json.loads(json.dumps(base))
    for _ in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from(list(KEYS)))
        key = draw(st.sampled_from(KEYS[section]))
        place = document.setdefault(section, {}) if section else document
        if isinstance(place, dict):
            place[key] = draw(ENTRIES[key] | wild if key in ENTRIES else wild)
    return json.dumps(document).encode(errors="surrogatepass")


@bounded
@given(verb=st.sampled_from(VERBS), stdin=st.binary(max_size=3000))
def test_any_bytes_on_stdin(target: Target, verb: str, stdin: bytes) -> None:
    target.run(verb, stdin)


@bounded
@given(verb=st.sampled_from(VERBS), document=st.dictionaries(st.sampled_from(KEYS[""]) | st.text(max_size=9), wild))
def test_any_json_on_stdin(target: Target, verb: str, document: dict[str, Any]) -> None:
    target.run(verb, json.dumps(document).encode(errors="surrogatepass"))


@settings(bounded, max_examples=300)
@given(verb=st.sampled_from(VERBS), data=st.data())
def test_any_value_in_place_of_a_valid_one(target: Target, verb: str, data: st.DataObject) -> None:
    target.run(verb, data.draw(configurations(target.node.config)))


words = awkward.filter(lambda text: "\0" not in text) | st.text(
    st.characters(exclude_characters="\0", codec="utf-8"), max_size=40
)


@settings(bounded, max_examples=300)
@given(
    verb=st.sampled_from(VERBS) | words,
    environment=st.fixed_dictionaries(
        {}, optional={f"CNI_{name}": words for name in ("CONTAINERID", "IFNAME", "NETNS", "PATH", "ARGS")}
    ),
)
def test_any_environment(target: Target, verb: str, environment: dict[str, str]) -> None:
    environment = {name: value.encode(errors="replace").decode() for name, value in environment.items()}
    if verb.isascii() and verb:
        target.run(verb, json.dumps(target.node.config).encode(), **environment)


pairs = st.lists(st.tuples(st.sampled_from(
    ["IgnoreUnknown", "K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_UID", "IP", "MAC", "GATEWAY", "x"]
), words), max_size=5)  # fmt: skip


@bounded
@given(verb=st.sampled_from(["ADD", "CHECK"]), held=pairs)
def test_any_cni_args(target: Target, verb: str, held: list[tuple[str, str]]) -> None:
    text = ";".join(f"{key}={value.encode(errors='replace').decode()}" for key, value in held)
    target.run(verb, json.dumps(target.node.config).encode(), CNI_ARGS=text)


@bounded
@given(raw=st.binary(max_size=400) | wild.map(lambda value: json.dumps(value).encode(errors="surrogatepass")))
def test_any_bytes_as_a_record_are_a_record_or_a_value_error(raw: bytes) -> None:
    try:
        parse(raw)
    except ValueError:
        pass


FIELDS = sorted(json.loads(Attachment("c", "i", "n", "p", "/n", 1, "l", 1, 1, b"", [], [], 0, [], None, 0.0).text()))


@settings(bounded, max_examples=80)
@given(changed=st.dictionaries(st.sampled_from(FIELDS), wild, min_size=1, max_size=2))
def test_any_field_of_a_record(target: Target, changed: dict[str, Any]) -> None:
    stdin = json.dumps(target.node.config).encode()
    added = target.call("ADD", stdin)
    assert added.code == 0, added.stdout
    path = next(target.node.state_dir.glob("*/attachments/pw*"))
    record = json.loads(path.read_text()) | changed
    path.write_bytes(json.dumps(record).encode(errors="surrogatepass"))
    try:
        previous = json.loads(added.stdout)
        target.judge(target.call("CHECK", json.dumps(target.node.config | {"prevResult": previous}).encode()))
        deleted = target.call("DEL", stdin)
        target.judge(deleted)
        assert deleted.code == 0, deleted.stdout
        assert target.node.addresses()["pod"] == []
    finally:
        # Whatever became of it, the next example begins with an empty node.
        target.node.forget_state()
        target.call("DEL", stdin)


@settings(bounded, max_examples=25)
@given(verb=st.sampled_from(VERBS), data=st.data())
def test_the_executable_itself(target: Target, verb: str, data: st.DataObject) -> None:
    stdin = data.draw(configurations(target.node.config) | st.binary(max_size=500))
    executable = target.node.executable.with_name("podwire")
    reply = target.node.call(verb, "abc", target.pod, stdin=stdin, executable=executable)
    assert reply.exit_code in (0, 1), reply
    assert reply.code != 999, reply
    if reply.stdout:
        assert isinstance(reply.json, dict)
    if verb == "ADD":
        assert target.node.call("DEL", "abc", target.pod, executable=executable).exit_code == 0
