"""A scripted runtime, a shim in front of it and a client, for one test."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cri.scripted import Client, Runtime, Shim, shim_process


@dataclass
class Line:
    """client -> shim -> runtime, each of them within reach."""

    client: Client
    shim: Shim
    runtime: Runtime
    folder: Path


@contextlib.asynccontextmanager
async def line(
    folder: Path, *, runtime_up: bool = True, runtime_name: str = "runtime.sock", **options: Any
) -> AsyncIterator[Line]:
    runtime = Runtime(folder / runtime_name)
    if runtime_up:
        await runtime.start()
    try:
        async with shim_process(folder, **options) as shim:
            client = Client(shim.listen)
            try:
                yield Line(client, shim, runtime, folder)
            finally:
                await client.channel.close()
        assert shim.trouble == []
        assert shim.events("library") == []
    finally:
        await runtime.stop(grace=0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, since a socket's path may have 107 bytes only."""
    made = Path(tempfile.mkdtemp(prefix="pw-cri-"))
    yield made
    shutil.rmtree(made)


Story = Callable[[Line], Awaitable[None]]


@pytest.fixture
def play(folder: Path) -> Callable[..., None]:
    """Runs a test's story on a whole line; options go to the shim's process."""

    def run(story: Story, **options: Any) -> None:
        async def whole() -> None:
            async with asyncio.timeout(60), line(folder, **options) as made:
                await story(made)

        asyncio.run(whole())

    return run
