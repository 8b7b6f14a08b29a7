# `make demo` and `make test` do everything on a machine with Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# A process for each core; the tests of a file share one, and with it what their fixtures have made.
PARALLEL = -n auto --maxprocesses=4 --dist loadfile
# Most of the tests' time is XLA's compilation, which these halve. An XLA that does not know a flag aborts, so that
# each is tried alone.
QUICK_XLA = --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false
PROBE = $(BIN)/python -c 'import jax; jax.devices()'
PYTEST = $(PROBE) && for flag in $(QUICK_XLA); do \
		XLA_FLAGS="$$flag" $(PROBE) 2>/dev/null && XLA_FLAGS="$$flag $$XLA_FLAGS" || echo "without $$flag"; \
	done && XLA_FLAGS="$$XLA_FLAGS" $(BIN)/python -m pytest $(PARALLEL)

.PHONY: demo test quick mutants lint clean

$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"jmeta needs Python 3.11, this is {sys.version}"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# COMLN on the embedded characters: a few minutes on two CPU cores; ends with the accuracy and the figures.
demo: $(VENV)/ready
	$(BIN)/python -m experiments.comln --preset=demo --workdir=runs/demo

test: $(VENV)/ready
	@$(PYTEST)

# The suite without the slow tests.
quick: $(VENV)/ready
	@$(PYTEST) -m 'not slow'

# Faults planted one by one in a copy of the tree, each of which the test named for it must notice; minutes.
mutants: $(VENV)/ready
	@$(BIN)/python -m tests.mutants

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
