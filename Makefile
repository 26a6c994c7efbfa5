# Every target makes the environment it needs by itself: CPython >= 3.10, make and pip suffice.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check
USE := $(VENV)/.for-use
WORK := $(VENV)/.for-work
BENCHMARKS := $(wildcard benchmarks/*.py benchmarks/*/*.py)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-gpu lint docs bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       fit a family of three small models on the CPU and write runs/demo"
	@echo "make test       lint, type check and run the tests"
	@echo "make test-slow  run the tests that take longer"
	@echo "make test-gpu   run the tests that need a CUDA device"
	@echo "make lint       lint, check the formatting and check types"
	@echo "make docs       build the pages into site/"
	@echo "make bench      run every benchmark"
	@echo "make clean      remove caches and built files; keeps .venv and runs"

demo: $(USE)
	OMP_NUM_THREADS=1 $(VENV)/bin/sartor fit --out runs/demo --overwrite

test: $(WORK)
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n logical --dist loadfile

test-slow: $(WORK)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m slow

test-gpu: $(WORK)
	$(VENV)/bin/python -m pytest -m gpu

lint: $(WORK)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

docs: $(WORK)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

bench: $(WORK)
	set -e; for script in $(BENCHMARKS); do $(VENV)/bin/python $$script; done

clean:
	rm -rf build dist site src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Where ensurepip is missing (Debian without python3-venv), pip puts itself into the environment.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("sartor needs Python 3.10 or newer, this is %d.%d; run make PYTHON=/path/to/python3." % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv --clear $(VENV) || { \
		$(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip install --quiet --target "$$($@ -c 'import site; print(site.getsitepackages()[0])')" pip; }

$(USE): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing sartor and what it needs into $(VENV); the first time takes some minutes."
	$(PIP) --quiet 'pip>=23.1'
	$(PIP) -c constraints.txt -e '.[all]'
	@touch $@

$(WORK): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing sartor and what its tests need into $(VENV); the first time takes some minutes."
	$(PIP) --quiet 'pip>=23.1'
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@ $(USE)
