"""Flags of kubelet inside environment files and systemd units: read, and set by changing the value's characters alone.

Both kinds of file are lines of words; `--x=y` and `--x y` are the same to kubelet, also inside one quoted string with
other flags. A flag whose value cannot be told from its line is an error: the value may come out of a variable.
"""

import re
from collections.abc import Callable, Iterator

_COMMENT = re.compile(r"[ \t]*[#;]")


class FlagError(Exception):
    """A flag cannot be read, or not be changed; the message has the line, no path."""


def values(text: str, flag: str) -> list[str]:
    """Every value of a flag, in the order of the file. Raises FlagError."""
    found = []
    for number, line in _lines(text):
        read = [each["value"] for each in _pattern(flag).finditer(line)]
        if len(read) != len(re.findall(rf"{_name(flag)}(?![\w-])", line)):
            raise FlagError(f"line {number}: the value of {flag} cannot be read; write {flag}=VALUE there")
        found += read
    return found


def put(text: str, flag: str, change: Callable[[str], str]) -> str:
    """The text with each value of a flag replaced by change(value). Raises FlagError."""
    lines = text.splitlines(keepends=True)
    for number, line in _lines(text):
        for found in reversed(list(_pattern(flag).finditer(line))):
            new = change(found["value"])
            if new == found["value"]:
                continue
            if "$" in found["value"] or "%" in found["value"]:
                raise FlagError(
                    f"line {number}: the value of {flag} is made of a variable ({found['value']}); write it out there"
                )
            line = line[: found.start("value")] + new + line[found.end("value") :]
        lines[number - 1] = line
    return "".join(lines)


def _pattern(flag: str) -> "re.Pattern[str]":
    return re.compile(rf"{_name(flag)}(?:=|[ \t]+)(?:\\?[\"'])?(?P<value>[^\s\"'\\-][^\s\"'\\]*)", re.ASCII)


def _name(flag: str) -> str:
    # kubelet takes an underscore for each dash but the first two.
    return r"(?<![\w-])--" + flag.removeprefix("--").replace("-", "[-_]")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not _COMMENT.match(line):
            yield number, line
