"""Runs the plugin's `main` once per request, each time in a fork with bounds; to be run as a program.

A request is a line of JSON: `environment` and `stdin` (both latin-1 text for bytes). The answer is one too: `code`,
`stdout`, `stderr`, `seconds`, and `written`, the paths of every file operation that could change something.
"""

import gc
import json
import os
import pkgutil
import resource
import sys
import time
from importlib import import_module
from typing import Any

import cni_plugin
from cni_plugin.__main__ import main

_MEMORY, _SECONDS = 512 << 20, 20
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGING = ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod")


def _watch(log: int) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            os.write(log, f"{arguments[0]}\n".encode(errors="surrogateescape"))
        elif event in _CHANGING:
            # The first of os.symlink is a text, the second the file.
            places = arguments[1:2] if event == "os.symlink" else arguments[:2]
            for place in places:
                if isinstance(place, str):
                    os.write(log, f"{place}\n".encode(errors="surrogateescape"))

    sys.addaudithook(hook)


def _run(request: dict[str, Any]) -> dict[str, Any]:
    source, answer, errors, log = (os.memfd_create(name) for name in ("stdin", "stdout", "stderr", "log"))
    os.write(source, request["stdin"].encode("latin-1"))
    os.lseek(source, 0, os.SEEK_SET)
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        _watch(log)
        environment = {
            name.encode("latin-1").decode("utf-8", "surrogateescape"): value.encode("latin-1").decode(
                "utf-8", "surrogateescape"
            )
            for name, value in request["environment"].items()
        }
        os._exit(main(environment, source, answer, errors))
    _, status = os.waitpid(child, 0)
    held = []
    for descriptor in (answer, errors, log):
        os.lseek(descriptor, 0, os.SEEK_SET)
        held.append(os.read(descriptor, 1 << 24).decode("latin-1"))
    for descriptor in (source, answer, errors, log):
        os.close(descriptor)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "stdout": held[0],
        "stderr": held[1],
        "written": held[2].splitlines(),
        "seconds": time.monotonic() - begun,
    }


def serve() -> None:
    """Answer every line of stdin."""
    for module in pkgutil.iter_modules(cni_plugin.__path__):
        if module.name not in ("__main__", "bundle", "packaging"):
            import_module(f"cni_plugin.{module.name}")
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
