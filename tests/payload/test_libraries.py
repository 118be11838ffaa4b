"""Every executable and shared object needs the payload and glibc 2.36 only: read by readelf and the dynamic linker."""

import re
from pathlib import Path

import pytest

from tests.payload.built import Payload, run

_GLIBC = re.compile(r"(libc|libm|libpthread|librt|libdl)\.so\.\d|ld-linux-[\w-]+\.so\.\d")
_NEWEST = (2, 36)


@pytest.fixture(params=["payload", "foreign"])
def either(request: pytest.FixtureRequest) -> Payload:
    """This machine's payload, then arm64's."""
    found: Payload = request.getfixturevalue(request.param)
    return found


def test_every_library_that_is_needed_is_shipped_or_of_glibc(either: Payload) -> None:
    shipped = {path.name for path in (either.tree / "lib").iterdir()}
    faults = []
    for path in either.elf_files():
        dynamic = _readelf("-d", path)
        needed = re.findall(r"\(NEEDED\).*\[(.*)]", dynamic)
        missing = [name for name in needed if name not in shipped and not _GLIBC.fullmatch(name)]
        ours = [name for name in needed if name in shipped]
        up = "/".join([".."] * (len(path.relative_to(either.tree).parts) - 1))
        rpath = "$ORIGIN" if path.parent.name == "lib" else f"$ORIGIN/{up}/lib"
        if missing or (ours and re.findall(r"\(RPATH\).*\[(.*)]", dynamic) != [rpath]) or "(RUNPATH)" in dynamic:
            faults.append(f"{path.relative_to(either.tree)}: {missing} {ours}\n{dynamic}")
    assert faults == []


def test_no_symbol_of_a_newer_glibc_is_asked_for(either: Payload) -> None:
    asked = {
        (tuple(map(int, version.split("."))), path.relative_to(either.tree).as_posix())
        for path in either.elf_files()
        for version in re.findall(r"GLIBC_(\d+(?:\.\d+)+)", _readelf("-V", path))
    }
    assert asked
    assert [each for each in asked if each[0] > _NEWEST] == []


def test_glibc_itself_is_not_shipped(either: Payload) -> None:
    assert [path.name for path in either.elf_files() if _GLIBC.fullmatch(path.name)] == []


def test_everything_is_of_the_architecture_it_is_named_for(either: Payload) -> None:
    machine = {"amd64": "X86-64", "arm64": "AArch64"}[either.architecture]
    assert [path for path in either.elf_files() if machine not in _readelf("-h", path)] == []


def test_the_linker_finds_every_library_in_the_payload_or_glibc(payload: Payload) -> None:
    faults = []
    for path in payload.elf_files():
        for line in run(["/usr/bin/ldd", path], {"PATH": "/usr/bin:/bin"}).stdout.splitlines():
            name, _, place = line.strip().partition(" => ")
            within = Path(re.sub(r" \(0x.*", "", place)).resolve().is_relative_to(payload.tree)
            known = re.match(r"linux-vdso|statically linked|/lib", name) or _GLIBC.fullmatch(name)
            if not (known or within):
                faults.append(f"{path.relative_to(payload.tree)}: {line.strip()}")
    assert faults == []


def _readelf(option: str, path: Path) -> str:
    return run(["/usr/bin/readelf", "-W", option, path], {"LC_ALL": "C"}).stdout
