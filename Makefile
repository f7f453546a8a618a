PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: run install test-install test check format soak bench bench-sb3 lock clean

run: install  ## Train CartPole-v1 with defaults, from nothing but Python and make.
	$(BIN)/qfleet train CartPole-v1

install: .venv/installed
test-install: .venv/installed-test

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; this is " + sys.version.split()[0] + ". Say which: make run PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python requirements.lock pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

.venv/installed-test: .venv/bin/python requirements-test.lock pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-test.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@ .venv/installed

check: test-install  ## Static checks.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: check  ## Everything that must hold, in at most ten minutes on two cores.
	$(PYTEST) -m "not soak"

soak: test-install  ## The slow proofs, in full.
	$(PYTEST) -m soak --timeout=3600

format: test-install
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* build dist
