"""Names of images: what is a registry in them, and a prefix put in the place of another.

A name is HOST[/PATH...][:TAG][@DIGEST]; short forms are Docker's ("nginx"). An id (a digest alone) is no name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

DOCKER = "docker.io"
ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


def full(name: str) -> str:
    """The name with its host, as runtimes keep it; "" for an id."""
    if not name or ID.fullmatch(name):
        return ""
    first, slash, rest = name.partition("/")
    if not slash or not is_host(first):
        return f"{DOCKER}/{name}" if slash else f"{DOCKER}/library/{name}"
    return f"{DOCKER}/{rest}" if first == f"index.{DOCKER}" else name


def complete(name: str) -> str:
    """The full name with the tag that runtimes take when it has none; "" for an id."""
    whole = full(name)
    return whole if not whole or "@" in whole or ":" in whole.rpartition("/")[2] else f"{whole}:latest"


def host(name: str) -> str:
    """The registry of a name, "" of an id."""
    return full(name).partition("/")[0]


def is_host(part: str) -> bool:
    """Whether the first part of a name is a registry."""
    return "." in part or ":" in part or part == "localhost"


def rest_after(name: str, prefix: str) -> str | None:
    """What follows the prefix in a full name, when it ends where a part of the name does."""
    if not name.startswith(prefix):
        return None
    rest = name[len(prefix) :]
    return rest if not rest or rest[0] in "/:@" else None


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Names below `origin` are looked for below each of `sources`, in order; both are without a slash at the end."""

    origin: str
    sources: tuple[str, ...]

    def candidates(self, name: str) -> tuple[str, ...]:
        """Where a name is looked for; none when it is not below the origin."""
        rest = rest_after(full(name), self.origin)
        return () if rest is None else tuple(source + rest for source in self.sources)


def told(name: str, rewrites: Iterable[Rewrite]) -> str:
    """The name that a client knows an image by: the longest source gives way to its origin."""
    found = [
        (len(source), rewrite.origin + rest)
        for rewrite in rewrites
        for source in rewrite.sources
        if (rest := rest_after(full(name), source)) is not None
    ]
    return max(found)[1] if found else name
