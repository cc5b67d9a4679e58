"""Which framework an array belongs to, found among those that are imported already, and the engine for it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchnorm._core.engine import Engine
from batchnorm._engines.dispatch import Dispatch
from batchnorm.errors import format_error

__all__ = ["FRAMEWORKS", "Framework", "framework_of", "host_values"]


@dataclass(frozen=True)
class Framework:
    """A framework whose arrays the package computes on.

    Attributes:
        title: its name in messages.
        module: what must be imported for its arrays to exist.
        load: imports our package for it, which has `engine`, `dispatch` and `host_values`; in an import statement,
            because compilers that trace Python understand nothing else.
        array_types: the types of its arrays, given the imported module.
        from_numpy: a NumPy array as one of its own, beside another of its arrays.
        takes_numpy: whether its functions take NumPy arrays as they are.
        maps_axes: whether programs run over mapped axes, by name, over which statistics may be taken.
        compiling: whether a compiler is reading the Python that runs, given the imported module; it cannot see through
            a cache.
    """

    title: str
    module: str
    array_types: Callable[[Any], tuple[type, ...]]
    from_numpy: Callable[[Any, Any], Any]
    takes_numpy: bool
    load: Callable[[], Any]
    maps_axes: bool = False
    compiling: Callable[[Any], bool] = lambda module: False

    @property
    def engine(self) -> Engine[Any]:
        return self.load().engine

    @property
    def dispatch(self) -> Dispatch:
        return self.load().dispatch

    def engine_for(self, fused: bool | None, axis_name: Any) -> Engine[Any]:
        """The engine for a call that insists on kernels, or runs over mapped axes."""
        return self.load().engine_for(fused, axis_name) if self.maps_axes else self.engine

    def is_compiling(self) -> bool:
        """Whether a compiler that traces Python is at work."""
        return self.compiling(sys.modules[self.module])

    def owns(self, value: object) -> bool:
        module = sys.modules.get(self.module)
        return module is not None and isinstance(value, self.array_types(module))


def _jax_array(array: Any, like: Any) -> Any:
    del like
    # A copy: memory that NumPy owns cannot be donated.
    return sys.modules["jax"].numpy.array(array)


def _torch_tensor(array: Any, like: Any) -> Any:
    return sys.modules["torch"].as_tensor(array, device=like.device)


def _tensorflow_tensor(array: Any, like: Any) -> Any:
    del like
    return sys.modules["tensorflow"].constant(array)


def _load_numpy() -> Any:
    from batchnorm._engines import numpy

    return numpy


def _load_tensorflow() -> Any:
    from batchnorm._engines import tensorflow

    return tensorflow


def _load_torch() -> Any:
    from batchnorm._engines import torch

    return torch


def _load_jax() -> Any:
    from batchnorm._engines import jax

    return jax


NUMPY = Framework(
    title="NumPy",
    module="numpy",
    array_types=lambda numpy: (numpy.ndarray, numpy.generic),
    from_numpy=lambda array, like: array,
    takes_numpy=True,
    load=_load_numpy,
)

FRAMEWORKS = (
    NUMPY,
    Framework(
        title="TensorFlow",
        module="tensorflow",
        array_types=lambda tf: (tf.Tensor, tf.Variable),
        from_numpy=_tensorflow_tensor,
        takes_numpy=True,
        load=_load_tensorflow,
    ),
    Framework(
        title="PyTorch",
        module="torch",
        array_types=lambda torch: (torch.Tensor,),
        from_numpy=_torch_tensor,
        takes_numpy=False,
        load=_load_torch,
        compiling=lambda torch: torch.compiler.is_compiling(),
    ),
    Framework(
        title="JAX",
        module="jax",
        array_types=lambda jax: (jax.Array,),
        from_numpy=_jax_array,
        takes_numpy=True,
        load=_load_jax,
        maps_axes=True,
    ),
)


def host_values(array: object) -> Any:
    """The numbers of an array as a NumPy array, if they are known now and in CPU memory; otherwise None.

    None for arrays on accelerators, which the program would have to wait for, arrays that are being traced, and
    anything that is not an array of a known framework.
    """
    for framework in FRAMEWORKS:
        if framework.owns(array):
            return framework.load().host_values(array)
    return None


def framework_of(x: object, what: str) -> Framework:
    """The framework of an array.

    Raises:
        TypeError: it belongs to none of them.
    """
    for framework in FRAMEWORKS:
        if framework.owns(x):
            return framework
    titles = ", ".join(framework.title for framework in FRAMEWORKS)
    raise TypeError(
        format_error(
            f"{what} of type {type(x).__module__}.{type(x).__qualname__} was given",
            f"The framework is recognized by the type of the array: {titles}",
            "Pass an array of one of these, for instance numpy.asarray(x)",
        )
    )
