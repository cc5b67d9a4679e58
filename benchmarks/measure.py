"""Timing in turns, so that whatever else the machine does hits every competitor alike."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.cases import Case, least_bytes
from benchmarks.competitors import OURS, check_agreement, copy, inputs, steps

__all__ = ["Row", "measure"]

WARM_UP = 3


@dataclass(frozen=True)
class Row:
    """Times in seconds of one case, by competitor, each list in the order of the rounds; and those of a copy."""

    case: Case
    times: dict[str, list[float]]
    copies: list[float]

    def milliseconds(self, name: str) -> float | None:
        return 1e3 * median(self.times[name]) if name in self.times else None

    def ratio(self, name: str) -> float | None:
        """How many times as long as ours it takes: the median over the rounds."""
        if name not in self.times:
            return None
        return median(theirs / ours for theirs, ours in zip(self.times[name], self.times[OURS], strict=True))

    @property
    def bandwidth(self) -> float:
        """Bytes that must move by our time, per second."""
        return least_bytes(self.case) / median(self.times[OURS])

    @property
    def of_copy(self) -> float:
        """The same as a share of what copying an array of this size achieved."""
        copied = least_bytes(Case(self.case.shape_name, "plain", "inference"))
        return self.bandwidth / (copied / median(self.copies))


def measure(case: Case, rounds: int) -> Row:
    """Check that all competitors agree, then time them in turns."""
    x, dy, mask = inputs(case)
    competitors = steps(case, x, dy, mask)
    results = {name: (step(), step.state()) for name, step in competitors.items()}
    check_agreement(case, results)
    del results
    everyone = {**competitors, "": copy(x)}
    for step in everyone.values():
        for _ in range(WARM_UP):
            step()
    times: dict[str, list[float]] = {name: [] for name in everyone}
    for _ in range(rounds):
        for name, step in everyone.items():
            times[name].append(_time(step))
    return Row(case, times, times.pop(""))


def _time(step: Callable[[], Any]) -> float:
    start = perf_counter()
    result = step()
    stop = perf_counter()
    del result
    return stop - start
