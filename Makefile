# Each command makes its own environment on first use and reuses it afterwards.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml src/batchnorm/_version.py CMakeLists.txt \
	$(filter-out csrc/test/%,$(wildcard csrc/*.cc csrc/*/*))
# pytest's workers, of which one mostly waits for other processes. tests/conftest.py says who takes what, and when.
WORKERS ?= 3

.PHONY: demo test lint types unit sanitize cross emulate bench format clean

demo: $(VENV)/.demo
	$(BIN)/python -m batchnorm demo $(if $(ENGINE),--engine $(ENGINE))

test: lint types unit sanitize

lint: $(VENV)/.test
	$(BIN)/ruff check src tests benchmarks docs examples
	$(BIN)/ruff format --check src tests benchmarks docs examples

types: $(VENV)/.test
	$(BIN)/pyright

unit: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The CPU kernels under the compiler's sanitizers; says so and succeeds where there is no compiler.
sanitize:
	csrc/test/sanitize.sh

# The NEON kernels by a cross compiler, run under QEMU; says so and succeeds where either is missing.
cross:
	csrc/test/cross.sh

# The AVX-512 kernels in Bochs, on any x86-64 processor; says so and succeeds where something for it is missing.
emulate:
	csrc/test/emulate.sh

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

format: $(VENV)/.test
	$(BIN)/ruff check --fix src tests benchmarks docs examples
	$(BIN)/ruff format src tests benchmarks docs examples

clean:
	rm -rf $(VENV)

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.made $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo]'
	touch $@

$(VENV)/.bench: $(VENV)/.made $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

# torch first and alone: the other frameworks' requirements must not move it to another build.
$(VENV)/.test: $(VENV)/.made $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	touch $@
