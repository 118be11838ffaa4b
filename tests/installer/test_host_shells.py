"""What the host's scripts may be written in: install.sh up to `node` and `kind` in bash 3.2, host.sh in POSIX sh."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.installer.hostlab import HOST, PARTS, REPOSITORY, SHELLS
from tests.policy.test_lint import tool

INSTALL = REPOSITORY / "install.sh"
HOST_FILES = [HOST, *sorted(PARTS.iterdir())]
SCRIPTS = [INSTALL, *HOST_FILES]
LONGEST = 400

# What bash 3.2 lacks, and what the tools of macOS and of busybox lack.
BEYOND = {
    "associative arrays": r"\b(declare|local|typeset)\s+-[a-zA-Z]*A",
    "namerefs": r"\b(declare|local|typeset)\s+-[a-zA-Z]*n\b",
    "mapfile": r"\b(mapfile|readarray)\b",
    "case conversion": r"\$\{\w+(\[[^]]*\])?(,|\^)",
    "&>>": r"&>>",
    "|&": r"\|&",
    "${x@Q}": r"\$\{\w+@[A-Za-z]\}",
    "negative subscripts": r"\$\{\w+\[-",
    "wait -n": r"\bwait\s+-n\b",
    "printf %(fmt)T": r"%\([^)]*\)T",
    "coproc": r"\bcoproc\b",
    "test -v": r"\[\[?\s+-v\s",
    ";& and ;;&": r";;?&",
    "readlink -f": r"\breadlink\s+-\w*f",
    "EPOCHSECONDS": r"\bEPOCH(SECONDS|REALTIME)\b",
}
# Of what runs on the host alone; on a node there is GNU.
BEYOND_POSIX = {
    "[[": r"(^|\s)\[\[\s",
    "arrays": r"^\s*\w+\+?=\(",
    "local": r"\blocal\s",
    "here strings": r"<<<",
    "process substitution": r"[<>]\(",
    "function keyword": r"^\s*function\s",
    "$'..'": r"\$'",
    "source": r"^\s*source\s",
    "sed -i": r"\bsed\s+-i",
    "GNU's \\| in sed": r"\bsed\b.*\\\|",
    "date -d and date %N": r"\bdate\s+(-d|--)|%N",
    "stat": r"\bstat\s+-",
    "grep -P": r"\bgrep\s+-\w*P",
}


def code(path: Path) -> list[tuple[int, str]]:
    """Numbered lines without comments."""
    lines = enumerate(path.read_text().splitlines(), 1)
    return [(number, line) for number, line in lines if not line.lstrip().startswith("#")]


def faults(path: Path, patterns: dict[str, str], lines: list[tuple[int, str]]) -> list[str]:
    return [
        f"{path.name}:{number}: {what}: {line.strip()}"
        for number, line in lines
        for what, pattern in patterns.items()
        if re.search(pattern, line)
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_nothing_newer_than_bash_3_2(path: Path) -> None:
    lines = code(path)
    if path == INSTALL:
        # Functions of other commands are only parsed there, and their tools never run.
        lines = [(number, line) for number, line in lines if "mv -T" not in line]
    assert faults(path, BEYOND, lines) == []


@pytest.mark.parametrize("path", HOST_FILES, ids=lambda path: path.name)
def test_host_sh_is_posix_and_asks_nothing_of_gnu(path: Path) -> None:
    assert faults(path, BEYOND_POSIX, code(path)) == []


@pytest.mark.parametrize("path", HOST_FILES, ids=lambda path: path.name)
def test_a_file_says_what_it_is_for_and_is_no_longer_than_a_reader_can_hold(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[1].startswith("# ")
    assert lines[1].endswith((".", "podwire-node"))
    assert len(lines) <= LONGEST


def test_host_sh_reads_every_part_once() -> None:
    read = re.findall(r'^\. "\$parts/(\w+\.sh)"$', HOST.read_text(), re.MULTILINE)
    assert sorted(read) == [path.name for path in HOST_FILES[1:]]


@pytest.mark.parametrize("sample", ["mapfile -t x", "echo ${x,,}", "f &>>log", "declare -A x", "readlink -f x"])
def test_what_is_too_new_is_found(sample: str) -> None:
    assert faults(HOST, BEYOND, [(1, sample)])


@pytest.mark.parametrize("sample", ["[[ -n $x ]]", "x+=(a)", "sed -i s/a/b/ f", "date +%s.%N", "local x"])
def test_what_is_not_posix_is_found(sample: str) -> None:
    assert faults(HOST, BEYOND_POSIX, [(1, sample)])


def program() -> str:
    """host.sh with its parts in their places, without what shellcheck is told about a part alone."""
    lines: list[str] = []
    for line in HOST.read_text().splitlines():
        read = re.match(r'\. "\$parts/(\w+\.sh)"$', line)
        if not line.startswith("parts="):
            lines += (PARTS / read[1]).read_text().splitlines()[1:] if read else [line]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("dialect", ["sh", "dash"])
def test_shellcheck_finds_nothing_in_the_whole_of_it(dialect: str) -> None:
    # Of a part alone nobody can say which variables are never set. Functions are called by name: each targets FUNCTION.
    command = [tool("shellcheck"), "-s", dialect, "-e", "SC2317", "-"]
    done = subprocess.run(command, input=program(), capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", HOST_FILES, ids=lambda path: path.name)
def test_every_shell_parses_it(path: Path, shell: str) -> None:
    done = subprocess.run([*SHELLS[shell], "-n", str(path)], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["node", "kind"])
def test_install_sh_hands_node_and_kind_on_from_any_folder(command: str, tmp_path: Path) -> None:
    done = subprocess.run([INSTALL, command, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: ./install.sh node" in done.stdout


def test_paths_among_the_options_are_the_callers(tmp_path: Path) -> None:
    (tmp_path / "given.tar.gz").write_bytes(b"")
    done = subprocess.run(
        [INSTALL, "kind", "--payload", "given.tar.gz", "--mode", "wrong"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert "--mode is auto" in done.stderr
    done = subprocess.run(
        [INSTALL, "kind", "--payload", "other.tar.gz"], cwd=tmp_path, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert "other.tar.gz is not a file that can be read" in done.stderr
