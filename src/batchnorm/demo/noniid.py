"""Part 2: minibatches of two or three labels each, in the spirit of Ioffe 2017 (https://arxiv.org/abs/1702.03275), §4.3.

A batch of 1s and 2s tells the network, through the batch's own statistics, that no 7 is among them. Plain batch norm
learns to count on that, and at inference there is no batch to tell. Renorm trains on what inference will use: the batch's
statistics, corrected towards the moving ones. Ghost batches take theirs over fewer examples of the same few labels, so
they cannot help.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchnorm.compat.v1.layers import batch_normalization
from batchnorm.demo.data import Digits, few_label_batches
from batchnorm.demo.graph import Call, GraphNetwork, Normalize, v1
from batchnorm.demo.network import DECAY, EPSILON, LEARNING_RATE, initial_weights

__all__ = ["GHOST_SIZE", "METHODS", "TRACED", "Course", "train_by_each"]

Tensor = Any
GHOST_SIZE = 12
TRACED = "norm_2"
CURVE_POINTS = 60
# Where renorm's bounds end up, as in the paper.
R_MAX, D_MAX = 3.0, 5.0


@dataclass(frozen=True)
class Course:
    """One training: the loss of each step, what was read between steps, and how it ended.

    `moving_mean` and `moving_variance` are the traced layer's, averaged over its channels; without a
    normalization there are none.
    """

    losses: list[float]
    read_at: list[int]
    accuracies: list[float]
    moving_mean: list[float]
    moving_variance: list[float]
    by_batch: float
    by_moving: float


def plain(x: Tensor, name: str, call: Call) -> Tensor:
    """Batch norm."""
    training = call["training"]
    return batch_normalization(x, momentum=DECAY, epsilon=EPSILON, training=training, name=name)


def renorm(x: Tensor, name: str, call: Call) -> Tensor:
    """Batch renormalization, with bounds from placeholders."""
    return batch_normalization(
        x,
        momentum=DECAY,
        epsilon=EPSILON,
        training=call["training"],
        name=name,
        renorm=True,
        renorm_momentum=DECAY,
        renorm_clipping={bound: call[bound] for bound in ("rmin", "rmax", "dmax")},
    )


def ghost(x: Tensor, name: str, call: Call) -> Tensor:
    """Ghost batches: each batch's examples dealt out like cards."""
    return batch_normalization(
        x,
        momentum=DECAY,
        epsilon=EPSILON,
        training=call["training"],
        name=name,
        virtual_batch_size=GHOST_SIZE,
    )


def without(x: Tensor, name: str, call: Call) -> Tensor:
    """An offset alone, as a convolution has by itself."""
    del call
    return x + v1.get_variable(f"{name}/beta", x.shape[-1:], initializer=tf_zeros)


METHODS: dict[str, Normalize] = {"plain": plain, "renorm": renorm, "ghost": ghost, "none": without}


def train_by_each(
    digits: Digits, epochs: int, seed: int, tick: Callable[[str, float], None]
) -> dict[str, Course]:
    """Train by every method with the same initial weights and batches; `tick(method, loss)` after each step."""
    return {name: _train(name, normalize, digits, epochs, seed, tick) for name, normalize in METHODS.items()}


def _train(
    name: str,
    normalize: Normalize,
    digits: Digits,
    epochs: int,
    seed: int,
    tick: Callable[[str, float], None],
) -> Course:
    bounds = renorm_bounds(1.0) if normalize is renorm else {}
    network = GraphNetwork(initial_weights(seed), normalize, bounds)
    batches = list(few_label_batches(digits.train_labels, epochs, seed))
    losses: list[float] = []
    read_at: list[int] = []
    accuracies: list[float] = []
    statistics: list[tuple[float, float]] = []
    for step, batch in enumerate(batches):
        if step % max(1, len(batches) // CURVE_POINTS) == 0:
            read_at.append(step)
            accuracies.append(_accuracy_by_moving(network, digits))
            statistics += _trace(network)
        progress = step / len(batches)
        given = {"rate": LEARNING_RATE * (1.0 - progress)}
        if bounds:
            given |= renorm_bounds(progress)
        losses.append(network.train(digits.train_images[batch], digits.train_labels[batch], given))
        tick(name, losses[-1])
    return Course(
        losses,
        read_at,
        accuracies,
        [mean for mean, _ in statistics],
        [variance for _, variance in statistics],
        _accuracy_by_batch(network, digits, seed),
        _accuracy_by_moving(network, digits),
    )


def renorm_bounds(progress: float) -> dict[str, float]:
    """The paper's schedule: plain batch norm at first, while the moving statistics settle, then ever wider bounds."""
    width = float(np.clip(5.0 * progress - 1.0, 0.0, 1.0))
    largest = 1.0 + (R_MAX - 1.0) * width
    return {"rmin": 1.0 / largest, "rmax": largest, "dmax": D_MAX * width}


def _accuracy_by_moving(network: GraphNetwork, digits: Digits) -> float:
    answers = network.logits(digits.test_images, training=False).argmax(1)
    return float(np.mean(answers == digits.test_labels))


def _accuracy_by_batch(network: GraphNetwork, digits: Digits, seed: int) -> float:
    """On batches of the same few labels from the test digits, normalized by their own statistics."""
    batches = few_label_batches(digits.test_labels, 5, seed)
    right = [
        network.logits(digits.test_images[batch], training=True).argmax(1) == digits.test_labels[batch]
        for batch in batches
    ]
    return float(np.mean(right))


def _trace(network: GraphNetwork) -> list[tuple[float, float]]:
    moving: Mapping[str, Any] = network.statistics()
    if not moving:
        return []
    return [tuple(float(moving[f"{TRACED}/{name}"].mean()) for name in ("moving_mean", "moving_variance"))]
