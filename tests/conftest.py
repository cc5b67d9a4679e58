"""Leaves out what needs a framework that is not installed, and counts parity cases; the summary tells of both.

pytest-xdist's workers take whole files, so that what the tests of a file share is made once. Those that talk to the
originals' processes are one piece, since each of these takes seconds to start and a gigabyte to keep. The pieces that
take longest come first, so that no worker is left alone with one at the end.
"""

import gc
import os
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
ORIGINALS_FILES = (
    *(
        "parity/test_live.py",
        "parity/test_v1_golden.py",
        "parity/test_contrib_golden.py",
        "parity/test_checkpoint.py",
    ),
    *("parity/test_keras3_golden.py", "parity/test_tf_keras_golden.py", "parity/test_graph_effects.py"),
    *(
        "parity/test_tracking.py",
        "parity/test_errors.py",
        "parity/test_edge.py",
        "parity/test_tf1_renorm_golden.py",
    ),
    *("parity/test_subclasses.py", "test_originals.py"),
)
# Files of half a minute and more, the longest first.
LONGEST = (
    "faces/test_keras_backends.py",
    "test_demo.py",
    "properties/test_agreement.py",
    "unit/test_jax_engine.py",
    "unit/test_docs.py",
    "faces/test_torch_systems.py",
    "faces/test_tracking_files.py",
    "unit/test_torch_compiled.py",
    "properties/test_edges.py",
    "unit/test_jax_kernels.py",
    "faces/test_v1_programs.py",
    "faces/test_v1_legacy_keras.py",
    "properties/test_pairs.py",
    "unit/test_tensorflow_passes.py",
    "properties/test_against_oracle.py",
    "unit/test_isolation.py",
    "faces/test_keras_torch.py",
    "faces/test_flax_original.py",
)


def missing_for(pattern):
    return [module for module in NEEDS[pattern] if find_spec(module) is None]


LEFT_OUT = {
    file: missing_for(pattern) for pattern in NEEDS if missing_for(pattern) for file in HERE.glob(pattern)
}
collect_ignore = [str(file) for file in LEFT_OUT]


def pytest_configure(config):
    # Before any framework is imported, here or in a process that a test starts. What JAX compiles is the same in many
    # of them; and several workers share the processors, on which OpenMP's threads would else wait in place.
    wanted = {"OMP_WAIT_POLICY": "PASSIVE"}
    if hasattr(config, "cache"):  # which -p no:cacheprovider takes away
        wanted["JAX_COMPILATION_CACHE_DIR"] = str(config.cache.mkdir("jax"))
        wanted["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        wanted["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def pytest_collection_modifyitems(items):
    order = {HERE / name: index for index, name in enumerate((*ORIGINALS_FILES, *LONGEST))}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish():
    # Frameworks are millions of objects that stay, which the collector of cycles would walk again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByPiece(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "originals" if file.removeprefix("tests/") in ORIGINALS_FILES else file

    return ByPiece(config, log)


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
