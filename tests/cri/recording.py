"""A scripted method that keeps what it received."""

from __future__ import annotations

from tests.cri.conftest import Line
from tests.cri.scripted import Context

RUN, CREATE = "/runtime.v1.RuntimeService/RunPodSandbox", "/runtime.v1.RuntimeService/CreateContainer"
NEWER = b"\xfa\x7f\x02hi"  # field 2047, which the schema does not know


def received(line: Line, method: str, response: bytes = b"\x0a\x01x") -> list[bytes]:
    """The runtime answers this method with `response`; the list fills with the requests it gets."""
    frames: list[bytes] = []

    async def answer(context: Context) -> None:
        frame = await context.read()
        assert isinstance(frame, bytes)
        frames.append(frame)
        await context.write(response)

    line.runtime.behaviours[method] = answer
    return frames
