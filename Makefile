# `make demo` and `make test` do everything on a machine with Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# A process for each core; the tests of a file share one, and with it what their fixtures have made.
PARALLEL = -n auto --maxprocesses=4 --dist loadfile
# Most of the tests' time is XLA's compilation, which these halve; left out where this XLA does not know them.
QUICK_XLA = --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false
PYTEST = flags='$(QUICK_XLA)'; XLA_FLAGS="$$flags" $(BIN)/python -c 'import jax; jax.devices()' 2>/dev/null || flags=; \
	XLA_FLAGS="$$flags $$XLA_FLAGS" $(BIN)/python -m pytest $(PARALLEL)

.PHONY: demo test quick lint clean

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

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
