"""What type checkers make of `batch_norm` and `init`. Pyright reads this file; nothing runs it."""

# pyright: reportUnnecessaryTypeIgnoreComment=error

from typing import Any, assert_type

import jax
import numpy as np
import tensorflow as tf
import torch
from numpy.typing import NDArray

from batchnorm import Options, batch_norm, init
from batchnorm._core.engine import Gradients

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def without_an_array(options: Options) -> None:
    params, state = init(options, (8, 3))
    assert_type(params, dict[str, NDArray[Any]])
    assert_type(state, dict[str, NDArray[Any]])


def with_numpy(x: NDArray[np.float32], matrix: Matrix, options: Options, flag: bool) -> None:
    params, state = init(options, x.shape, like=x)
    assert_type(params, dict[str, NDArray[Any]])

    y, state = batch_norm(x, params, state, options, training=True)
    assert_type(y, NDArray[np.float32])
    assert_type(state, dict[str, NDArray[Any]])

    rows, _ = batch_norm(matrix, params, state, options, training=False)
    assert_type(rows, Matrix)

    y, state, pullback = batch_norm(x, params, state, options, training=True, with_pullback=True)
    assert_type(y, NDArray[np.float32])
    assert_type(pullback(y), Gradients[NDArray[Any]])

    # Two results or three: the caller has to find out.
    some = batch_norm(x, params, state, options, training=True, with_pullback=flag)
    assert_type(some[0], NDArray[np.float32])
    y, state = batch_norm(x, params, state, options, training=True, with_pullback=True)  # pyright: ignore[reportAssignmentType]
    y, state, _ = batch_norm(x, params, state, options, training=True)  # pyright: ignore[reportAssignmentType]


def with_torch(x: torch.Tensor, options: Options) -> None:
    params, state = init(options, x.shape, like=x)
    assert_type(params, dict[str, torch.Tensor])
    y, state = batch_norm(x, params, state, options, training=True)
    assert_type(y, torch.Tensor)
    assert_type(state, dict[str, torch.Tensor])
    trained = {name: torch.nn.Parameter(value) for name, value in params.items()}
    assert_type(batch_norm(x, trained, state, options, training=True)[0], torch.Tensor)
    # Only NumPy has a pullback.
    batch_norm(x, params, state, options, training=True, with_pullback=True)  # pyright: ignore[reportCallIssue, reportArgumentType]
    batch_norm(x, params, state, options)  # pyright: ignore[reportCallIssue]


def with_jax(x: jax.Array, options: Options) -> None:
    params, state = init(options, x.shape, like=x)
    assert_type(params, dict[str, jax.Array])
    y, state = batch_norm(x, params, state, options, training=True, axis_name="batch")
    assert_type(y, jax.Array)
    assert_type(state, dict[str, jax.Array])


def with_tensorflow(x: tf.Tensor, options: Options) -> None:
    params, state = init(options, (8, 3), like=x)
    assert_type(params, dict[str, tf.Tensor])
    y, state = batch_norm(x, params, state, options, training=True)
    assert_type(y, tf.Tensor)
    assert_type(state, dict[str, tf.Tensor])
