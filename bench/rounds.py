"""Time two ways to do one thing in turn, and report the ratio round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """What each round of the measured way and of its baseline took, in ``unit``, and what the ratio must not exceed."""

    name: str
    baseline: str
    seconds: Sequence[float]
    baseline_seconds: Sequence[float]
    bar: float | None
    unit: str = "s"

    @property
    def ratios(self) -> list[float]:
        """Measured over baseline, round by round, smallest first."""
        return sorted(a / b for a, b in zip(self.seconds, self.baseline_seconds, strict=True))

    @property
    def ratio(self) -> float:
        """The median ratio: what to quote."""
        return statistics.median(self.ratios)

    def row(self) -> dict[str, str]:
        """One row of the document's table, by column."""
        low, high = self.ratios[0], self.ratios[-1]
        return {
            "what": self.name,
            "against": self.baseline,
            "ratio (median)": f"{self.ratio:.3g}",
            "range": f"{low:.3g} to {high:.3g}",
            "bar": "-" if self.bar is None else f"at most {self.bar:g}",
            "takes": f"{statistics.median(self.seconds):.2f} {self.unit}",
            "baseline takes": f"{statistics.median(self.baseline_seconds):.2f} {self.unit}",
        }


def compare(
    name: str,
    measured: Callable[[], object],
    baseline_name: str,
    baseline: Callable[[], object],
    *,
    rounds: int = 5,
    bar: float | None = None,
    prepare: Callable[[], object] = lambda: None,
) -> Comparison:
    """Run both once to warm up, then in turn for ``rounds``; which goes first alternates.

    ``prepare`` is called before each and not timed.
    """
    seconds: dict[Callable[[], object], list[float]] = {measured: [], baseline: []}
    for task in (measured, baseline):
        prepare()
        task()
    for index in range(rounds):
        order = (measured, baseline) if index % 2 == 0 else (baseline, measured)
        for task in order:
            prepare()
            started = time.perf_counter()
            task()
            seconds[task].append(time.perf_counter() - started)
    return Comparison(name, baseline_name, seconds[measured], seconds[baseline], bar)
