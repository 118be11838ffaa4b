"""podwire-shim check: every fault, or what the shim would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri_shim import config
from cri_shim.__main__ import main

CONF = Path(__file__).resolve().parents[2] / "conf" / "shim.toml"
RULED = """
drain_seconds = 3
interceptors = ["sample", "metrics"]
[metrics]
listen = "127.0.0.1:9464"
[[rule]]
name = "no-exec"
interceptor = "sample"
match = { methods = ["ExecSync"], namespaces = ["shop-*"], labels = { tier = "front" } }
unless = { pods = ["debug-*"] }
dry_run = true
timeout_seconds = 0.5
do = { refuse = "ask ops" }
[[rule]]
name = "second"
interceptor = "sample"
fail = "open"
"""


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capability of this package's tests takes part."""
    monkeypatch.setitem(config.BUILT_IN, "sample", "tests.cri_shim.test_ruled:Sample")


def checked(capsys: pytest.CaptureFixture[str], file: Path) -> tuple[int, str, str]:
    code = main(["check", str(file)])
    return code, *capsys.readouterr()


def test_the_shipped_file_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = checked(capsys, CONF)
    assert (code, err) == (0, "")
    assert 'listen = "unix:///run/podwire/cri.sock"  (default)' in out
    assert out.endswith("No interceptors: every call passes as it is.\n")


@pytest.mark.usefixtures("sample")
def test_it_tells_settings_order_and_what_each_rule_matches_and_does(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "shim.toml"
    file.write_text(RULED)
    code, out, err = checked(capsys, file)
    assert (code, err) == (0, "")
    assert "drain_seconds = 3\n" in out
    said = out[out.index("1. ") :].splitlines()
    assert said == [
        "1. sample: Adds labels, refuses, raises or hangs, as the rule's `do` says.",
        "   rule no-exec (dry run: only logged and counted)",
        "     matches methods ExecSync; namespaces shop-*; labels tier=front",
        "     unless  pods debug-*",
        "     does    {'refuse': 'ask ops'}",
        "     when it fails or takes more than 0.5 s, the call is refused",
        "   rule second",
        "     matches every call",
        "     does    {}",
        "     when it fails or takes more than 1 s, the call passes as it is",
        "2. metrics: Counts calls when they end, and serves what it counted at `listen` under every path.",
        '   listen = "127.0.0.1:9464"',
    ]


def test_every_fault_is_a_line_and_the_exit_code_is_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "shim.toml"
    file.write_text(
        'lisen = 1\ninterceptors = ["audit", "nobody"]\n[audit]\nfil = 1\n[metrics]\nlisten = "0.0.0.0:1"\n'
        '[[rule]]\nname = "a"\ninterceptor = "policy"\n[[rule]]\nname = "b"\ninterceptor = "audit"\n'
    )
    code, out, err = checked(capsys, file)
    assert (code, out) == (1, "")
    lines = [line.removeprefix(f"podwire-shim check: {file}: ") for line in err.splitlines()]
    for expected in (
        "unknown key 'lisen'; did you mean 'listen'?",
        "rule a: interceptor 'policy' is not in `interceptors`, which lists audit, nobody",
        "rule b: audit takes no rules",
        "interceptors: no package provides 'nobody'; there are audit, images, metrics, mutate, policy",
        "metrics.listen: must be unix:///path or 127.0.0.1:PORT or [::1]:PORT, not '0.0.0.0:1'",
    ):
        assert any(line.startswith(expected) for line in lines), (expected, lines)


def test_a_file_that_is_not_there_is_a_fault(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert checked(capsys, tmp_path / "no.toml")[0] == 1


def test_nothing_is_opened(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "shim.toml"
    file.write_text(f'interceptors = ["audit"]\n[audit]\nfile = "{tmp_path}/audit.jsonl"\n')
    assert checked(capsys, file)[0] == 0
    assert not (tmp_path / "audit.jsonl").exists()
