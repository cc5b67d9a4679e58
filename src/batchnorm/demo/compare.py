"""Part 1: one training through each API, and how far the others end up from the first."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.demo.data import BATCH, Digits, mixed_batches
from batchnorm.demo.network import Build, initial_weights

__all__ = ["TOLERANCE", "Trained", "agree", "train_through_each"]

# Float32 keeps seven digits. Each API orders its sums in its own way, and training amplifies the differences that this
# makes in the last of them.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Trained:
    """One API's training, and its largest differences from the first API's.

    A difference is relative to the largest number that the first API has there: among the logits of all test digits
    at inference, those of one training batch by its own statistics, or each moving statistic.
    """

    losses: list[float]
    accuracy: float
    seconds: float
    by_moving: float
    by_batch: float
    statistics: float


def train_through_each(
    apis: Mapping[str, Build],
    digits: Digits,
    epochs: int,
    seed: int,
    tick: Callable[[str, float, float], None],
) -> dict[str, Trained]:
    """Train through every API with the same initial weights and batches; `tick(api, share done, loss)` at each step."""
    batches = list(mixed_batches(digits.train_labels, epochs, seed))
    first: _Outcome | None = None
    results: dict[str, Trained] = {}
    for name, build in apis.items():
        started = time.perf_counter()
        network = build(initial_weights(seed))
        losses: list[float] = []
        for batch in batches:
            losses.append(network.train(digits.train_images[batch], digits.train_labels[batch], {}))
            tick(name, len(losses) / len(batches), losses[-1])
        seconds = time.perf_counter() - started
        outcome = _Outcome(
            network.statistics(),
            network.logits(digits.test_images, training=False),
            network.logits(digits.train_images[:BATCH], training=True),
        )
        first = first or outcome
        results[name] = Trained(
            losses,
            float(np.mean(outcome.by_moving.argmax(1) == digits.test_labels)),
            seconds,
            _differ(outcome.by_moving, first.by_moving),
            _differ(outcome.by_batch, first.by_batch),
            _differ_most(outcome.statistics, first.statistics),
        )
    return results


def agree(results: Mapping[str, Trained]) -> bool:
    """Whether every difference is within the tolerance (what is not a number is not)."""
    return all(
        difference <= TOLERANCE
        for result in results.values()
        for difference in (result.by_moving, result.by_batch, result.statistics)
    )


@dataclass(frozen=True)
class _Outcome:
    statistics: dict[str, NDArray[Any]]
    by_moving: NDArray[Any]
    by_batch: NDArray[Any]


def _differ_most(ours: dict[str, NDArray[Any]], reference: dict[str, NDArray[Any]]) -> float:
    if ours.keys() != reference.keys():
        return float("inf")
    return float(np.max([_differ(value, reference[name]) for name, value in ours.items()]))


def _differ(ours: NDArray[Any], reference: NDArray[Any]) -> float:
    return float(np.max(np.abs(ours - reference)) / np.max(np.abs(reference)))
