"""Time two ways to do one thing in turn, and report the ratio round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Seconds of each round of the measured way and of its baseline, and what the ratio must not exceed."""

    name: str
    baseline: str
    seconds: Sequence[float]
    baseline_seconds: Sequence[float]
    bar: float | None

    @property
    def ratios(self) -> list[float]:
        """Measured over baseline, round by round, smallest first."""
        return sorted(a / b for a, b in zip(self.seconds, self.baseline_seconds, strict=True))

    @property
    def ratio(self) -> float:
        """The median ratio: what to quote."""
        return statistics.median(self.ratios)

    def row(self) -> str:
        """One row of the document's table."""
        low, high = self.ratios[0], self.ratios[-1]
        bar = "-" if self.bar is None else f"at most {self.bar:g}"
        return (
            f"| {self.name} | {self.baseline} | {self.ratio:.3g} | {low:.3g} to {high:.3g} | {bar} | "
            f"{statistics.median(self.seconds):.2f} s | {statistics.median(self.baseline_seconds):.2f} s |"
        )


def compare(
    name: str,
    measured: Callable[[], object],
    baseline_name: str,
    baseline: Callable[[], object],
    *,
    rounds: int = 5,
    bar: float | None = None,
) -> Comparison:
    """Run both once to warm up, then in turn for ``rounds``; which goes first alternates."""
    measured()
    baseline()
    seconds: dict[Callable[[], object], list[float]] = {measured: [], baseline: []}
    for index in range(rounds):
        order = (measured, baseline) if index % 2 == 0 else (baseline, measured)
        for task in order:
            started = time.perf_counter()
            task()
            seconds[task].append(time.perf_counter() - started)
    return Comparison(name, baseline_name, seconds[measured], seconds[baseline], bar)
