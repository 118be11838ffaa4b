"""Credentials of registries, from a file in the format of Docker's config.json that only its owner can read.

    {"auths": {"registry.example": {"username": "u", "password": "p"}, "other.example/team": {"auth": "dTpw"}}}

No error text holds anything of the file's contents.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Mapping
from typing import Any

from cri_shim.references import DOCKER, full, rest_after

Auths = Mapping[str, Mapping[str, str]]
# What an entry may hold, and the field of runtime.v1.AuthConfig it becomes.
FIELDS = {
    "username": "username",
    "password": "password",
    "identitytoken": "identity_token",
    "registrytoken": "registry_token",
}


def load(path: str) -> Auths:
    """Prefix of image names -> fields of an AuthConfig; ValueError says what is wrong with the file."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{path} is no regular file")
            if status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
                mode = stat.S_IMODE(status.st_mode)
                raise ValueError(f"{path} has mode {mode:04o}, owner {status.st_uid}; others can read it: chmod 600 it")
            raw = file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    try:
        entries = json.loads(raw)["auths"].items()
        return {_prefix(key): _fields(entry) for key, entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError):
        # The cause would show the contents.
        raise ValueError(f"{path} does not hold auths in the format of Docker's config.json") from None


def for_image(auths: Auths, name: str) -> dict[str, str] | None:
    """Fields of the AuthConfig for one image, of the longest prefix; None when there is none."""
    wanted = full(name)
    matching = [prefix for prefix in auths if rest_after(wanted, prefix) is not None]
    if not matching:
        return None
    registry = wanted.partition("/")[0]
    # containerd compares the URL's host with the registry it talks to, which Docker's own names otherwise.
    address = {} if registry == DOCKER else {"server_address": f"https://{registry}"}
    return {**auths[max(matching, key=len)], **address}


def _prefix(key: str) -> str:
    place = key.removeprefix("https://").removeprefix("http://").strip("/")
    first, _, rest = place.partition("/")
    # What `docker login` writes for its own registry.
    if first == f"index.{DOCKER}":
        return DOCKER
    return f"{first}/{rest}" if rest else first


def _fields(entry: Any) -> Mapping[str, str]:
    fields = {FIELDS[key]: str(value) for key, value in entry.items() if key in FIELDS and value}
    if entry.get("auth"):
        username, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
        fields |= {"username": username, "password": password}
    return fields
