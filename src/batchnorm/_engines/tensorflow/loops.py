"""The arithmetic of the four passes on blocks [rows, length, width], statistics being [rows, 1, width].

Compiled, each is one loop, and those whose results are to be summed do the first part of it: they add up pieces,
and what they return has the size of one. If the piece is None, nothing is compiled: they return the full size,
and use TensorFlow's fused operation if it fits.

`sum_length` sums what they return: on a CPU, multiplying by ones is the fastest way. Each sum reads one column of one
row only, so a NaN or an infinity stays where it is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.compiled import kernel, pays
from batchnorm._engines.tensorflow.inference import fused_normalize

__all__ = [
    "affine",
    "deviations",
    "products",
    "pulled",
    "run",
    "sum_length",
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
    if piece is None and _fits_fused(x):
        return _fused_affine(x, mean, scale, shift)
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


def _fits_fused(x: Tensor) -> bool:
    """Whether a block [rows, length, width] has one row, and numbers that the operation takes."""
    return x.shape.rank == 3 and x.shape[0] == 1 and x.dtype != tf.float64


def _fused_affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x − mean)·scale + shift for such a block; 1 / √(½ + ½) is exact."""
    shift, mean, scale = (tf.reshape(value, [-1]) for value in (shift, mean, scale))
    half = tf.fill(tf.shape(mean), 0.5)
    # [1, length, width] as one image of one row.
    return tf.squeeze(fused_normalize(tf.expand_dims(x, 0), scale, shift, mean, half, 0.5), [0])


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


def sum_length(z: Tensor) -> Tensor:
    """Σ over the length of a block: [rows, width]."""
    rows, length, width = ops.shape(z)
    if _is_one(length):
        return ops.reshape(z, (rows, width))
    parts = ops.divisor(length) if isinstance(length, int) else 1
    if parts > 1 and not (_is_one(rows) and _is_one(width)):
        # A single chain of so many additions would be inaccurate.
        rest = length // parts
        pieces = (rows * rest, parts, 1) if _is_one(width) else (rows, parts, rest * width)
        return sum_length(ops.reshape(sum_length(ops.reshape(z, pieces)), (rows, rest, width)))
    if _is_one(width):
        z = ops.reshape(z, (rows, length))
        return ops.reshape(tf.reduce_sum(z), (1, 1)) if _is_one(rows) else tf.matmul(z, _ones(z, (length, 1)))
    if _is_one(rows):
        return tf.matmul(_ones(z, (1, length)), ops.reshape(z, (length, width)))
    return ops.reshape(tf.matmul(_ones(z, (rows, 1, length)), z), (rows, width))


def _ones(z: Tensor, shape: tuple[Any, ...]) -> Tensor:
    return tf.ones(tf.stack(shape), z.dtype)


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1
