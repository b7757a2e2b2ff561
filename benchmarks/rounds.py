"""Interleaved rounds (A B C, A B C, ...): the machine's moods meet all contestants alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

DISCARDED_ROUNDS = 1  # the first fills caches


def nothing() -> None:
    """Prepare nothing."""


@dataclass
class Contestant:
    """Something to time; ``prepare`` runs before each time, off the clock."""

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = nothing
    times_ms: list[float] = field(default_factory=list)

    def once(self, *, counted: bool) -> None:
        """Prepare and run it; note how long it ran, if that counts."""
        self.prepare()
        started = time.perf_counter()
        self.run()
        if counted:
            self.times_ms.append((time.perf_counter() - started) * 1000)


def measure(contestants: Sequence[Contestant], rounds: int) -> None:
    """Fill in the times of ``rounds`` interleaved rounds, after a discarded one."""
    for number in range(rounds + DISCARDED_ROUNDS):
        for contestant in contestants:
            contestant.once(counted=number >= DISCARDED_ROUNDS)


def markdown(
    title: str, contestants: Sequence[Contestant], rounds: int, reference: str | None = None
) -> str:
    """Measure and return a table of medians, minima, and ratios to the reference's median."""
    measure(contestants, rounds)
    return table(title, contestants, reference)


def table(title: str, contestants: Sequence[Contestant], reference: str | None = None) -> str:
    """Return that table for contestants that were measured."""
    medians = {known.name: statistics.median(known.times_ms) for known in contestants}
    base = medians.get(reference or "")
    rounds = len(contestants[0].times_ms)
    lines = [
        f"| {title} ({rounds} rounds) | median ms | min ms | of {reference} |",
        "|---|---:|---:|---:|",
    ]
    for known in contestants:
        ratio = f"1/{base / medians[known.name]:.1f}" if base else "-"
        lines.append(
            f"| {known.name} | {medians[known.name]:.1f} | {min(known.times_ms):.1f} | {ratio} |"
        )
    return "\n".join([*lines, ""])
