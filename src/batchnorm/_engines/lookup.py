"""Which framework an array belongs to, found among those that are imported already, and the engine for it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchnorm._core.engine import Engine
from batchnorm._engines.dispatch import Dispatch
from batchnorm.errors import format_error

__all__ = ["FRAMEWORKS", "Framework", "framework_of"]


@dataclass(frozen=True)
class Framework:
    """A framework whose arrays the package computes on.

    Attributes:
        title: its name in messages.
        module: what must be imported for its arrays to exist.
        package: ours, which has the engine.
        load_engine: imports the engine, in an import statement: compilers that trace Python understand nothing else.
        load_dispatch: the same for the module that says how a call is computed.
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
    load_dispatch: Callable[[], Any]
    compiling: Callable[[Any], bool] = lambda module: False

    @property
    def engine(self) -> Engine[Any]:
        return self.load_engine()

    @property
    def dispatch(self) -> Dispatch:
        return self.load_dispatch()

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


def _numpy_dispatch() -> Any:
    from batchnorm._engines.numpy import dispatch

    return dispatch


def _tensorflow_engine() -> Any:
    from batchnorm._engines.tensorflow import engine

    return engine


def _tensorflow_dispatch() -> Any:
    from batchnorm._engines.tensorflow import dispatch

    return dispatch


def _torch_engine() -> Any:
    from batchnorm._engines.torch import engine

    return engine


def _torch_dispatch() -> Any:
    from batchnorm._engines.torch import dispatch

    return dispatch


def _jax_engine() -> Any:
    from batchnorm._engines.jax import engine

    return engine


def _jax_dispatch() -> Any:
    from batchnorm._engines.jax import dispatch

    return dispatch


NUMPY = Framework(
    title="NumPy",
    module="numpy",
    package="batchnorm._engines.numpy",
    array_types=lambda numpy: (numpy.ndarray, numpy.generic),
    from_numpy=lambda array, like: array,
    takes_numpy=True,
    load_engine=_numpy_engine,
    load_dispatch=_numpy_dispatch,
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
        load_dispatch=_tensorflow_dispatch,
    ),
    Framework(
        title="PyTorch",
        module="torch",
        package="batchnorm._engines.torch",
        array_types=lambda torch: (torch.Tensor,),
        from_numpy=_torch_tensor,
        takes_numpy=False,
        load_engine=_torch_engine,
        load_dispatch=_torch_dispatch,
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
        load_dispatch=_jax_dispatch,
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
        format_error(
            f"{what} of type {type(x).__module__}.{type(x).__qualname__} was given",
            f"The framework is recognized by the type of the array: {titles}",
            "Pass an array of one of these, for instance numpy.asarray(x)",
        )
    )
