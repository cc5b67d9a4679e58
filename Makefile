# Each command makes its own environment on first use and reuses it afterwards.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml src/batchnorm/_version.py CMakeLists.txt \
	$(filter-out csrc/test/%,$(wildcard csrc/*.cc csrc/*/*))
# pytest's workers, of which one mostly waits for other processes. tests/conftest.py says who takes what, and when.
WORKERS ?= 3

.PHONY: demo test check lint types unit sanitize cross emulate bench format clean

demo: $(VENV)/.demo
	$(BIN)/python -m batchnorm demo $(if $(ENGINE),--engine $(ENGINE))

test: lint types unit sanitize

# What a change is tried by while it is made: under three minutes on two quiet processors. The core by its own tests and by the
# properties on NumPy's arrays, then each framework by its engine's tests or a layer's. Left out, and run by `make test`:
# the live originals and recorded numbers, the properties on the other engines, programs in processes of their own,
# compilers and exports, the examples in the docs, the demo, and the sanitizers.
CHECK_CORE := tests/test_oracle.py $(addprefix tests/unit/test_,activation.py combinations.py contributing.py errors.py \
	imports.py kernel_conversions.py kernels.py kernels_weights.py layout.py markers.py options.py public_surface.py state.py \
	weight_values.py) \
	$(addprefix tests/properties/test_,against_oracle.py edges.py finite_differences.py ghosts_and_renorm.py \
	invariance.py pairs.py replicas.py unequal_ghosts.py weights.py)
CHECK_FRAMEWORKS := $(addprefix tests/,unit/test_torch_engine.py faces/test_torch_layers.py \
	faces/test_v1_layer.py faces/test_keras_weights.py faces/test_keras_subclasses.py faces/test_flax_systems.py)

check: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(CHECK_CORE) -k "not tensorflow and not torch and not jax"
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(CHECK_FRAMEWORKS)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit/test_jax_kernels.py tests/unit/test_tensorflow_export.py \
		tests/faces/test_contrib_numbers.py \
		-k "forward_mode_and_second_order and interleaved or gradients_of_both_orders and both or three_steps"

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
