"""The pages that are made from the code say what the code says, and the README's examples run."""

import re
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import forked

pytestmark = pytest.mark.forks

ROOT = Path(__file__).parents[2]


def examples_of(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


# What is imported before an example runs; Keras runs on TensorFlow.
IMPORTED = {"tensorflow": "tensorflow", "keras": "tensorflow", "torch": "torch", "jax": "jax"}

EXAMPLES, OF_PROGRAMS = examples_of("README.md"), examples_of("docs/programs.md")


def test_combinations_page_is_the_table():
    made = subprocess.run(
        [sys.executable, "-c", "import make_combinations; print(make_combinations.page(), end='')"],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == (ROOT / "docs/combinations.md").read_text()


def test_readme_has_examples():
    assert len(EXAMPLES) == 8
    assert len(OF_PROGRAMS) == 7


def modules_of(source):
    return re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)


@cache
def output_of(source):
    """What an example prints, in a process and a folder of its own."""
    frameworks = sorted({IMPORTED[name] for name in modules_of(source) if name in IMPORTED})
    with tempfile.TemporaryDirectory() as folder:
        ran = forked.run(frameworks, "-c", source, cwd=folder)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


@pytest.mark.parametrize("source", EXAMPLES + OF_PROGRAMS, ids=lambda source: source.splitlines()[1][:40])
def test_readme_example_runs(source):
    for module in modules_of(source):
        if find_spec(module) is None:
            pytest.skip(f"needs {module}")
    output_of(source)


def test_the_same_lines_give_the_same_numbers_in_every_framework():
    (numpy,) = (source for source in EXAMPLES if "batchnorm.batch_norm(" in source)
    lines = re.findall(r"^    (import .*; x = .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) == 3
    before, after = numpy.split("options = ")
    sources = [numpy]
    for line in lines:
        if find_spec(re.match(r"import (\w+)", line)[1]) is not None:
            sources.append(f"{before}{line}\noptions = {after}")
    printed = [numbers_in(output_of(source).splitlines()[-1]) for source in sources]
    assert len(printed[0]) == 3
    assert numbers_in(numpy.splitlines()[-1]) == pytest.approx(printed[0], rel=1e-5, abs=1e-6)
    for numbers in printed[1:]:
        assert numbers == pytest.approx(printed[0], rel=1e-5, abs=1e-6)


def numbers_in(line):
    return [float(number) for number in re.findall(r"-?\d+\.\d+", line)]
