"""Random calls, random kills: at the end of all of it nothing is left, and meanwhile no address is held twice."""

from pathlib import Path

import pytest

from tests.crash.chaos import Chaos


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_a_hundred_kills_of_random_calls_leave_nothing(launcher: Path, tmp_path: Path, seed: int) -> None:
    chaos = Chaos(launcher, tmp_path, seed)
    with chaos.node:
        chaos.run(100)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 120))
def test_five_hundred_kills_of_random_calls_leave_nothing(launcher: Path, tmp_path: Path, seed: int) -> None:
    chaos = Chaos(launcher, tmp_path, seed)
    with chaos.node:
        chaos.run(500)
