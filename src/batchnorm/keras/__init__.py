"""The Keras 3 layer, `batchnorm.keras.layers.BatchNormalization`, and `convert` for whole models."""

from batchnorm.errors import format_error

try:
    import keras as _keras  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as error:
    raise ImportError(
        format_error(
            "batchnorm.keras was imported", "It needs Keras 3", "Run: pip install 'batchnorm[keras]'"
        )
    ) from error

from batchnorm.keras._convert import convert

__all__ = ["convert"]
