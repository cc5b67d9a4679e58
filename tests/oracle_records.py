"""The oracle's records, and its one way to see an array.

"Lifted" is an array of rank n + 1 whose axis 1 counts ghost groups: [B, ...] -> [B / groups, groups, ...].
Without ghosts there is one group. Reduced are all lifted axes but the groups and the kept axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Spec:
    """What is asked. `axes` are the kept axes; `legacy_renorm` is the debiased form of TensorFlow <= 1.14."""

    axes: tuple[int, ...]
    decay: float = 0.99
    epsilon: float = 1e-3
    with_gamma: bool = True
    with_beta: bool = True
    variance: str = "population"
    ghost_size: int | None = None
    ghost_order: str = "interleaved"
    ghost_averages: str = "step"
    renorm: bool = False
    renorm_clip: Mapping[str, float] | None = None
    renorm_decay: float = 0.99
    debias_mean: bool = False
    legacy_renorm: bool = False
    activation: str | None = None
    slope: float = 0.0

    def __post_init__(self) -> None:
        for field, allowed in (
            ("variance", ("population", "sample")),
            ("ghost_order", ("interleaved", "contiguous")),
            ("ghost_averages", ("step", "group")),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r} is none of {allowed}")
        if self.legacy_renorm and (not self.renorm or self.debias_mean):
            raise ValueError(
                "legacy_renorm is a form of renorm and debiases by itself: set renorm=True alone"
            )
        if not set(self.renorm_clip or ()) <= {"rmin", "rmax", "dmax"}:
            raise ValueError(f"renorm_clip has keys {sorted(self.renorm_clip or ())}: use rmin, rmax, dmax")


@dataclass(frozen=True)
class State:
    """What a layer remembers; fields that the spec does not use are None. debias_mean uses the last two."""

    mean: Array
    variance: Array
    stddev: Array | None = None
    renorm_mean: Array | None = None
    renorm_stddev: Array | None = None
    renorm_mean_weight: float | None = None
    renorm_stddev_weight: float | None = None
    biased: Array | None = None
    local_step: float | None = None


def kept_axes(spec: Spec, rank: int) -> tuple[int, ...]:
    return tuple(sorted(a % rank for a in spec.axes))


def kept_shape(spec: Spec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Rank n, with 1 off the kept axes."""
    axes = kept_axes(spec, len(shape))
    return tuple(size if i in axes else 1 for i, size in enumerate(shape))


def check_ghosts(spec: Spec, shape: tuple[int, ...]) -> None:
    if spec.ghost_size is None:
        return
    if 0 in kept_axes(spec, len(shape)):
        raise ValueError(f"ghost_size={spec.ghost_size} splits axis 0, which axes={spec.axes} keeps")
    if spec.ghost_size < 1 or shape[0] % spec.ghost_size:
        raise ValueError(f"ghost_size={spec.ghost_size} does not divide the batch of {shape[0]}")


def lift(spec: Spec, a: Array) -> Array:
    size = spec.ghost_size or a.shape[0]
    groups = a.shape[0] // size if size else 1
    if spec.ghost_order == "interleaved":
        # group k holds the examples k, k + groups, k + 2 * groups, ...
        return a.reshape((size, groups, *a.shape[1:]))
    return a.reshape((groups, size, *a.shape[1:])).swapaxes(0, 1)


def unlift(spec: Spec, a: Array, shape: tuple[int, ...]) -> Array:
    return (a if spec.ghost_order == "interleaved" else a.swapaxes(0, 1)).reshape(shape)


def lift_kept(spec: Spec, value: object, shape: tuple[int, ...]) -> Array:
    """An array per channel, made to broadcast against lifted arrays of inputs of `shape`."""
    return np.expand_dims(np.reshape(np.asarray(value, np.float64), kept_shape(spec, shape)), 1)


def reduced_sum(spec: Spec, a: Array) -> Array:
    """The sum of a lifted array over each channel of each group."""
    kept = {1} | {i + 1 if i else 0 for i in kept_axes(spec, a.ndim - 1)}
    return np.sum(a, axis=tuple(i for i in range(a.ndim) if i not in kept), keepdims=True)


def average_groups(values: Array, present: Array) -> Array:
    """The plain average over the groups that are present; 0 where none is."""
    count = present.sum(axis=1, keepdims=True)
    return np.where(present, values, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)


def align_left(weights: object, rank: int) -> Array:
    """Weights of shape [B], [B, 1, ..] or a mask's, with the trailing ones that make them broadcast to x."""
    w = np.asarray(weights, np.float64)
    return w.reshape(w.shape + (1,) * (rank - w.ndim))


def unbroadcast(a: Array, shape: tuple[int, ...]) -> Array:
    """The sum of `a` over whatever broadcasting `shape` to a.shape had repeated."""
    a = a.sum(axis=tuple(range(a.ndim - len(shape))))
    repeated = tuple(i for i, size in enumerate(shape) if size == 1)
    return a.sum(axis=repeated, keepdims=True).reshape(shape)
