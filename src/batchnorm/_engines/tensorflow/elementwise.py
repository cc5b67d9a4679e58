"""The arithmetic of the four passes on blocks [rows, length, width], statistics being [rows, 1, width].

Functions whose results are to be summed over the length may do the first part of it: with a `stride` they add
up the stretches of that length, and what they return is as long as one. A compiler makes one loop of it all.
Without a stride (None) they return the full length.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

__all__ = ["affine", "deviations", "products", "pulled", "weighted"]

Tensor = Any


def deviations(stride: int | None, x: Tensor, center: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """w·(x − center) and w·(x − center)²."""

    def of_stretch(x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        deviation = tf.cast(x, center.dtype) - center
        weighted = deviation
        for w in weights:
            weighted = w * weighted
        return weighted, weighted * deviation

    return _add_stretches(of_stretch, stride, x, *weights)


def weighted(stride: int | None, x: Tensor, weights: Tensor) -> tuple[Tensor]:
    """w·x."""
    return _add_stretches(lambda x, w: (w * tf.cast(x, w.dtype),), stride, x, weights)


def products(stride: int | None, dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
    """dy and dy·(x − mean)."""

    def of_stretch(dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        dy = tf.cast(dy, mean.dtype)
        return dy, dy * (tf.cast(x, mean.dtype) - mean)

    return _add_stretches(of_stretch, stride, dy, x)


def affine(_: int | None, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x − mean)·scale + shift."""
    return tf.cast((tf.cast(x, mean.dtype) - mean) * scale + shift, x.dtype)


def pulled(
    _: int | None,
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    slope: Tensor,
    tilt: Tensor,
    offset: Tensor,
    *weights: Tensor,
) -> Tensor:
    """slope·dy + w·(tilt·(x − mean) + offset)."""
    pull = (tf.cast(x, mean.dtype) - mean) * tilt + offset
    for w in weights:
        pull = w * pull
    return tf.cast(tf.cast(dy, mean.dtype) * slope + pull, x.dtype)


def _add_stretches(
    of_stretch: Callable[..., tuple[Tensor, ...]], stride: int | None, *blocks: Tensor
) -> tuple[Tensor, ...]:
    if stride is None:
        return of_stretch(*blocks)
    length = blocks[0].shape[1]
    terms: list[tuple[Tensor, ...]] = []
    for start in range(0, length, stride):
        # What has length 1 stands for every stretch alike.
        cut = (block if block.shape[1] == 1 else block[:, start : start + stride] for block in blocks)
        missing = max(start + stride - length, 0)
        terms.append(tuple(_lengthen(term, missing) for term in of_stretch(*cut)))
    return tuple(_add_in_pairs(list(column)) for column in zip(*terms, strict=True))


def _lengthen(term: Tensor, missing: int) -> Tensor:
    return tf.pad(term, [[0, 0], [0, missing], [0, 0]]) if missing else term


def _add_in_pairs(terms: list[Tensor]) -> Tensor:
    """The sum with few roundings, and without one long chain of dependent additions."""
    while len(terms) > 1:
        pairs = [left + right for left, right in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0]
