"""The executable, built as an installation builds it, and called as a runtime calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cni_plugin.spec import SUPPORTED_VERSIONS

# The machine's own interpreter, which a node runs the plugin with.
INTERPRETER = next((path for path in ("/usr/bin/python3",) if os.access(path, os.X_OK)), sys.executable)
VERSIONS = {"cniVersion": "1.1.0", "supportedVersions": list(SUPPORTED_VERSIONS)}


def version(program: Path | str, variables: dict[str, str] | None = None, **options: Any) -> Any:
    """What a call of VERSION answers; it must succeed and say nothing on stderr."""
    done = subprocess.run(
        [program],
        env={"CNI_COMMAND": "VERSION"} | (variables or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        **options,
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    return json.loads(done.stdout)
