"""Random cases: any rank up to 5, any axes, every option, and every pair that the table allows."""

from hypothesis import strategies as st

from batchnorm.combinations import REFUSED
from batchnorm.options import Clip, Ghost, Options, Renorm
from properties.cases import Case, numpy_dtype

SIZES = st.integers(1, 4)
DECAYS = (0.9, 0.99, 0.5, 0.0, 1.0)
FORBIDDEN_WITH_RENORM = {
    frozenset({"renorm", "sample variance"}),
    frozenset({"debiased renorm", "zero-debias"}),
}
assert set(REFUSED) >= FORBIDDEN_WITH_RENORM

CLIPS = st.builds(
    Clip,
    rmin=st.sampled_from([None, 0.0, 0.8]),
    rmax=st.sampled_from([None, 1.0, 1.3]),
    dmax=st.sampled_from([None, 0.0, 0.4]),
)


@st.composite
def options_of(draw, rank: int, ghost_size: int | None, epsilons: tuple[float, ...]) -> Options:
    """Options that may stand together, for an input of this rank; there are ghosts where axis 0 is not kept."""
    lowest = 0 if ghost_size is None or rank == 1 else 1
    positions = draw(st.lists(st.integers(lowest, rank - 1), min_size=1, max_size=rank, unique=True))
    axes = tuple(axis - rank if draw(st.booleans()) else axis for axis in positions)
    ghost = None
    if ghost_size is not None and 0 not in positions:
        ghost = Ghost(ghost_size, draw(st.sampled_from(["interleaved", "contiguous"])))
    form = draw(st.sampled_from([None, None, "current", "debiased"]))
    # An average that keeps everything has no debiased value.
    debiases = form != "debiased" and draw(st.booleans())
    renorm = None
    if form is not None:
        decays = DECAYS[:-1] if form == "debiased" else DECAYS
        renorm = Renorm(draw(CLIPS), draw(st.sampled_from(decays)), form)
    return Options(
        axes,
        decay=draw(st.sampled_from(DECAYS[:-1] if debiases else DECAYS)),
        epsilon=draw(st.sampled_from(epsilons)),
        with_gamma=draw(st.booleans()),
        with_beta=draw(st.booleans()),
        variance=draw(st.sampled_from(["population", "sample"])) if renorm is None else "population",
        renorm=renorm,
        ghost=ghost,
        debias_mean=debiases,
        synchronized=draw(st.sampled_from([False, False, True])),
        fused=draw(st.sampled_from([None, False, True])),
    )


@st.composite
def cases(draw, dtypes: tuple[str, ...] = ("float64",), **fixed) -> Case:
    """A case; `fixed` names fields of `Case` that are not drawn."""
    rank = draw(st.integers(1, 5))
    ghost_size = draw(st.sampled_from([None, None, 1, 2, 3]))
    batch = draw(SIZES) * (ghost_size or 1)
    shape = (batch, *(draw(SIZES) for _ in range(rank - 1)))
    dtype = draw(st.sampled_from(dtypes))
    small = numpy_dtype(dtype).itemsize == 2
    options = draw(options_of(rank, ghost_size, (1e-3, 0.1) if small else (1e-3, 1e-5, 0.1)))
    weights = draw(st.none() | broadcasting_to(shape))
    adjustment = draw(st.none() | adjustments_to(shape))
    made = {
        "weights": weights,
        "weightless": draw(st.sampled_from(["nowhere", "nowhere", "some", "channel", "group", "all"])),
        "adjustment": adjustment,
        "offset": draw(st.sampled_from([0.0, 1.0, 5.0])),
        "seed": draw(st.integers(0, 10_000)),
    }
    return Case(options, shape, dtype, **{**made, **fixed})


def broadcasting_to(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of the same rank, each size whole or 1: per example, per position, per channel and others."""
    every = st.tuples(*(st.sampled_from([1, size]) for size in shape))
    per_example = st.just((shape[0], *(1 for _ in shape[1:])))
    return st.one_of(per_example, st.just(shape), every)


def adjustments_to(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Two shapes that broadcast to this one, leading ones left out at times."""
    one = st.tuples(broadcasting_to(shape), st.booleans()).map(lambda drawn: trimmed(*drawn))
    return st.tuples(one, one)


def trimmed(shape: tuple[int, ...], trim: bool) -> tuple[int, ...]:
    while trim and shape and shape[0] == 1:
        shape = shape[1:]
    return shape
