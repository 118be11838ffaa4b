"""conf render: what is rendered is what the plugin takes; what is refused is one clear error."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import config
from cni_plugin.call import Call
from cni_plugin.net import render
from cni_plugin.net.__main__ import main
from cni_plugin.spec import SUPPORTED_VERSIONS

REPOSITORY = Path(__file__).parents[2]


ADD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "pod",
    "CNI_NETNS": "/proc/1/ns/net",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/",
}


def subnets(low: int, high: int) -> st.SearchStrategy[str]:
    """IPv4 subnets of these prefix lengths, without host bits."""

    def text(number: int, prefix: int) -> str:
        base = number >> (32 - prefix) << (32 - prefix)
        return ".".join(str(base >> shift & 255) for shift in (24, 16, 8, 0)) + f"/{prefix}"

    return st.builds(text, st.integers(0, 2**32 - 1), st.integers(low, high))


OPTIONS = st.builds(
    render.Options,
    pod_cidrs=st.lists(subnets(8, 32), min_size=1, max_size=1),
    cluster_cidrs=st.lists(subnets(1, 32), max_size=3),
    name=st.none() | st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,30}", fullmatch=True),
    cni_version=st.none() | st.sampled_from(SUPPORTED_VERSIONS),
    mtu=st.none() | st.just(0) | st.integers(68, 65535),
    masquerade=st.none() | st.booleans(),
    state_dir=st.none() | st.sampled_from(["/run/podwire", "/var/lib/pod wire"]),
    log=st.none() | st.sampled_from(["syslog", "none", "/var/log/podwire"]),
)


@given(OPTIONS)
def test_what_is_rendered_is_what_the_plugin_takes_and_says_what_was_asked(options: render.Options) -> None:
    document = json.loads(render.render(options))
    [entry] = document["plugins"]
    network = config.network({**entry, "cniVersion": document["cniVersion"], "name": document["name"]}, Call(ADD))
    assert entry["ipam"]["ranges"] == [[{"subnet": subnet}] for subnet in options.pod_cidrs]
    assert network.no_masquerade == options.cluster_cidrs
    for asked, told in (
        (options.name, network.name),
        (options.cni_version, network.cni_version),
        (options.mtu, network.mtu),
        (options.masquerade, network.ip_masq),
        (options.state_dir, network.state_dir),
        (options.log, network.log),
    ):
        assert asked is None or asked == told


@given(st.builds(render.Options, pod_cidrs=st.lists(st.text(), max_size=3), name=st.none() | st.text()))
def test_whatever_is_asked_is_rendered_or_refused_with_a_reason(options: render.Options) -> None:
    try:
        render.render(options)
    except render.RenderError as refusal:
        assert str(refusal)  # noqa: PT017 - either outcome is right


def test_the_shipped_conflist_is_what_the_template_gives() -> None:
    shipped = json.loads((REPOSITORY / "conf" / "10-podwire.conflist").read_text())
    rendered = json.loads(render.render(render.Options(["10.244.0.0/24"], ["10.244.0.0/16"])))
    assert rendered == shipped


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pod-cidr", "10.0.0.0/33"], "pod CIDR '10.0.0.0/33' has no prefix length"),
        (["--pod-cidr", "10.0.0.1/24"], "has host bits set; the subnet is 10.0.0.0/24"),
        (["--pod-cidr", "10.0.0.0/24", "--pod-cidr", "10.1.0.0/24"], "give one, or one of each family"),
        (["--pod-cidr", "10.0.0.0/24", "--cluster-cidr", "x"], "cluster CIDR 'x'"),
        (["--pod-cidr", "10.0.0.0/24", "--mtu", "7"], "mtu 7 is neither"),
        (["--pod-cidr", "10.0.0.0/24", "--name", "a b"], "name 'a b' must begin"),
        (["--pod-cidr", "10.0.0.0/24", "--log", "here"], "log 'here' is no absolute path"),
        (["--pod-cidr", "10.0.0.0/24", "--template", "/nothing"], "template /nothing"),
        (["--pod-cidr", "10.0.0.0/24", "--write", "/nothing/at/all"], "/nothing/at/all cannot be written"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_refusal_is_one_line_that_says_why(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conf", "render", *arguments]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("podwire-net: ")
    assert told.err.count("\n") == 1
    assert words in told.err


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"plugins": 7}', '{"plugins": []}', '{"plugins": [{"type": "ptp"}]}', '{"plugins": [{"type": []}]}'],
)
def test_a_template_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "template"
    path.write_text(text)
    with pytest.raises(render.RenderError, match=str(path)):
        render.render(render.Options(["10.0.0.0/24"], template=path))


def test_a_template_keeps_what_no_option_says(tmp_path: Path) -> None:
    path = tmp_path / "template"
    own = {"type": "podwire", "ipam": {"ranges": [], "exclude": ["10.0.0.9"]}, "mtu": 1400, "example.com/x": 1}
    chain = {"cniVersion": "1.1.0", "name": "shop", "plugins": [own, {"type": "tuning", "sysctl": {}}]}
    path.write_text(json.dumps(chain))
    document = json.loads(render.render(render.Options(["10.0.0.0/24"], template=path)))
    assert document["plugins"][1] == {"type": "tuning", "sysctl": {}}
    assert document["plugins"][0] == own | {
        "ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}]], "exclude": ["10.0.0.9"]},
    }


def test_writing_replaces_the_file_whole_and_leaves_an_equal_one_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "10-podwire.conflist"
    render_it = ["conf", "render", "--pod-cidr", "10.0.0.0/24", "--write", str(path)]
    assert main(render_it) == 0
    assert capsys.readouterr().out == f"{path}: written\n"
    first = path.stat()
    assert stat.S_IMODE(first.st_mode) == 0o644
    assert main(render_it) == 0
    assert capsys.readouterr().out == f"{path}: unchanged\n"
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert main([*render_it, "--mtu", "1400", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["changed"]) == (str(path), True)
    assert path.stat().st_ino != first.st_ino
    assert path.read_text() == told["conflist"]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_draft_that_a_killed_call_left_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "10-podwire.conflist"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    (tmp_path / ".10-podwire.conflist.new").symlink_to(elsewhere)
    assert render.write(path, "{}") is True
    assert path.read_text() == "{}"
    assert not path.is_symlink()
    assert elsewhere.read_text() == "kept"


@pytest.mark.root
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "10-podwire.conflist"
    path.write_text("old")
    child = os.fork()
    if child == 0:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            render.write(path, "x" * 100)
        except render.RenderError:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
