# Everything here needs only Python 3.11 or later and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
BENCH_VENV ?= .venvs/bench
PYTEST_ARGS ?= -n 2 --dist loadgroup -q
# Most tests start a Python, which without byte code compiles the plugin and its neighbours anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint fix docs bench clean

demo: $(VENV)/.demo  ## index, train and build once; then see what is not done again
	$(BIN)/python examples/demo.py

test: $(VENV)/.test  ## all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test $(VENV)/.lint  ## style, types, and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/.lint  ## mends what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## the site, in .site; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench:  ## what it costs, beside its peers, into docs/benchmarks.md
	$(MAKE) VENV=$(BENCH_VENV) $(BENCH_VENV)/.bench
	$(BENCH_VENV)/bin/python benchmarks/bench.py $(BENCH_ARGS)

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable . pytest-xdist
	touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.lint: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[lint]'
	touch $@

$(VENV)/.docs: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(VENV)/.bench: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) .venvs .demo .site .bench
