"""Part 2: minibatches of two or three labels each, in the spirit of Ioffe 2017, section 4.3.

The paper is https://arxiv.org/abs/1702.03275. A batch of 1s and 2s tells the network, through the batch's own
statistics, that no 7 is among them. Plain batch norm learns to count on that, and at inference there is no batch to
tell. Renorm trains on what inference will use: the batch's statistics, corrected towards the moving ones. Ghost
batches take theirs over fewer examples of the same few labels, which is no help.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from batchnorm.demo.data import Digits, few_label_batches
from batchnorm.demo.network import LEARNING_RATE, Build, Network, initial_weights
from batchnorm.demo.schedule import renorm_bounds

__all__ = ["TRACED", "Course", "Reading", "train_by_each"]

TRACED = "norm_2"
READINGS = 60


class Reading(NamedTuple):
    """The state after some steps: accuracy at inference, and the traced moving statistics' mean over channels."""

    step: int
    accuracy: float
    moving_mean: float
    moving_variance: float


@dataclass(frozen=True)
class Course:
    """One training: the loss of each step, the readings in between, and the accuracy at the end by each statistics."""

    losses: list[float]
    readings: list[Reading]
    by_batch: float
    by_moving: float


def train_by_each(
    methods: Mapping[str, Build],
    digits: Digits,
    epochs: int,
    seed: int,
    tick: Callable[[str, float, float], None],
) -> dict[str, Course]:
    """Train by every method from the same weights and batches; `tick(method, share done, loss)` at each step."""
    return {
        name: _train(build(initial_weights(seed)), digits, epochs, seed, partial(tick, name))
        for name, build in methods.items()
    }


def _train(
    network: Network, digits: Digits, epochs: int, seed: int, tick: Callable[[float, float], None]
) -> Course:
    batches = list(few_label_batches(digits.train_labels, epochs, seed))
    every = max(5, len(batches) // READINGS)
    losses: list[float] = []
    readings: list[Reading] = []
    for step, batch in enumerate(batches):
        if step % every == 0 and step + every <= len(batches):
            readings.append(_read(network, digits, step))
        done = step / len(batches)
        given = {"rate": LEARNING_RATE * (1.0 - done), **renorm_bounds(done)}
        losses.append(network.train(digits.train_images[batch], digits.train_labels[batch], given))
        tick((step + 1) / len(batches), losses[-1])
    readings.append(_read(network, digits, len(batches)))
    return Course(losses, readings, _accuracy_by_batch(network, digits, seed), readings[-1].accuracy)


def _read(network: Network, digits: Digits, step: int) -> Reading:
    answers = network.logits(digits.test_images, training=False).argmax(1)
    moving = network.statistics()
    traced = [moving.get(f"{TRACED}/{name}", np.nan) for name in ("moving_mean", "moving_variance")]
    mean, variance = (float(np.mean(value)) for value in traced)
    return Reading(step, float(np.mean(answers == digits.test_labels)), mean, variance)


def _accuracy_by_batch(network: Network, digits: Digits, seed: int) -> float:
    """On test digits in batches of the same few labels, normalized by their own statistics as in training."""
    right = [
        network.logits(digits.test_images[batch], training=True).argmax(1) == digits.test_labels[batch]
        for batch in few_label_batches(digits.test_labels, 5, seed)
    ]
    return float(np.mean(right))
