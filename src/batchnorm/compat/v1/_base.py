"""The base class of the v1 layer: Keras 2's if TensorFlow's Keras is Keras 2, otherwise our own."""

import os
from importlib.util import find_spec
from typing import Any

__all__ = ["InputSpec", "Layer"]

Layer: Any
InputSpec: Any

# TensorFlow checks the same, and goes on without Keras 2 if it is not installed.
if os.environ.get("TF_USE_LEGACY_KERAS") in ("true", "True", "1") and find_spec("tf_keras"):
    from batchnorm.compat.v1.private import InputSpec, Layer
else:
    from batchnorm.compat.v1._layer_base import InputSpec
    from batchnorm.compat.v1._standalone import Layer
