"""A pass as a primitive of JAX: a CPU kernel where XLA compiles for the CPU, plain operations everywhere else.

Plain operations are what other devices get, what an exported program holds, what `vmap` maps over, and what higher
derivatives are derived from. XLA's program decides which of them is used: only then is the device known.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive

from batchnorm._engines.jax import ops, private
from batchnorm._kernels.axis_groups import kernel_sizes
from batchnorm._kernels.jax import target
from batchnorm.activation import ACTIVATIONS, Activation
from batchnorm.layout import Layout

__all__ = ["TYPES", "Plan", "define", "linear_in"]

Array = Any
# Of the kernels' interface (`csrc/include/batchnorm_kernels.h`).
TYPES = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}


@dataclass(frozen=True)
class Plan:
    """What is known about a call besides its arrays.

    Attributes:
        layout: of x.
        present: which of the optional arrays were given; they come last.
        epsilon: for the passes that use one.
        activation: what follows the affine map.
    """

    layout: Layout
    present: tuple[bool, ...] = ()
    epsilon: float = 0.0
    activation: Activation | None = None

    def fill(self, optional: Sequence[Array]) -> list[Array | None]:
        """The optional arrays, and None for each that was not given."""
        rest = iter(optional)
        return [next(rest) if is_present else None for is_present in self.present]

    def recipe(self, dtype: Any) -> np.ndarray[Any, Any]:
        """The same in the order of `Recipe` in `csrc/jax/call.h`."""
        sizes = kernel_sizes(self.layout)
        assert sizes is not None  # otherwise the pass would not be a primitive
        present = sum(1 << place for place, is_present in enumerate(self.present) if is_present)
        name, slope = ("identity", 0.0) if self.activation is None else astuple(self.activation)
        kind, by_group, function = TYPES[dtype.name], bool(sizes.by_group), ACTIVATIONS.index(name)
        bits = [int(np.float64(value).view(np.int64)) for value in (self.epsilon, slope)]
        first = [kind, *sizes.sizes, self.layout.channels, present, by_group]
        return np.array([*first, bits[0], function, bits[1]], np.int64)


def define(
    name: str, function: Callable[..., tuple[Array, ...]], results: str, *, kernel: str | None
) -> Primitive:
    """A primitive that computes `function(plan, *arrays)`.

    Args:
        name: of the primitive.
        function: the pass in operations that JAX knows.
        results: the kind of each result: "large" as the first array, "statistic" [G, C], or "total" [G, 1]; after a
            "/" those that there are if the last of the optional arrays is.
        kernel: the name of the kernel, if there is one.
    """
    primitive = Primitive(f"batchnorm_{name}")
    primitive.multiple_results = True

    def as_shapes(*given: Any, plan: Plan) -> list[ShapedArray]:
        layout, dtype = plan.layout, ops.stat_dtype(given[0])
        shapes = {
            "large": (layout.shape, given[0].dtype),
            "statistic": ((layout.ghosts, layout.channels), dtype),
            "total": ((layout.ghosts, 1), dtype),
        }
        always, _, at_times = results.partition("/")
        kinds = always.split() + (at_times.split() if plan.present and plan.present[-1] else [])
        return [ShapedArray(*shapes[kind]) for kind in kinds]

    def push(primals: Any, tangents: Any, *, plan: Plan) -> Any:
        tangents = tuple(map(private.instantiate_zeros, tangents))
        return jax.jvp(partial(function, plan), tuple(primals), tangents)

    def spread(arrays: Any, axes: Any, *, plan: Plan) -> Any:
        results = jax.vmap(partial(function, plan), tuple(axes))(*arrays)
        return results, [0] * len(results)

    plainly = private.lower_plainly(lambda *arrays, plan: function(plan, *arrays))

    def on_cpu(context: Any, *arrays: Any, plan: Plan) -> Any:
        if private.is_exported(context):
            return plainly(context, *arrays, plan=plan)
        recipe = plan.recipe(context.avals_in[0].dtype)
        return jax.ffi.ffi_lowering(target(str(kernel)))(context, *arrays, recipe=recipe)

    primitive.def_abstract_eval(as_shapes)
    primitive.def_impl(lambda *arrays, plan: _compiled(primitive, plan)(*arrays))
    private.primitive_jvps[primitive] = push
    private.primitive_batchers[primitive] = spread
    private.register_lowering(primitive, plainly)
    if kernel is not None:
        private.register_lowering(primitive, on_cpu, platform="cpu")
    return primitive


@lru_cache(maxsize=1024)
def _compiled(primitive: Primitive, plan: Plan) -> Callable[..., Any]:
    """The primitive outside of any program."""
    return jax.jit(partial(primitive.bind, plan=plan))


def linear_in(
    primitive: Primitive,
    places: Sequence[int] | Callable[[Plan], Sequence[int]],
    transpose: Callable[..., tuple[Array, ...]],
) -> None:
    """Declare that a primitive is linear in the arrays at those positions, and how it is transposed.

    `transpose(plan, cotangents, others)` gives the cotangents of those arrays from those of the results; `others` are
    the remaining arrays.
    """

    def rule(cotangents: Any, *arrays: Any, plan: Plan) -> list[Array | None]:
        own = places(plan) if callable(places) else places
        others = [array for place, array in enumerate(arrays) if place not in own]
        found = dict(
            zip(own, transpose(plan, [*map(private.instantiate_zeros, cotangents)], others), strict=True)
        )
        return [
            found[place] if private.is_undefined_primal(array) else None for place, array in enumerate(arrays)
        ]

    private.primitive_transposes[primitive] = rule
