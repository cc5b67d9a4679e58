"""Part 2: minibatches of two or three labels each, in the spirit of Ioffe 2017, section 4.3.

The paper is https://arxiv.org/abs/1702.03275. A batch of 1s and 2s tells the network, through the batch's own
statistics, that no 7 is among them. Plain batch norm learns to count on that, and at inference there is no batch to
tell. Renorm trains on what inference will use: the batch's statistics, corrected towards the moving ones. Ghost
batches take theirs over fewer examples of the same few labels, which is no help.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from batchnorm.compat.v1.layers import batch_normalization
from batchnorm.demo.data import Digits, few_label_batches
from batchnorm.demo.graph import Call, GraphNetwork, Normalize
from batchnorm.demo.network import DECAY, EPSILON, LEARNING_RATE, initial_weights

__all__ = ["METHODS", "OPENING", "TRACED", "Course", "Reading", "renorm_bounds", "train_by_each"]

Tensor = Any
GHOST_SIZE = 12
TRACED = "norm_2"
READINGS = 60
# Where renorm's bounds end up, as in the paper.
R_MAX, D_MAX = 3.0, 5.0
# The shares of a training between which they open.
OPENING = (0.2, 0.4)


class Reading(NamedTuple):
    """What stands after some steps: accuracy at inference, and the traced moving statistics' mean over channels."""

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


def normalize(x: Tensor, name: str, call: Call, **options: Any) -> Tensor:
    """Batch norm by the v1 function."""
    training = call["training"]
    return batch_normalization(x, momentum=DECAY, epsilon=EPSILON, training=training, name=name, **options)


def renormalize(x: Tensor, name: str, call: Call) -> Tensor:
    """Batch renormalization with bounds from placeholders."""
    clipping = {bound: call[bound] for bound in ("rmin", "rmax", "dmax")}
    return normalize(x, name, call, renorm=True, renorm_momentum=DECAY, renorm_clipping=clipping)


def only_offset(x: Tensor, name: str, call: Call) -> Tensor:
    """No normalization: the offset alone, as a convolution has by itself."""
    del call
    return x + tf.compat.v1.get_variable(f"{name}/beta", x.shape[-1:], initializer=tf.zeros_initializer())


METHODS: dict[str, Normalize] = {
    "plain": normalize,
    "renorm": renormalize,
    "ghost": partial(normalize, virtual_batch_size=GHOST_SIZE),
    "none": only_offset,
}


def train_by_each(
    digits: Digits, epochs: int, seed: int, tick: Callable[[str, float, float], None]
) -> dict[str, Course]:
    """Train by every method from the same weights and batches; `tick(method, share done, loss)` at each step."""
    return {name: _train(name, digits, epochs, seed, partial(tick, name)) for name in METHODS}


def renorm_bounds(progress: float) -> dict[str, float]:
    """The paper's schedule: plain batch norm while the moving statistics settle, then ever wider bounds."""
    width = float(np.interp(progress, OPENING, (0.0, 1.0)))
    largest = 1.0 + (R_MAX - 1.0) * width
    return {"rmin": 1.0 / largest, "rmax": largest, "dmax": D_MAX * width}


def _train(
    method: str, digits: Digits, epochs: int, seed: int, tick: Callable[[float, float], None]
) -> Course:
    # The defaults are what the end of the schedule leaves, for the accuracy by the batch's statistics.
    network = GraphNetwork(initial_weights(seed), METHODS[method], renorm_bounds(1.0))
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


def _read(network: GraphNetwork, digits: Digits, step: int) -> Reading:
    answers = network.logits(digits.test_images, training=False).argmax(1)
    moving = network.statistics()
    traced = [moving.get(f"{TRACED}/{name}", np.nan) for name in ("moving_mean", "moving_variance")]
    mean, variance = (float(np.mean(value)) for value in traced)
    return Reading(step, float(np.mean(answers == digits.test_labels)), mean, variance)


def _accuracy_by_batch(network: GraphNetwork, digits: Digits, seed: int) -> float:
    """On test digits in batches of the same few labels, normalized by their own statistics as in training."""
    right = [
        network.logits(digits.test_images[batch], training=True).argmax(1) == digits.test_labels[batch]
        for batch in few_label_batches(digits.test_labels, 5, seed)
    ]
    return float(np.mean(right))
