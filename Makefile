# make demo   choose features on real data, prune a small network
# make test   run the tests
# Each works alone in a fresh clone: it makes the environment (.venv) first, and
# later runs reuse it. Also: lint, types, coverage, oldest, package, docs, bench, clean.
#
# Another interpreter:  make demo PYTHON=python3.12
# Flags for pytest:     make test PYTEST_FLAGS="-x -k readme"

PYTHON ?= python3
PYTEST_FLAGS ?= -n auto
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

OLDEST := .oldest
OLDEST_EXTRAS ?= plot
OLDEST_TOOLS := array-api-strict hypothesis mpmath numpydoc pandas pytest pytest-xdist rich

EXAMPLES := examples/plot_diabetes.py examples/plot_digits.py examples/plot_prune_digits.py

.PHONY: demo test coverage oldest lint types package docs bench clean env
.DEFAULT_GOAL := demo
.DELETE_ON_ERROR:

# The matrices are small: threads of the linear algebra would wait for each other.
demo docs: export OMP_NUM_THREADS ?= 1
demo: export MPLBACKEND ?= Agg
demo: $(READY)
	@for script in $(EXAMPLES); do \
	    printf '\n>>> python %s\n\n' $$script; \
	    $(BIN)/python $$script || exit 1; \
	done

test: $(READY)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

# The tests, and how much of the core they reach, branches included.
coverage: $(READY)
	$(BIN)/python -m pytest $(PYTEST_FLAGS) --cov --cov-report=
	$(BIN)/coverage report --include='chita_sklearn/core/*' --fail-under=95

# The tests on the oldest releases that pyproject.toml admits. The torch of that time
# comes from PyPI with CUDA, some gigabytes: it is left out unless asked for.
oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m pytest $(PYTEST_FLAGS) -p no:cacheprovider

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# The packages; then scripts as users write them, by two checkers.
types: $(VENV)/.ready-types
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/typing/mypy.ini
	$(BIN)/basedpyright -p tests/typing --pythonpath $(BIN)/python

# Wheel and sdist, each installed into an empty environment and used there.
package: $(VENV)/.ready-package
	$(BIN)/python -m pytest tests/clean_install.py -v --durations=0 --durations-min=1

bench: $(VENV)/.ready-bench
	$(BIN)/python -m benchmarks.regression $(BENCH_FLAGS)

docs: $(VENV)/.ready-docs
	SCIPY_ARRAY_API=1 $(BIN)/python -m sphinx -W --keep-going -j 1 docs docs/_build/html
	@printf '\nPages: docs/_build/html/index.html\n'

# The environment stays: it is remade when its inputs change.
clean:
	rm -rf build dist demo_output docs/_build docs/auto_examples docs/api/generated
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

env: $(READY)

$(READY): pyproject.toml constraints.txt chita_sklearn/__init__.py
	@command -v $(PYTHON) >/dev/null || { \
	    echo "error: '$(PYTHON)' was not found; name a Python >= 3.11: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: Python >= 3.11 is needed, '$(PYTHON)' is $$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    echo "Making the environment in $(VENV)"; $(PYTHON) -m venv --clear $(VENV); } || { \
	    echo "error: no virtual environment could be made (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing into $(VENV) (a minute or two the first time)"
	@$(INSTALL) 'pip>=25.1'
	@$(INSTALL) -e '.[torch,plot]' --group test
	@touch $@

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	@$(PYTHON) -m venv $(OLDEST)
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	    -c constraints-oldest.txt -e '.[$(OLDEST_EXTRAS)]' $(OLDEST_TOOLS)
	@touch $@

$(VENV)/.ready-%: $(READY)
	@$(INSTALL) --group $*
	@touch $@
