"""The mask and the sample weights of a call as one array of weights."""

from collections.abc import Sequence
from typing import Any

import keras

from batchnorm.errors import refusal

__all__ = ["check_weights", "merge_weights"]

Tensor = Any


def check_weights(inputs: Tensor, mask: Tensor | None, sample_weight: Tensor | None) -> None:
    """Refuse a mask or weights that do not fit the inputs, at inference as well."""
    shape = tuple(inputs.shape)
    if mask is not None:
        if len(mask.shape) != len(shape) - 1:
            raise ValueError(
                refusal(
                    f"A mask of shape {tuple(mask.shape)} came with inputs of shape {shape}",
                    "A mask has the shape of the inputs without the last axis",
                    "Pass a mask with one axis less than the inputs",
                )
            )
        _check_fit("mask", (*mask.shape, 1), shape)
    if sample_weight is not None:
        _check_fit("sample_weight", tuple(sample_weight.shape), shape)


def merge_weights(
    inputs: Tensor, mask: Tensor | None, sample_weight: Tensor | None, dtype: str
) -> Tensor | None:
    """Weights of the inputs' rank that broadcast to them, or None; a masked position weighs nothing."""
    weights = None
    if mask is not None:
        counts: Tensor = mask
        if keras.backend.standardize_dtype(counts.dtype) != "bool":
            counts = keras.ops.cast(counts, "bool")
        weights = keras.ops.cast(counts[..., None], dtype)
    if sample_weight is not None:
        given: Tensor = keras.ops.cast(sample_weight, dtype)
        for _ in range(len(inputs.shape) - len(given.shape)):
            given = keras.ops.expand_dims(given, -1)
        weights = given if weights is None else weights * given
    return weights


def _check_fit(name: str, given: Sequence[int | None], shape: Sequence[int | None]) -> None:
    pairs = zip(given, shape, strict=False)
    fits = all(size in (1, None) or wanted is None or size == wanted for size, wanted in pairs)
    if not given or len(given) > len(shape) or not fits:
        raise ValueError(
            refusal(
                f"A {name} of shape {tuple(given)} came with inputs of shape {tuple(shape)}",
                "Its axes stand for the first axes of the inputs, and each must have the same size or 1",
                "Pass one weight per example, [batch], or weights that broadcast to the inputs",
            )
        )
