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


@pytest.fixture(scope="session", params=RUNNERS)
def runner(request) -> Runner:
    """Every engine in every mode."""
    return RUNNERS[request.param]()


@pytest.fixture(
    scope="session", params=[name for name in RUNNERS if "-" not in name or name.endswith("eager")]
)
def eager(request) -> Runner:
    """Every engine in the mode that needs no compilation, for what compares an engine with itself."""
    return RUNNERS[request.param]()
