"""Scikit-learn's handwritten digits, and the order in which a training sees them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

__all__ = ["BATCH", "LABEL_GROUPS", "Digits", "few_label_batches", "load", "mixed_batches"]

BATCH = 48
# Digits that resemble each other, such as 1 and 8, or 3 and 9, never meet in a batch of few labels.
LABEL_GROUPS = ((1, 2), (5, 9), (4, 6, 7), (0, 3, 8))


@dataclass(frozen=True)
class Digits:
    """Images [count, 8, 8, 1] in 0 to 1 and labels [count], split into a part to train on and one to test on."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def load(seed: int, share: float = 0.8) -> Digits:
    """The 1797 digits, shuffled, with a share of them to train on."""
    pixels, targets = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8, 1) / pixels.max()).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = np.split(order, [int(share * len(images))])
    labels = targets.astype(np.int64)
    return Digits(images[train], labels[train], images[test], labels[test])


def mixed_batches(labels: NDArray[np.int64], epochs: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """The indices of each batch over some epochs, every example as likely as any other."""
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        yield from _full_batches(generator.permutation(len(labels)))


def few_label_batches(labels: NDArray[np.int64], epochs: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """The indices of each batch over some epochs, where a batch holds the digits of one of the groups only."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(np.isin(labels, group)) for group in LABEL_GROUPS]
    for _ in range(epochs):
        batches = [batch for each in members for batch in _full_batches(generator.permutation(each))]
        yield from generator.permutation(np.array(batches))


def _full_batches(indices: NDArray[np.intp]) -> NDArray[np.intp]:
    # The rest of an epoch that does not fill a batch is left out: ghost batches must divide a batch.
    return indices[: len(indices) // BATCH * BATCH].reshape(-1, BATCH)
