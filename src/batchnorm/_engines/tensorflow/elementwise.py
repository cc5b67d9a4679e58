"""The arithmetic of the four passes on blocks [rows, length, width], statistics being [rows, 1, width].

Compiled, each is one loop, and those whose results are to be summed do the first part of it: they add up pieces,
and what they return has the size of one. If the piece is None, nothing is compiled: they return the full size,
and use TensorFlow's fused operation if it fits.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm._engines.tensorflow.compiled import kernel, pays
from batchnorm._engines.tensorflow.fused import fits_fused, fused_affine

__all__ = [
    "MOST_PIECES",
    "Piece",
    "add_in_pairs",
    "affine",
    "deviations",
    "products",
    "pulled",
    "run",
    "weighted",
]

Tensor = Any

# A compiled loop over more pieces runs out of registers; up to the larger number if that saves a sum afterwards.
PIECES = 8
MOST_PIECES = 16


class Piece(NamedTuple):
    """The size of a piece of a block. The last one along the length may be shorter."""

    rows: int
    length: int


def run(function: Callable[..., Any], repeats: Any, *blocks: Tensor) -> Any:
    """One of the functions below, in one compiled loop if that pays off.

    Args:
        repeats: how many times the rows of the first block repeat the same series of statistics; such rows may be
            added up.
    """
    if not pays(*blocks):
        return function(None, *blocks)
    rows, length, _ = blocks[0].shape
    return kernel(function, (_piece(rows, length, repeats),), blocks)(*blocks)


def _piece(rows: int, length: int, repeats: int) -> Piece:
    """Pieces that lie far apart in memory: of the repeats first, then of the length."""
    parts = max(part for part in range(1, PIECES + 1) if repeats % part == 0)
    return Piece(rows // parts, 1 if length * parts <= MOST_PIECES else -(-length // (PIECES // parts)))


def deviations(piece: Piece | None, x: Tensor, center: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """w·(x − center) and w·(x − center)²."""

    def of_piece(x: Tensor, center: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        deviation = tf.cast(x, center.dtype) - center
        weighted = deviation
        for w in weights:
            weighted = w * weighted
        return weighted, weighted * deviation

    return _add_up(of_piece, piece, x, center, *weights)


def weighted(piece: Piece | None, x: Tensor, weights: Tensor) -> tuple[Tensor]:
    """w·x."""
    return _add_up(lambda x, w: (w * tf.cast(x, w.dtype),), piece, x, weights)


def products(piece: Piece | None, dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
    """dy and dy·(x − mean)."""

    def of_piece(dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        dy = tf.cast(dy, mean.dtype)
        return dy, dy * (tf.cast(x, mean.dtype) - mean)

    return _add_up(of_piece, piece, dy, x, mean)


def affine(piece: Piece | None, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x − mean)·scale + shift."""
    if piece is None and fits_fused(x):
        return fused_affine(x, mean, scale, shift)
    return tf.cast((tf.cast(x, mean.dtype) - mean) * scale + shift, x.dtype)


def pulled(
    piece: Piece | None,
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    slope: Tensor,
    tilt: Tensor,
    offset: Tensor,
    *weights: Tensor,
) -> Tensor:
    """slope·dy + w·(tilt·(x − mean) + offset)."""
    pull = affine(piece, tf.cast(x, mean.dtype), mean, tilt, offset)
    for w in weights:
        pull = w * pull
    return tf.cast(tf.cast(dy, mean.dtype) * slope + pull, x.dtype)


def _add_up(
    of_piece: Callable[..., tuple[Tensor, ...]], piece: Piece | None, *blocks: Tensor
) -> tuple[Tensor, ...]:
    if piece is None:
        return of_piece(*blocks)
    rows, length, _ = blocks[0].shape
    terms: list[tuple[Tensor, ...]] = []
    for row in range(0, rows, piece.rows):
        for start in range(0, length, piece.length):
            cut = [_cut(_cut(block, 0, row, piece.rows), 1, start, piece.length) for block in blocks]
            missing = max(start + piece.length - length, 0)
            terms.append(tuple(_lengthen(term, missing) for term in of_piece(*cut)))
    return tuple(add_in_pairs(list(column)) for column in zip(*terms, strict=True))


def _cut(block: Tensor, axis: int, start: int, size: int) -> Tensor:
    """A piece along one axis. An array of length 1 there is the same for every piece."""
    if block.shape[axis] == 1:
        return block
    return block[start : start + size] if axis == 0 else block[:, start : start + size]


def _lengthen(term: Tensor, missing: int) -> Tensor:
    return tf.pad(term, [[0, 0], [0, missing], [0, 0]]) if missing else term


def add_in_pairs(terms: list[Tensor]) -> Tensor:
    """The sum with few roundings, and without one long chain of dependent additions."""
    while len(terms) > 1:
        pairs = [left + right for left, right in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0]
