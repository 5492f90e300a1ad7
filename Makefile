# Each target does all the set-up it needs: a virtual environment in .venv, the project in it, nothing outside.
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
BIN := .venv/bin
ARGS ?=

# OpenMP collapses when threads outnumber free cores; the tests run two processes of one thread each.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: setup setup-dev demo test test-slow mutation soak test-pythons test-lowest coverage check docs format bench gpu clean check-wheel

setup: .venv/.installed
setup-dev: .venv/.installed-dev

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kdiga needs Python 3.11 or later; try make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.installed-dev: pyproject.toml .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Replaces the demo's own earlier results in runs/demo; `make demo ARGS="--seed 1 --out runs/demo1"` keeps them.
demo: setup
	$(BIN)/kdiga demo --overwrite $(ARGS)

# A test that hangs ends its process after five minutes, with where it stood, and the others go on.
NO_HANG := -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true

test: setup-dev
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow" $(NO_HANG) $(ARGS)

test-slow: setup-dev
	$(TEST_ENV) $(BIN)/python -m pytest -m slow $(ARGS)

# Kills, full disks, wrong clocks, damaged files: at most 20 minutes. Small disks are mounted where one may.
soak: setup-dev
	$(TEST_ENV) $(BIN)/python -m tests.faults.soak $(ARGS)
	$(TEST_ENV) $(BIN)/python -m tests.faults.ingredients
	$(TEST_ENV) $(BIN)/python -m tests.fuzz.soak --inputs 1000 --seconds 10

# The suite under other Pythons where they are installed; make test-pythons PYTHONS="python3.12 /opt/python3.13/bin/python3"
test-pythons:
	$(TEST_ENV) .ci/test-pythons "$(PYTHONS)" $(NO_HANG) $(ARGS)

# The suite with the lowest versions of all dependencies; downloads PyTorch anew. make test-lowest ARGS="tests/core tests/io"
test-lowest:
	$(TEST_ENV) .ci/test-lowest $(PYTHON) $(NO_HANG) $(ARGS)

# The suite with the lines of src/kdiga that it runs, commands in processes of their own included; fails under 90 %.
# From 3.12 Python itself tells which lines ran, at hardly any cost; before, every line is traced.
coverage: setup-dev
	COVERAGE_CORE=$$($(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")') \
	  $(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow" $(NO_HANG) --cov --cov-report=term $(ARGS)

# Small faults in losses, gradients, attacks and certification, and whether the tests notice: a seeded sample; minutes.
# Survivors and a table go to runs/mutation; `make mutation ARGS="--size 50 --seed 3 --minutes 20"`.
mutation: setup-dev
	$(TEST_ENV) $(BIN)/python -m tests.mutation $(ARGS)

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/codespell README.md CONTRIBUTING.md CHANGELOG.md docs src examples benchmarks recipes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The documentation at a local address, rebuilt as it is written.
docs: setup-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Steps of every method and route, as ratios; on a GPU where there is one. Minutes.
bench: setup
	$(TEST_ENV) TORCH_CPP_LOG_LEVEL=ERROR KINETO_LOG_LEVEL=99 $(BIN)/python benchmarks/speed.py --out runs/speed $(ARGS)

# Everything that one GPU can show within some minutes: `make gpu ARGS="--minutes 60"`; continues where it stopped.
gpu: setup-dev
	$(BIN)/python benchmarks/gpu.py --minutes 15 --out runs/gpu $(ARGS)

# The wheel in an environment of its own, outside the checkout: recipes by name, a short training and the demo, or
# another last command: `make check-wheel ARGS="methods"`. Installs everything anew; minutes.
check-wheel: setup-dev
	$(TEST_ENV) .ci/check-wheel $(BIN)/python $(ARGS)

clean:
	rm -rf .venv runs build dist
