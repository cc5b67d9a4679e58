"""Timing in turns, so that whatever else the machine does hits every competitor alike."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.cases import Case, least_bytes
from benchmarks.competitors.data import OURS, Data, Step, check_agreement, make_data

__all__ = ["TURN", "Row", "measure"]

WARM_UP = 3
# Seconds that a turn takes at least. Quick steps are repeated, since a clock and a cold start would be most of one, and
# the first of them waits for what the competitor before left unwritten in the caches.
TURN = 0.02
MOST_CALLS = 100


@dataclass(frozen=True)
class Row:
    """Times in seconds of one case, by competitor, each list in the order of the rounds; and those of a copy of x."""

    framework: str
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
    def peers(self) -> list[str]:
        return [name for name in self.times if name != OURS]

    @property
    def phase_is_training(self) -> bool:
        return self.case.phase == "training step"

    @property
    def of_floor(self) -> float | None:
        """Our time over that of moving the bytes that must move, at the speed at which x was copied."""
        least, copied = least_bytes(self.case), 2 * 4 * int(np.prod(self.case.shape))
        return None if least is None else median(self.times[OURS]) / (least * median(self.copies) / copied)


def measure(
    framework: str, case: Case, steps: Callable[[Case, Data], dict[str, Step]], rounds: int, threads: int
) -> Row:
    """Check that all competitors agree, then time them in turns."""
    data = make_data(case)
    competitors = steps(case, data)
    check_agreement(case, {name: step(read=True) for name, step in competitors.items()})
    with ThreadPoolExecutor(threads) as pool:
        everyone = {**competitors, "": _copy(data.x, pool, threads)}
        for step in everyone.values():
            for _ in range(WARM_UP):
                step()
        calls = math.ceil(TURN / max(_time(everyone[OURS], 1), TURN / MOST_CALLS))
        times: dict[str, list[float]] = {name: [] for name in everyone}
        names = list(everyone)
        for turn in range(rounds):
            # Who comes second may find x in a cache: each comes first, second and so on as often as the others.
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                times[name].append(_time(everyone[name], calls))
    return Row(framework, case, times, times.pop(""))


def _copy(x: np.ndarray, pool: ThreadPoolExecutor, threads: int) -> Step:
    """One reading and one writing of an array, on as many threads."""
    parts = list(zip(np.array_split(np.empty_like(x), threads), np.array_split(x, threads), strict=True))
    return lambda: list(pool.map(lambda part: np.copyto(*part), parts))


def _time(step: Callable[[], Any], calls: int) -> float:
    """Seconds a call."""
    spent = 0.0
    for _ in range(calls):
        start = perf_counter()
        result = step()
        spent += perf_counter() - start
        del result
    return spent / calls
