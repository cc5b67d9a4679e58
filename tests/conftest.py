"""Counts parity cases: a test that calls the `parity` fixture with an API's name is one."""

from collections import Counter

import pytest


@pytest.fixture
def parity(record_property):
    """Call with the API's name: this test compares our package with an original or its recorded numbers."""
    return lambda api: record_property("parity", api)


def pytest_terminal_summary(terminalreporter):
    # Reports carry their properties from pytest-xdist's workers too.
    counts, passed = Counter(), Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            apis = [value for key, value in report.user_properties if key == "parity"]
            if report.when == "call":
                counts.update(apis)
                passed.update(apis if outcome == "passed" else ())
    if counts:
        each = ", ".join(f"{api} {n}" for api, n in sorted(counts.items()))
        total = sum(counts.values())
        terminalreporter.write_line(f"parity cases: {total} ({each}), {sum(passed.values())} of them agree")
