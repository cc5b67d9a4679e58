"""The options of batch normalization: frozen records, each checking its own fields at construction.

Conventions that differ silently between libraries are fields with one meaning each:

- `decay` is the share of the old value that a moving average keeps (TensorFlow's `momentum`; one minus torch's).
- `epsilon` is added to the variance inside the square root.
- `variance` says which estimator enters the moving variance; the output always uses the population's.
- `Ghost.order` says which examples form a ghost batch.

Which options can be combined is decided by one table, in `batchnorm.combinations`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal

from batchnorm.activation import Activation, read_activation
from batchnorm.combinations import check
from batchnorm.errors import format_error

__all__ = [
    "BOUNDS",
    "OF_OLD",
    "Clip",
    "Ghost",
    "Options",
    "Renorm",
    "Scalar",
    "check_share",
    "scalar_arrays",
    "with_scalars",
]

# A Python number, or a scalar array of the framework in use if a schedule drives the value.
Scalar = Any

VARIANCES = ("population", "sample")
GHOST_ORDERS = ("interleaved", "contiguous")
REMAINDERS = ("refuse", "smaller")
AVERAGES = ("step", "group")
RENORM_FORMS = ("current", "debiased")
BOUNDS = ("rmin", "rmax", "dmax")
# What a decay is a share of, and what to pass: the convention of every face but PyTorch's.
OF_OLD = ("It is the share of the old value that a moving average keeps", "Pass a number such as 0.99")


@dataclass(frozen=True)
class Clip:
    """Bounds on renorm's corrections: r into [rmin, rmax], d into [-dmax, dmax]; `None` leaves a side open.

    The lower bound is applied first, so `rmax` wins if the two cross.

    Examples:
        >>> from batchnorm import Clip
        >>> Clip(rmax=3.0, dmax=5.0)
        Clip(rmin=None, rmax=3.0, dmax=5.0)
    """

    rmin: Scalar = None
    rmax: Scalar = None
    dmax: Scalar = None

    def __post_init__(self) -> None:
        for name in BOUNDS:
            if getattr(self, name) is not None:
                _check_number(f"Clip({name}=%r)", getattr(self, name), "3.0")


@dataclass(frozen=True)
class Renorm:
    """Batch renormalization (Ioffe 2017, https://arxiv.org/abs/1702.03275).

    With batch mean μ and deviation σ = √(σ² + ε), and moving renorm statistics M and S,
    r = σ / max(S, √ε) and d = (μ − M) / max(S, √ε), both clipped and taken as constants by the gradient;
    the output is γ·(r·x̂ + d) + β.

    Attributes:
        clip: bounds on r and d.
        decay: share kept by the two renorm averages.
        form: "current" is the form of TensorFlow 1.15 and later. "debiased" is that of TensorFlow 1.14 and
            earlier, whose checkpoints hold `renorm_mean_weight` and `renorm_stddev_weight` and whose moving
            statistics follow the debiased renorm averages.

    Raises:
        TypeError: `decay` is neither a number nor an array.
        ValueError: `decay` is a number outside [0, 1], or there is no such `form`.

    Examples:
        >>> from batchnorm import Clip, Options, Renorm
        >>> Options(renorm=Renorm(Clip(rmax=3.0, dmax=5.0), decay=0.9)).renorm.form
        'current'
    """

    clip: Clip = field(default_factory=Clip)
    decay: Scalar = 0.99
    form: Literal["current", "debiased"] = "current"

    def __post_init__(self) -> None:
        if not isinstance(self.clip, Clip):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                format_error(
                    f"Renorm(clip={self.clip!r}) was asked for",
                    "The bounds are a record of their own",
                    "Pass batchnorm.Clip(rmin=..., rmax=..., dmax=...), with None for a side that is open",
                )
            )
        check_share("Renorm(decay=%r)", self.decay)
        _check_choice("Renorm(form=%r)", self.form, RENORM_FORMS)


@dataclass(frozen=True)
class Ghost:
    """Ghost batches (Hoffer et al. 2017, https://arxiv.org/abs/1705.08741): statistics over groups of examples.

    Attributes:
        size: examples in a group; in training the batch must be a multiple of it unless `remainder` is "smaller".
        order: with B examples and G = B / size groups, "interleaved" puts example i into group i mod G, as
            TensorFlow and Keras 2 do; "contiguous" puts it into group i // size, as the paper does.
        remainder: what happens if the batch is not a multiple of `size`: "refuse" raises an error, "smaller" makes
            smaller groups, G = ⌈B / size⌉ of them. Contiguous groups are those of `torch.chunk(x, G)`, with ⌈B / G⌉
            examples each and fewer in the last; interleaved groups differ in size by at most one example.
        averages: how often a step moves the moving averages: "step" moves them once, towards the mean of the groups'
            statistics; "group" moves them once per group, one after another, as a loop over chunks does. A decay of d
            with "group" corresponds to d^G with "step".

    Raises:
        TypeError: `size` is not an int.
        ValueError: `size` is not positive, or there is no such choice for one of the others.

    Examples:
        >>> import numpy as np
        >>> from batchnorm import Ghost, Options, batch_norm, init
        >>> x, options = np.array([[1.0], [3.0], [10.0], [30.0]]), Options(ghost=Ghost(2, order="contiguous"))
        >>> y, _ = batch_norm(x, *init(options, x.shape, like=x), options, training=True)
        >>> print(y.ravel().round(2))
        [-1.  1. -1.  1.]
    """

    size: int
    order: Literal["interleaved", "contiguous"] = "interleaved"
    remainder: Literal["refuse", "smaller"] = "refuse"
    averages: Literal["step", "group"] = "step"

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                format_error(
                    f"A ghost batch size of {self.size!r} was asked for",
                    "The size counts examples, so it must be an int",
                    "Pass a positive int that divides the batch size",
                )
            )
        if self.size < 1:
            raise ValueError(
                format_error(
                    f"A ghost batch size of {self.size} was asked for",
                    "A group needs at least one example",
                    "Pass a positive int that divides the batch size, or None for no ghost batches",
                )
            )
        _check_choice("Ghost(order=%r)", self.order, GHOST_ORDERS)
        _check_choice("Ghost(remainder=%r)", self.remainder, REMAINDERS)
        _check_choice("Ghost(averages=%r)", self.averages, AVERAGES)


@dataclass(frozen=True)
class Options:
    """Everything that determines the numbers of one batch normalization.

    Attributes:
        axes: the kept (channel) axes; each has its own statistics. Negative values count from the end.
        decay: share kept by the moving averages; a number, or a scalar array.
        epsilon: added to the variance; not negative. In JAX it may be an array, which the gradient of a training step
            treats as a constant.
        with_gamma: whether a scale is trained.
        with_beta: whether an offset is trained.
        variance: estimator stored in the moving variance: "population" divides by N, "sample" by N − 1 (under
            weights N is (Σw)² / Σw², the number of equally weighted examples that would vary as much). Ghost
            batches store the average of their groups' estimates; renorm only knows the population's.
        renorm: batch renormalization, or None.
        ghost: ghost batches, or None.
        debias_mean: zero-debias the moving mean (Kingma and Ba 2014, section 3): it is then a running average
            over the steps so far rather than a blend with its initial value.
        synchronized: take the statistics over all replicas of the framework's current distribution.
        activation: applied to the result in the same pass, y = act(u): a name such as "relu" or a
            `batchnorm.Activation`; None for none. "identity" becomes None.
        fused: None takes the fastest kernel that gives these numbers, False the framework's plain operations.
            True requests the kernels in training; each API checks beforehand whether they can be used, and refuses
            the call if not.

    Raises:
        TypeError: `decay` is neither a number nor an array.
        ValueError: a value outside its range, or options that cannot be combined (see `batchnorm.combinations`).

    Examples:
        >>> from batchnorm import Options, Renorm
        >>> Options(axes=(1,), decay=0.9, renorm=Renorm()).epsilon
        0.001
        >>> Options(variance="sample", renorm=Renorm())
        Traceback (most recent call last):
            ...
        ValueError: Renorm and sample variance were asked for together. ...
    """

    axes: tuple[int, ...] = (-1,)
    decay: Scalar = 0.99
    epsilon: float = 1e-3
    with_gamma: bool = True
    with_beta: bool = True
    variance: Literal["population", "sample"] = "population"
    renorm: Renorm | None = None
    ghost: Ghost | None = None
    debias_mean: bool = False
    synchronized: bool = False
    fused: bool | None = None
    activation: Activation | str | None = None

    def __post_init__(self) -> None:
        _check_type("Options(renorm=%r)", self.renorm, Renorm, "Pass batchnorm.Renorm() or None")
        _check_type("Options(ghost=%r)", self.ghost, Ghost, "Pass one such as batchnorm.Ghost(32), or None")
        _check_choice("Options(fused=%r)", self.fused, (None, True, False))
        for name in ("with_gamma", "with_beta", "debias_mean", "synchronized"):
            _check_choice(f"Options({name}=%r)", getattr(self, name), (True, False))
        if not isinstance(self.axes, (tuple, list)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                format_error(
                    f"Options(axes={self.axes!r}) was asked for",
                    "There may be several channel axes, so they are a tuple even if there is one",
                    "Pass a tuple of ints such as (-1,) or (1, 3)",
                )
            )
        if not self.axes or any(isinstance(axis, bool) or not isinstance(axis, int) for axis in self.axes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                format_error(
                    f"Options(axes={self.axes!r}) was asked for",
                    "Statistics are kept per index of at least one axis, named by an int",
                    "Pass a tuple of ints such as (-1,) or (1, 3)",
                )
            )
        if len(set(self.axes)) != len(self.axes):
            raise ValueError(
                format_error(
                    f"Options(axes={self.axes!r}) was asked for",
                    "An axis is named twice",
                    "Name each axis once",
                )
            )
        check_share("Options(decay=%r)", self.decay)
        _check_number("Options(epsilon=%r)", self.epsilon, "1e-3")
        if isinstance(self.epsilon, Real) and not self.epsilon >= 0:
            raise ValueError(
                format_error(
                    f"Options(epsilon={self.epsilon!r}) was asked for",
                    "It keeps the square root away from zero, so it cannot be negative",
                    "Pass a small positive number such as 1e-3",
                )
            )
        _check_choice("Options(variance=%r)", self.variance, VARIANCES)
        object.__setattr__(self, "activation", read_activation("Options(activation=%r)", self.activation))
        check(self)


def scalar_arrays(options: Options) -> dict[str, Any]:
    """The options that a normalization reads and that are arrays, by name: epsilon and renorm's bounds may be arrays.

    The decays are not included: they act on the state, after the normalization.
    """
    found = {} if _is_number(options.epsilon) else {"epsilon": options.epsilon}
    if options.renorm is not None:
        bounds = ((name, getattr(options.renorm.clip, name)) for name in BOUNDS)
        found.update((name, bound) for name, bound in bounds if bound is not None and not _is_number(bound))
    return found


def with_scalars(options: Options, scalars: Mapping[str, Any] | None) -> Options:
    """The options with these arrays in place of those that `scalar_arrays` found."""
    if not scalars:
        return options
    if options.renorm is not None:
        bounds = {name: scalars.get(name, getattr(options.renorm.clip, name)) for name in BOUNDS}
        options = replace(options, renorm=replace(options.renorm, clip=Clip(**bounds)))
    return replace(options, epsilon=scalars.get("epsilon", options.epsilon))


def check_share(asked: str, value: object, convention: tuple[str, str] = OF_OLD) -> None:
    """Refuse what is not a share in a moving average. Arrays, which may be traced, are not compared.

    Args:
        asked: the argument, as in "momentum=%r".
        value: its value.
        convention: what it is a share of, and what to pass.

    Raises:
        TypeError: the value is neither a number nor an array.
        ValueError: it is a number outside [0, 1].
    """
    why, remedy = convention
    if value is None or isinstance(value, (str, bytes)):
        raise TypeError(
            format_error(f"{asked % (value,)} was asked for", why, f"{remedy}, or a scalar array")
        )
    if isinstance(value, Real) and not 0.0 <= float(value) <= 1.0:
        raise ValueError(
            format_error(f"{asked % (value,)} was asked for", f"{why}, so it lies between 0 and 1", remedy)
        )


def _check_number(asked: str, value: object, example: str) -> None:
    """Raise TypeError for what is neither a number nor an array."""
    if value is None or isinstance(value, (bool, str, bytes)):
        raise TypeError(
            format_error(
                f"{asked % (value,)} was asked for",
                "It enters the arithmetic, so it must be a number",
                f"Pass a number such as {example}, or a scalar array",
            )
        )


def _check_type(asked: str, value: object, wanted: type, remedy: str) -> None:
    if value is not None and not isinstance(value, wanted):
        raise TypeError(
            format_error(
                f"{asked % (value,)} was asked for",
                f"It is a record of its own, a batchnorm.{wanted.__name__}",
                remedy,
            )
        )


def _is_number(value: object) -> bool:
    """Whether this is a Python or NumPy number rather than an array."""
    return isinstance(value, (float, int, Real))


def _check_choice(asked: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        raise ValueError(
            format_error(
                f"{asked % (value,)} was asked for",
                "There is no such choice",
                f"Pass one of {', '.join(map(repr, choices))}",
            )
        )
