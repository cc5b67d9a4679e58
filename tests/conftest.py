"""Leaves out what needs a framework that is not installed, and counts parity cases; the summary tells of both.

Each test file says in its `pytestmark` what it needs, whether it talks to the originals, and whether it is slow
(pyproject.toml describes the markers). pytest-xdist's workers take whole files, so that what the tests of a file share
is made once. Those that talk to the originals' processes are one piece, since each of these takes seconds to start and
a gigabyte to keep; so are those whose programs are forks of the same processes. The pieces that take longest come
first, so that no worker is left alone with one at the end.
"""

import gc
import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from markers import declared

HERE = Path(__file__).parent
MARKERS = {file: declared(file) for file in HERE.rglob("test_*.py")}
# Tests run what XLA compiles only a few times, which is not worth optimizing; tests of optimized code ask for it. The
# XLA of JAX and that of TensorFlow end the process if they do not know an option: pyproject.toml bounds their releases.
COMPILE_QUICKLY = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
LEFT_OUT = {
    file: missing
    for file, markers in MARKERS.items()
    if (missing := [module for module in markers.get("needs", ()) if find_spec(module) is None])
}
# The files with the same one of these markers share one worker.
PIECES = ("originals", "forks")
collect_ignore = [str(file) for file in LEFT_OUT]


def pytest_configure(config):
    # Before any framework is imported, here or in a process that a test starts. What JAX compiles is the same in many
    # of them; and several workers share the processors, on which OpenMP's threads would else wait in place.
    wanted = {"OMP_WAIT_POLICY": "PASSIVE", "XLA_FLAGS": COMPILE_QUICKLY}
    if hasattr(config, "cache"):  # which -p no:cacheprovider takes away
        wanted["JAX_COMPILATION_CACHE_DIR"] = str(config.cache.mkdir("jax"))
        wanted["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        wanted["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def pytest_collection_modifyitems(items):
    def precedence(item):
        markers = MARKERS.get(item.path, {})
        return *(piece not in markers for piece in PIECES), -sum(markers.get("slow", ()))

    items.sort(key=precedence)


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
            return next((piece for piece in PIECES if piece in MARKERS.get(config.rootpath / file, ())), file)

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
