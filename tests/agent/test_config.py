"""agent.toml: every key, every fault, and the command line around it."""

from pathlib import Path

import pytest

from cni_plugin.agent import __main__ as program
from cni_plugin.agent import config
from cni_plugin.agent.config import Config
from cni_plugin.agent.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf" / "agent.toml"


def test_the_shipped_file_says_every_key_and_its_default() -> None:
    assert config.load(CONF) == Config()
    import tomllib

    document = tomllib.loads(CONF.read_text())
    keys = [f"{key}.{inner}" if isinstance(value, dict) else key
            for key, value in document.items() for inner in (value if isinstance(value, dict) else [""])]  # fmt: skip
    assert keys == [setting.key for setting in config.SETTINGS]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("modus = 'auto'", "unknown key 'modus'; did you mean 'mode'?"),
        ("vni = 5", "unknown key 'vni'; did you mean 'vxlan.vni'?"),
        ("vxlan = 5", "vxlan: must be a table, written [vxlan], not a number (5)"),
        ("mode = 'ipip'", "mode: must be 'auto' or 'host-gw' or 'vxlan', not 'ipip'"),
        ("node_name = 'A b'", "node_name: must be a node's name"),
        ("pod_cidrs = ['10.0.0.1/24']", "pod_cidrs: must be a list of subnets"),
        ("pod_cidrs = ['10.0.0.1']", "'10.0.0.1' has no prefix length"),
        ("addresses = 'x'", "addresses: must be a list of addresses"),
        ("state_dir = 'run'", "state_dir: must be an absolute path, not 'run'"),
        ("resync_seconds = 0", "resync_seconds: must be from 1 to 86400 seconds, not 0"),
        ("[routes]\nprotocol = 112", "routes.protocol: must be a number of our own; 112 is taken by podwire's plugin"),
        ("[routes]\nprotocol = 2", "routes.protocol: must be from 5 to 254, not 2"),
        ("[vxlan]\nvni = 16777216", "vxlan.vni: must be from 1 to 16777215"),
        ("[vxlan]\nmtu = 1000", "vxlan.mtu: must be 0 or from 1280 to 65535, not 1000"),
        ("[vxlan]\ndevice = 'a/b'", "vxlan.device: must be a link's name"),
        ("[vxlan]\nchecksum_offload = 1", "vxlan.checksum_offload: must be true or false, not 1"),
        ("[http]\nlisten = '9474'", "http.listen: must be ADDRESS:PORT"),
        ("[http]\nlisten = '::1:9474'", "http.listen: must be ADDRESS:PORT"),
        ("[kubernetes]\nretry_initial_seconds = 40", "kubernetes.retry_initial_seconds (40) is more than"),
        ("mode = ", "not valid TOML"),
    ],
    ids=lambda value: str(value).splitlines()[-1][:40],
)
def test_a_fault_says_what_and_where(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith(f"{path}: ")
    assert told in caught.value.faults[0]


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("mode = 1\nmore = 2\n[gc]\nseconds = -1\n")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert len(caught.value.faults) == 3


def test_check_prints_every_key_and_the_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peers, path = tmp_path / "peers.toml", tmp_path / "agent.toml"
    peers.write_text('[[node]]\nname = "a"\naddresses = ["192.0.2.1"]\npod_cidrs = ["10.244.0.0/24"]\n')
    path.write_text(f'mode = "vxlan"\nsource = "file"\n[file]\npath = "{peers}"\n')
    assert program.main(["check", str(path)]) == 0
    shown = capsys.readouterr().out
    assert [setting.key for setting in config.SETTINGS if f"  {setting.key} = " not in shown] == []
    assert '  mode = "vxlan"    (set)\n' in shown
    assert "node a: 192.0.2.1: 10.244.0.0/24\n" in shown
    peers.write_text("[[node]]\nname = 'B!'\n")
    assert program.main(["--config", str(path), "check"]) == 1
    assert "its name is no name of a node" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--config", "/nowhere/agent.toml"], ["chek"], ["check", "/nowhere/agent.toml"]])
def test_wrong_use_is_one_line_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = program.main(arguments)
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_hosts_name_is_the_nodes_in_small_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Kind-Worker")
    assert program.node_name("") == "kind-worker"
    assert program.node_name("other") == "other"
    monkeypatch.setattr("socket.gethostname", lambda: "no_node")
    with pytest.raises(ConfigError, match="set node_name"):
        program.node_name("")
