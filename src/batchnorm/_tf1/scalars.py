"""Options that are tensors, such as a scheduled decay, in the dtype that a call computes in."""

from dataclasses import replace
from typing import Any, TypeVar

import tensorflow as tf

from batchnorm.options import BOUNDS, Options

__all__ = ["in_dtype"]

Record = TypeVar("Record", bound=Any)


def in_dtype(options: Options, dtype: Any) -> Options:
    """The options with every scalar tensor and variable cast; Python numbers fit any dtype as they are."""
    options = _cast(options, ("decay", "epsilon"), dtype)
    if options.renorm is None:
        return options
    clip = _cast(options.renorm.clip, BOUNDS, dtype)
    renorm = _cast(options.renorm, ("decay",), dtype)
    return replace(options, renorm=replace(renorm, clip=clip))


def _cast(record: Record, names: tuple[str, ...], dtype: Any) -> Record:
    values = {name: getattr(record, name) for name in names}
    other = {
        name: tf.cast(value, dtype)
        for name, value in values.items()
        if tf.is_tensor(value) and value.dtype.base_dtype != dtype
    }
    return replace(record, **other) if other else record
