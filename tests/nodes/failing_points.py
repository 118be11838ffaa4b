"""Where an install can be made to fail."""

import itertools
from dataclasses import dataclass

MOMENTS = ("written", "done")
ENDS = ("raise", "kill")


@dataclass(frozen=True)
class Point:
    """One step, by its number; when; and how."""

    step: int
    moment: str
    end: str

    def __str__(self) -> str:
        return f"step {self.step} {self.moment}, then {self.end}"


def points(steps: int, *, every: bool = False) -> list[Point]:
    """One point for each step, moments and ends taking turns; with `every`, each step in all four ways."""
    ways = list(itertools.product(MOMENTS, ENDS))
    if every:
        return [Point(step, *way) for step in range(steps) for way in ways]
    return [Point(step, *ways[step % len(ways)]) for step in range(steps)]
