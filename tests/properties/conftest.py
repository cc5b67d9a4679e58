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
    return RUNNERS[request.param]()
