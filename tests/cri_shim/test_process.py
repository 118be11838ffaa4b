"""Children end in time, say no more than is kept, and leave nobody behind."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from cri_shim import process
from cri_shim.errors import ChildError


def test_a_child_gets_its_input_and_its_end_is_told() -> None:
    done = asyncio.run(process.run(["sh", "-c", "cat; echo no >&2; exit 3"], 10, stdin=b"in"))
    assert done == process.Done(3, b"in", b"no\n")


def test_a_child_that_takes_too_long_is_killed_with_its_own_children(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(ChildError, match=r"sh did not end within 0\.5 s, and was killed"):
            asyncio.run(process.run(["sh", "-c", f"sleep 600 >{fifo} & sleep 600"], 0.5))
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b"", "the end of the file: nobody holds it open"
    finally:
        os.close(reader)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ChildError, match="/no/where cannot be executed: No such file"):
        asyncio.run(process.run(["/no/where"], 1))


def test_a_child_that_reads_nothing_and_says_much_ends_all_the_same() -> None:
    script = f"head -c {3 * process.SAID_BYTES} /dev/zero"
    done = asyncio.run(process.run(["sh", "-c", script], 10, stdin=b"x" * (1 << 20)))
    assert (done.code, len(done.stdout)) == (0, process.SAID_BYTES)
