"""A case: the options, shapes and kinds of numbers of a few training steps, and what the oracle says."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

import oracle
from batchnorm.options import Options
from oracle_cases import variables_of

Array = np.ndarray
PARAMETER_NAMES = ("gamma", "beta", "weights", "adjustment")


@dataclass(frozen=True)
class Case:
    """What is asked; the numbers follow from the seed.

    Attributes:
        weights: their shape, of the rank of x, or None.
        weightless: where weights are zero: "nowhere", "some" (one in three), "channel" (the first), "group"
            (the first; without ghosts the first example), or "all".
        adjustment: the shapes of its factor and its offset, or None.
        residual: whether there is one.
        offset: how far the channels' means are from zero.
        steps: how many training steps are taken.
    """

    options: Options
    shape: tuple[int, ...]
    dtype: str = "float64"
    weights: tuple[int, ...] | None = None
    weightless: str = "nowhere"
    adjustment: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    residual: bool = False
    offset: float = 1.0
    steps: int = 3
    seed: int = 0

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(sorted(axis % len(self.shape) for axis in self.options.axes))

    @property
    def channels(self) -> int:
        return int(np.prod([self.shape[axis] for axis in self.axes]))


@dataclass(frozen=True)
class Batch:
    """One training step's arrays, in the dtypes that the core gets; absent ones are None."""

    x: Array
    dy: Array
    gamma: Array | None = None
    beta: Array | None = None
    weights: Array | None = None
    adjustment: tuple[Array, Array] | None = None
    residual: Array | None = None

    @property
    def given(self) -> dict[str, Array]:
        """What has a gradient, by the oracle's name for it."""
        named = {"dx": self.x, "dgamma": self.gamma, "dbeta": self.beta, "dweights": self.weights}
        named["dresidual"] = self.residual
        if self.adjustment is not None:
            named |= dict(zip(("dscale_adjustment", "dbias_adjustment"), self.adjustment, strict=True))
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Step:
    """What one training step gave, in float64. `gradients` lacks what the engine cannot differentiate."""

    y: Array
    state: Mapping[str, Array]
    gradients: Mapping[str, Array] = field(default_factory=dict)


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def stat_dtype(name: str) -> np.dtype:
    """What statistics, parameters and weights are held in."""
    return np.dtype("float64" if name == "float64" else "float32")


def batches_of(case: Case) -> list[Batch]:
    """The arrays of each step; gamma, beta and the adjustment are the same in all."""
    random = np.random.RandomState(case.seed)
    wide, narrow = stat_dtype(case.dtype), numpy_dtype(case.dtype)
    gamma = random.uniform(-1.5, 1.5, case.channels).astype(wide) if case.options.with_gamma else None
    beta = random.randn(case.channels).astype(wide) if case.options.with_beta else None
    center, spread = random.randn(2, case.channels)
    pair = None
    if case.adjustment is not None:
        # uniform makes arrays of no axes as well, where randn would make a float
        pair = tuple(np.asarray(random.uniform(0.5, 1.5, size), wide) for size in case.adjustment)
    made: list[Batch] = []
    for _ in range(case.steps):
        noise = random.randn(*case.shape) * per_channel(case, np.exp(0.5 * spread))
        x = (noise + per_channel(case, case.offset * center)).astype(narrow)
        dy = random.randn(*case.shape).astype(narrow)
        weights = None if case.weights is None else weights_of(case, random).astype(wide)
        residual = random.randn(*case.shape).astype(narrow) if case.residual else None
        made.append(Batch(x, dy, gamma, beta, weights, pair, residual))
    return made


def per_channel(case: Case, values: Array) -> Array:
    shape = [size if axis in case.axes else 1 for axis, size in enumerate(case.shape)]
    return np.reshape(values, shape)


def weights_of(case: Case, random: np.random.RandomState) -> Array:
    weights = random.uniform(0.2, 2.0, case.weights)
    first = [slice(None)] * len(case.shape)
    if case.weightless == "some":
        weights[random.rand(*weights.shape) < 1 / 3] = 0.0
    elif case.weightless == "all":
        weights[:] = 0.0
    elif case.weightless == "group":
        first[0] = first_group(case)
        weights[tuple(first)] = 0.0
    elif case.weightless == "channel":
        first[case.axes[0]] = slice(1)
        weights[tuple(first)] = 0.0
    return weights


def first_group(case: Case) -> slice:
    ghost = case.options.ghost
    if ghost is None:
        return slice(0, 1)
    groups = case.shape[0] // ghost.size
    return slice(0, None, groups) if ghost.order == "interleaved" else slice(0, ghost.size)


def initial_of(case: Case) -> tuple[Array, Array]:
    """The moving mean and variance before the first step; some variances are zero."""
    random = np.random.RandomState(case.seed + 1)
    mean, variance = random.randn(case.channels), random.uniform(0.5, 2, case.channels)
    variance[random.rand(case.channels) < 0.2] = 0.0
    wide = stat_dtype(case.dtype)
    return mean.astype(wide), variance.astype(wide)


def spec_of(options: Options) -> oracle.Spec:
    """The options as the oracle names them."""
    renorm, ghost = options.renorm, options.ghost
    clip = {} if renorm is None else {k: v for k, v in vars(renorm.clip).items() if v is not None}
    return oracle.Spec(
        options.axes,
        decay=options.decay,
        epsilon=options.epsilon,
        with_gamma=options.with_gamma,
        with_beta=options.with_beta,
        variance=options.variance,
        ghost_size=None if ghost is None else ghost.size,
        ghost_order="interleaved" if ghost is None else ghost.order,
        ghost_averages="step" if ghost is None else ghost.averages,
        renorm=renorm is not None,
        renorm_clip=clip,
        renorm_decay=0.99 if renorm is None else renorm.decay,
        debias_mean=options.debias_mean,
        legacy_renorm=renorm is not None and renorm.form == "debiased",
        activation=None if options.activation is None else options.activation.name,
        slope=0.0 if options.activation is None else options.activation.slope,
    )


def wide(value: Array | None) -> Array | None:
    return None if value is None else np.asarray(value, np.float64)


def judged(
    case: Case, batches: list[Batch], moving: tuple[Array, Array] | None = None
) -> list[tuple[Step, Mapping[str, Array]]]:
    """What the oracle says of each step, and how large the terms are that its numbers are sums of."""
    spec = spec_of(case.options)
    state = oracle.init_state(spec, case.shape, *map(wide, moving or initial_of(case)))
    found = []
    for batch in batches:
        pair = None if batch.adjustment is None else tuple(map(wide, batch.adjustment))
        parameters = wide(batch.gamma), wide(batch.beta)
        extras = wide(batch.weights), pair
        x, dy = wide(batch.x), wide(batch.dy)
        more = {"residual": wide(batch.residual)}
        gradients = oracle.gradients(spec, state, x, *parameters, dy, *extras, **more)
        terms = oracle.magnitudes(spec, state, x, *parameters, dy, *extras, **more) if x.size else {}
        y, state = oracle.train_step(spec, state, x, *parameters, *extras, **more)
        found.append((Step(y, variables_of(state), gradients), terms))
    return found
