"""Reproducible examples, and one `runner` per engine and mode."""

import pytest
from hypothesis import HealthCheck, settings

from properties.runners import RUNNERS, Runner

# The same examples everywhere and each time: a failure in one place is one in all.
settings.register_profile(
    "batchnorm",
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("batchnorm")


# JAX compiles each operation for each new shape, which takes longer than compiling the step as a whole; the pairs of
# options, all of one shape, go through both.
MANY_SHAPES = [name for name in RUNNERS if name != "jax-eager"]


@pytest.fixture(scope="session", params=MANY_SHAPES)
def runner(request) -> Runner:
    """Every engine in every mode that is worth its time on many shapes."""
    return RUNNERS[request.param]()


@pytest.fixture(
    scope="session",
    params=[name for name in MANY_SHAPES if "-" not in name or name.endswith(("-eager", "jax-jit"))],
)
def eager(request) -> Runner:
    """Every engine in its quickest mode, for what compares an engine with itself."""
    return RUNNERS[request.param]()
