"""Which framework an array belongs to, found among those that are imported already, and the engine for it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchnorm._core.engine import Engine
from batchnorm._engines.ways import Ways
from batchnorm.errors import refusal

__all__ = ["FRAMEWORKS", "Framework", "framework_of"]


@dataclass(frozen=True)
class Framework:
    """A framework whose arrays the package computes on.

    Attributes:
        title: its name in messages.
        module: what must be imported for its arrays to exist.
        package: ours, which has the engine.
        load_engine: imports the engine, in an import statement: compilers that trace Python understand nothing else.
        load_ways: the same for the module that says how a call is computed.
        array_types: the types of its arrays, given the imported module.
        from_numpy: a NumPy array as one of its own, beside another of its arrays.
        takes_numpy: whether its functions take NumPy arrays as they are.
        compiling: whether a compiler is reading the Python that runs, given the imported module; it cannot see through
            a cache.
    """

    title: str
    module: str
    package: str
    array_types: Callable[[Any], tuple[type, ...]]
    from_numpy: Callable[[Any, Any], Any]
    takes_numpy: bool
    load_engine: Callable[[], Any]
    load_ways: Callable[[], Any]
    compiling: Callable[[Any], bool] = lambda module: False

    @property
    def engine(self) -> Engine[Any]:
        return self.load_engine()

    @property
    def ways(self) -> Ways:
        return self.load_ways()

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


def _numpy_engine() -> Any:
    from batchnorm._engines.numpy import native

    return native


def _numpy_ways() -> Any:
    from batchnorm._engines.numpy import ways

    return ways


def _tensorflow_engine() -> Any:
    from batchnorm._engines.tensorflow import engine

    return engine


def _tensorflow_ways() -> Any:
    from batchnorm._engines.tensorflow import ways

    return ways


def _torch_engine() -> Any:
    from batchnorm._engines.torch import engine

    return engine


def _torch_ways() -> Any:
    from batchnorm._engines.torch import dispatch

    return dispatch


def _jax_engine() -> Any:
    from batchnorm._engines.jax import engine

    return engine


def _jax_ways() -> Any:
    from batchnorm._engines.jax import ways

    return ways


NUMPY = Framework(
    title="NumPy",
    module="numpy",
    package="batchnorm._engines.numpy",
    array_types=lambda numpy: (numpy.ndarray, numpy.generic),
    from_numpy=lambda array, like: array,
    takes_numpy=True,
    load_engine=_numpy_engine,
    load_ways=_numpy_ways,
)

FRAMEWORKS = (
    NUMPY,
    Framework(
        title="TensorFlow",
        module="tensorflow",
        package="batchnorm._engines.tensorflow",
        array_types=lambda tf: (tf.Tensor, tf.Variable),
        from_numpy=_tensorflow_tensor,
        takes_numpy=True,
        load_engine=_tensorflow_engine,
        load_ways=_tensorflow_ways,
    ),
    Framework(
        title="PyTorch",
        module="torch",
        package="batchnorm._engines.torch",
        array_types=lambda torch: (torch.Tensor,),
        from_numpy=_torch_tensor,
        takes_numpy=False,
        load_engine=_torch_engine,
        load_ways=_torch_ways,
        compiling=lambda torch: torch.compiler.is_compiling(),
    ),
    Framework(
        title="JAX",
        module="jax",
        package="batchnorm._engines.jax",
        array_types=lambda jax: (jax.Array,),
        from_numpy=_jax_array,
        takes_numpy=True,
        load_engine=_jax_engine,
        load_ways=_jax_ways,
    ),
)


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
        refusal(
            f"{what} of type {type(x).__module__}.{type(x).__qualname__} was given",
            f"The framework is recognized by the type of the array: {titles}",
            "Pass an array of one of these, for instance numpy.asarray(x)",
        )
    )
