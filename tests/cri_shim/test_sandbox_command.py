"""podwire-cri status and sandbox: what is read out of a runtime's answers, and what is said of wrong use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cri_shim.cli import __main__ as cli
from cri_shim.cli import sandbox, status

CNI = {
    "Networks": [
        {"Config": {"Name": "cni-loopback", "Plugins": [{"Network": {"type": "loopback"}}]}, "IFName": "lo"},
        {
            "Config": {
                "Name": "kindnet",
                "Plugins": [{"Network": {"type": "ptp"}}, {"Network": {"type": "portmap"}}],
            },
            "IFName": "eth0",
        },
    ]
}


@pytest.mark.parametrize(
    ("info", "told"),
    [
        (
            {"cniconfig": json.dumps(CNI), "lastCNILoadStatus": '"OK"'},
            {"name": "kindnet", "plugins": "ptp,portmap", "load": "OK"},
        ),
        (
            {"lastCNILoadStatus": "cni config load failed: no network config found in /etc/cni/net.d"},
            {"name": "", "plugins": "", "load": "cni config load failed: no network config found in /etc/cni/net.d"},
        ),
        (
            {"lastCNILoadStatus": "OK", "lastCNILoadStatus.other": '"broken"'},
            {"name": "", "plugins": "", "load": "broken"},
        ),
        ({"cniconfig": "not JSON"}, {"name": "", "plugins": "", "load": ""}),
        ({}, {"name": "", "plugins": "", "load": ""}),
    ],
    ids=["loaded", "nothing to load", "one of several failed", "not understood", "not told"],
)
def test_the_network_is_read_out_of_what_containerd_tells(info: dict[str, str], told: dict[str, str]) -> None:
    assert status.network(info) == told


@pytest.mark.parametrize(
    ("text", "port"),
    [("8080:80", (8080, 80, "tcp")), ("8080:80/tcp", (8080, 80, "tcp")), ("53:5353/udp", (53, 5353, "udp"))],
)
def test_a_host_port_is_read(text: str, port: tuple[int, int, str]) -> None:
    assert sandbox.port(text) == port


@pytest.mark.parametrize("text", ["80", "80:", "0:80", "80:65536", "80:80/sctp", "a:b", "1.2.3.4:80:80"])
def test_what_is_no_host_port_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=f"^'{text}' is no hostPort"):
        sandbox.port(text)


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["sandbox", "list"], ["sandbox", "run", "--name", "a"], ["sandbox", "remove", "ab" * 32]],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_runtime_that_is_away_is_named(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, "--endpoint", f"unix://{tmp_path}/none.sock"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"podwire-cri: unix://{tmp_path}/none.sock: ")
    assert "UNAVAILABLE" in said.err


def test_a_name_that_no_pod_can_have_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sandbox", "run", "--name", "A_b", "--endpoint", f"unix://{tmp_path}/none.sock"]) == 1
    assert capsys.readouterr().err == ("podwire-cri: 'A_b' is no name of a pod: a to z, 0 to 9 and '-', at most 63\n")
