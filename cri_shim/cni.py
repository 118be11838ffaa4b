"""The CNI plugin of type podwire as the runtime's configuration has it, and calls of it.

libcni's part for one plugin of a list, CNI 1.1.0 (SPEC.md, "Deriving request configuration"): only STATUS and GC,
which a runtime such as containerd 1.6 or 2.1 never asks for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cri_shim import process
from cri_shim.errors import ChildError

TYPE = "podwire"
VERSION = "1.1.0"
# What libcni takes for a configuration (libcni.ConfFiles); the first by name is in force.
SUFFIXES = (".conf", ".conflist", ".json")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came to: the error code of the specification, 0 for success, and the error in words."""

    code: int
    text: str = ""


class Plugin:
    """The plugin behind `conflist`, or when that is "" behind the first configuration in `conf_dir`."""

    def __init__(self, conflist: str, conf_dir: str, bin_dir: str) -> None:
        self._conflist = conflist
        self._conf_dir = conf_dir
        self._bin_dir = bin_dir

    def configuration(self) -> dict[str, Any] | None:
        """The plugin's part of the conflist, to be called with; None when there is no conflist, or none of podwire.

        Raises ValueError for a file that cannot be read or understood, naming it.
        """
        file = self._file()
        if file is None:
            return None
        try:
            document = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be used: {error}") from error
        if not isinstance(document, dict):
            raise ValueError(f"{file} is no object")
        plugins = document.get("plugins", [document])
        for each in plugins if isinstance(plugins, list) else []:
            if isinstance(each, dict) and each.get("type") == TYPE:
                switches = {key: document[key] for key in ("disableGC",) if key in document}
                return {**each, **switches, "name": document.get("name"), "cniVersion": VERSION}
        return None

    async def call(self, command: str, configuration: Mapping[str, Any], seconds: float, **more: Any) -> Answer:
        """Execute one verb that is about no pod, with `more` keys in the configuration; never raises."""
        executable = f"{self._bin_dir}/{TYPE}"
        environment = {
            "CNI_COMMAND": command,
            "CNI_PATH": self._bin_dir,
            "PATH": os.environ.get("PATH", os.defpath),
        }
        try:
            done = await process.run(
                [executable], seconds, stdin=json.dumps({**configuration, **more}).encode(), env=environment
            )
        except ChildError as error:
            return Answer(-1, str(error))
        return Answer(0) if done.code == 0 else _failure(executable, command, done)

    def _file(self) -> Path | None:
        if self._conflist:
            return Path(self._conflist)
        try:
            names = sorted(name for name in os.listdir(self._conf_dir) if name.endswith(SUFFIXES))
        except OSError:
            return None
        return Path(self._conf_dir, names[0]) if names else None


def _failure(executable: str, command: str, done: process.Done) -> Answer:
    try:
        error = json.loads(done.stdout)
        code, text = int(error["code"]), str(error["msg"])
        details = error.get("details")
    except (ValueError, TypeError, KeyError):
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-300:]
        return Answer(-1, f"{executable} {command} ended with {done.code} and no CNI error: {said}")
    return Answer(code, f"{text} ({details})" if details else text)
