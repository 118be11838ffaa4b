"""Other programs as bounded children: a limit to their time and to what they say, and no shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cri_shim.errors import ChildError

SAID_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Done:
    """How a child ended: its exit code (negative: the signal), and the beginning of what it said."""

    code: int
    stdout: bytes
    stderr: bytes


async def run(argv: Sequence[str], seconds: float, *, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Done:
    """Run `argv` to its end; raises ChildError when it cannot start or takes longer than `seconds`.

    The child leads a process group, which is killed when the time is over or the caller is cancelled.
    """
    try:
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise ChildError(f"{argv[0]} cannot be executed: {error.strerror}") from error
    try:
        async with asyncio.timeout(seconds):
            said, complained, _ = await asyncio.gather(
                _beginning(child.stdout), _beginning(child.stderr), _feed(child.stdin, stdin)
            )
            return Done(await child.wait(), said, complained)
    except TimeoutError:
        raise ChildError(f"{argv[0]} did not end within {seconds:g} s, and was killed") from None
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


async def _feed(stream: asyncio.StreamWriter | None, text: bytes) -> None:
    assert stream is not None
    with contextlib.suppress(ConnectionError):
        stream.write(text)
        await stream.drain()
    stream.close()
    # A child that ends without reading breaks the pipe once more at its close: asyncio would log it at some later time.
    with contextlib.suppress(ConnectionError):
        await stream.wait_closed()


async def _beginning(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None
    kept = b""
    while block := await stream.read(1 << 16):
        kept += block[: SAID_BYTES - len(kept)]
    return kept
