"""The Keras 3 layer, `batchnorm.keras.layers.BatchNormalization`."""

from batchnorm.errors import refusal

try:
    import keras as _keras  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as error:
    raise ImportError(
        refusal("batchnorm.keras was imported", "It needs Keras 3", "Run: pip install 'batchnorm[keras]'")
    ) from error
