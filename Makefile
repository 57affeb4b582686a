# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.
# Another interpreter: make install PYTHON=python3.12. Options for the demo: make demo FLAGS="--set training.lr=0.002".

PYTHON ?= python3
FLAGS ?=
# Over the cores, a module on one of them. A plain `pytest` runs one test after the other.
# In the order of their names: few tests may take long, and should not all come last.
# With one thread each: more of them on the same cores would wait for each other.
SPREAD ?= --numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

export PIP_DISABLE_PIP_VERSION_CHECK := 1

BIN := .venv/bin
PIP := $(BIN)/python -m pip -qq
ROOMS := src server client strategies simulations
# Folders count too: one changes when a file in it is deleted.
SOURCES := $(shell find $(ROOMS) -not -path '*/__pycache__*' -not -name '.*') README.md LICENSE
WHEEL := .venv/wheel/fedrelease-*.whl

.PHONY: help demo demo-deploy install test test-all lint bench bench-all clean

help:  ## what you can make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: install  ## run the built-in federation, and see what it released; options in FLAGS
	@$(BIN)/fedrelease simulate $(FLAGS)
	@echo
	@echo 'The command is $(BIN)/fedrelease'

demo-deploy: install  ## a server and four sites as real processes over TLS, in demo-deploy/, and a simulation that must end alike
	@rm -rf demo-deploy
	@$(BIN)/fedrelease demo deploy --compare $(FLAGS)

install: .venv/.installed-wheel  ## make .venv and install fedrelease in it

lint: .venv/.installed-test  ## format, lint and types
	@echo 'Format: ruff format --check'
	@$(BIN)/ruff format --quiet --check . || { echo 'Mend it with: $(BIN)/ruff format .'; exit 1; }
	@echo 'Lint: ruff check'
	@$(BIN)/ruff check --quiet .
	@echo 'Types: mypy --strict, on the installed wheel'
	@$(BIN)/mypy --strict -p fedrelease

test: lint  ## what CI runs: lint, then the tests, on the installed wheel
	@echo 'Tests: pytest'
	@OMP_NUM_THREADS=1 $(BIN)/pytest $(SPREAD)

test-all: lint  ## the same with the slow tests
	@echo 'Tests: pytest, slow ones too'
	@OMP_NUM_THREADS=1 $(BIN)/pytest $(SPREAD) -m 'slow or not slow'

bench: install  ## measure the engine and the rules on this machine
	@$(BIN)/python -m fedrelease.simulations.bench
	@$(BIN)/python -m fedrelease.simulations.bench.aggregate
	@$(BIN)/python -m fedrelease.simulations.bench.deployed

bench-all: .venv/.installed-bench  ## the same beside Flower on Ray, PEFT and Opacus put together by hand; options in FLAGS
	@$(BIN)/python -m fedrelease.simulations.bench --glue $(FLAGS)

clean:  ## remove .venv, build leftovers and caches; releases stay
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(ROOMS) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is made when its step is done, and made again when what it was made from has changed.

.venv/.installed-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'fedrelease needs Python 3.11 or newer, and "$(PYTHON)" is not. Name one: make install PYTHON=python3.11'; exit 1; }
	@echo 'Python: making .venv'
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.installed-torch: constraints.txt .venv/.installed-python
	@echo 'Torch: installing (large; once)'
	@$(PIP) install -c constraints.txt torch
	@touch $@

.venv/.built-wheel: $(SOURCES) pyproject.toml .venv/.installed-python
	@echo 'Wheel: building fedrelease'
	@rm -rf build .venv/wheel
	@$(PIP) wheel --no-deps --wheel-dir .venv/wheel .
	@rm -rf build
	@touch $@

# Dependencies first, pinned; then the project alone, since an unchanged version number hides changed sources from pip.
.venv/.installed-wheel: .venv/.installed-torch .venv/.built-wheel
	@echo 'Install: fedrelease and what it needs'
	@$(PIP) install -c constraints.txt $(WHEEL)
	@$(PIP) install --force-reinstall --no-deps $(WHEEL)
	@touch $@

.venv/.installed-test: .venv/.installed-wheel
	@echo 'Install: what the tests need'
	@$(PIP) install -c constraints.txt "$$(echo $(WHEEL))[test]"
	@touch $@

.venv/.installed-bench: .venv/.installed-wheel
	@echo 'Install: Ray, for the benchmark'
	@$(PIP) install -c constraints.txt "$$(echo $(WHEEL))[ray]"
	@touch $@
