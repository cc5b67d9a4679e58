"""Random cases: any rank up to 5, any axes, every option, and every pair that the table allows."""

from hypothesis import strategies as st

from batchnorm.activation import ACTIVATIONS, Activation
from batchnorm.options import Clip, Ghost, Options, Renorm
from properties.cases import Case

SIZES = st.integers(1, 4)
DECAYS = (0.9, 0.99, 0.5, 0.0, 1.0)
FORMS = (None, None, "current", "debiased")
GHOSTS = (None, None, 1, 2, 3)
WEIGHTLESS = ("nowhere", "nowhere", "some", "channel", "group", "all")

ACTIVATION = (None, None, None, *ACTIVATIONS, Activation("leaky_relu", 0.2))

CLIPS = st.builds(
    Clip,
    rmin=st.sampled_from([None, 0.0, 0.8]),
    rmax=st.sampled_from([None, 1.0, 1.3]),
    dmax=st.sampled_from([None, 0.0, 0.4]),
)


@st.composite
def cases(
    draw,
    dtypes: tuple[str, ...] = ("float64",),
    *,
    forms: tuple[str | None, ...] = FORMS,
    ghosts: tuple[int | None, ...] = GHOSTS,
    keeps_batch: bool = True,
    **fixed,
) -> Case:
    """A case.

    Args:
        forms: of renorm.
        ghosts: sizes of a ghost batch; where axis 0 is kept there is none.
        keeps_batch: whether axis 0 may be a channel axis.
        fixed: fields of `Case` that are not drawn.
    """
    ghost_size = draw(st.sampled_from(ghosts))
    lowest = 0 if keeps_batch else 1
    rank = draw(st.integers(lowest + 1, 5))
    batch = draw(SIZES) * (ghost_size or 1)
    shape = (batch, *(draw(SIZES) for _ in range(rank - 1)))
    positions = draw(st.lists(st.integers(lowest, rank - 1), min_size=1, unique=True))
    axes = tuple(axis - rank if draw(st.booleans()) else axis for axis in positions)
    ghost = None
    if ghost_size is not None and 0 not in positions:
        averages = draw(st.sampled_from(["step", "step", "group"]))
        ghost = Ghost(ghost_size, draw(st.sampled_from(["interleaved", "contiguous"])), averages=averages)
    dtype = draw(st.sampled_from(dtypes))
    made = {
        "weights": draw(st.none() | broadcasting_to(shape)),
        "weightless": draw(st.sampled_from(WEIGHTLESS)),
        "adjustment": draw(st.none() | adjustments_to(shape)),
        "residual": draw(st.sampled_from([False, False, True])),
        "offset": draw(st.sampled_from([0.0, 1.0, 5.0])),
        "seed": draw(st.integers(0, 10_000)),
    }
    return Case(draw(options_of(axes, ghost, dtype, forms)), shape, dtype, **{**made, **fixed})


@st.composite
def options_of(draw, axes: tuple[int, ...], ghost: Ghost | None, dtype: str, forms) -> Options:
    """Options that may stand together."""
    by_group = ghost is not None and ghost.averages == "group"
    form = None if by_group else draw(st.sampled_from(forms))
    debiases = not by_group and form != "debiased" and draw(st.booleans())
    renorm = None
    if form is not None:
        renorm = Renorm(draw(CLIPS), draw(st.sampled_from(DECAYS)), form)
    return Options(
        axes,
        decay=draw(st.sampled_from(DECAYS)),
        # A small epsilon magnifies the rounding of x itself where the numbers hardly differ.
        epsilon=draw(st.sampled_from((1e-3, 1e-5, 0.1) if dtype == "float64" else (1e-3, 0.1))),
        with_gamma=draw(st.sampled_from([True, True, False])),
        with_beta=draw(st.sampled_from([True, True, False])),
        variance=draw(st.sampled_from(["population", "sample"])) if renorm is None else "population",
        renorm=renorm,
        ghost=ghost,
        debias_mean=debiases,
        synchronized=draw(st.sampled_from([False, False, True])),
        fused=draw(st.sampled_from([None, False, True])),
        activation=draw(st.sampled_from(ACTIVATION)),
    )


def broadcasting_to(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of the same rank, each size whole or 1: per example, per position, per channel and others."""
    every = st.tuples(*(st.sampled_from([1, size]) for size in shape))
    return st.one_of(st.just(per_example(shape)), st.just(shape), every)


def per_example(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *(1 for _ in shape[1:]))


def adjustments_to(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Two shapes that broadcast to this one, leading ones left out at times."""
    one = st.tuples(broadcasting_to(shape), st.booleans()).map(lambda drawn: trimmed(*drawn))
    return st.tuples(one, one)


def trimmed(shape: tuple[int, ...], trim: bool) -> tuple[int, ...]:
    while trim and shape and shape[0] == 1:
        shape = shape[1:]
    return shape
