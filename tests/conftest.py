"""Leaves out what needs a framework that is not installed, and counts parity cases; the summary tells of both.

The files that take longest come first, so that no worker is left alone with one at the end.
"""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ORIGINALS = ("tensorflow", "keras", "tf_keras", "tf_slim")
# Which test files import what. Others ask per test.
NEEDS = {
    "faces/test_v1_*.py": ("tensorflow", "tf_keras"),
    "faces/test_contrib_*.py": ("tensorflow", "tf_slim"),
    "faces/test_tracking*.py": ("tensorflow", "keras", "tf_keras"),
    "faces/test_keras_*.py": ("keras", "tensorflow", "tf_keras"),
    "faces/test_keras_backends.py": ("keras", "tensorflow", "jax", "torch"),
    "faces/test_keras_torch.py": ("keras", "torch"),
    "faces/test_torch_*.py": ("torch",),
    "faces/test_jax_*.py": ("jax",),
    "faces/test_flax_*.py": ("flax",),
    "parity/test_*.py": ORIGINALS,
    "test_originals.py": ORIGINALS,
    "test_demo.py": ("tensorflow", "keras", "sklearn", "matplotlib", "rich"),
    "unit/test_tensorflow_*.py": ("tensorflow",),
    "unit/test_torch_*.py": ("torch",),
    "unit/test_jax_*.py": ("jax",),
}
# Files of a minute and more, the longest first.
LONGEST = (
    "unit/test_jax_engine.py",
    "unit/test_torch_compiled.py",
    "faces/test_keras_backends.py",
    "test_demo.py",
    "unit/test_docs.py",
    "parity/test_checkpoint.py",
    "faces/test_torch_systems.py",
    "faces/test_v1_programs.py",
    "faces/test_flax_original.py",
    "unit/test_isolation.py",
)


def missing_for(pattern):
    return [module for module in NEEDS[pattern] if find_spec(module) is None]


LEFT_OUT = {
    file: missing_for(pattern) for pattern in NEEDS if missing_for(pattern) for file in HERE.glob(pattern)
}
collect_ignore = [str(file) for file in LEFT_OUT]


def pytest_collection_modifyitems(items):
    order = {HERE / name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(LONGEST)))


@pytest.fixture
def parity(record_property):
    """Call with the API's name: this test compares our package with an original or its recorded numbers."""
    return lambda api: record_property("parity", api)


def pytest_terminal_summary(terminalreporter):
    for file, modules in sorted(LEFT_OUT.items()):
        terminalreporter.write_line(f"left out: {file.relative_to(HERE)}, needs {', '.join(modules)}")
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
