PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: run install test-install test check format soak bench bench-tables bench-fleet bench-sb3 bench-minatar lock clean

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

test: check  ## Everything that must hold; some twenty minutes on two cores.
	$(BIN)/python -m compileall -q src tests  # the tests' many processes import them, maybe where they may not write bytecode
	$(PYTEST) -m "not soak" --numprocesses 2 --dist worksteal

soak: test-install  ## The slow proofs, in full.
	$(PYTEST) -m "soak and not alone" --timeout=3600 --numprocesses 2
	$(PYTEST) -m "soak and alone" --timeout=3600
	$(PYTEST) tests/backends/test_ray_recovery.py tests/backends/test_group_failures.py

bench: test-install .venv-bench/installed  ## Every figure of docs/benchmarks.md but those of bench-tables, bench-fleet, bench-sb3 and bench-minatar.
	-$(BIN)/python benchmarks/update.py
	-.venv-bench/bin/python benchmarks/replay_against_cpprb.py
	-$(BIN)/python benchmarks/defaults.py
	-$(BIN)/python benchmarks/memory.py

bench-tables: test-install  ## The figures of tables in docs/benchmarks.md; needs gcc.
	-$(BIN)/python benchmarks/tables_speed.py
	-$(BIN)/python benchmarks/tables_parallel.py
	-$(BIN)/python benchmarks/tables_error.py
	-$(BIN)/python benchmarks/tables_python.py
	-$(BIN)/python benchmarks/tables_memory.py
	-$(BIN)/python benchmarks/tables_start.py
	-$(BIN)/python benchmarks/tables_ray.py
	-$(BIN)/mpiexec --allow-run-as-root --oversubscribe -n 2 $(BIN)/python benchmarks/tables_mpi.py

bench-fleet: test-install  ## The figures of several workers of networks in docs/benchmarks.md; some hours on two cores.
	-$(BIN)/python benchmarks/ape_x_data_path.py threads
	-$(BIN)/python benchmarks/ape_x_data_path.py processes
	-$(BIN)/python benchmarks/ape_x_data_path.py ray
	-$(BIN)/python benchmarks/agents_together.py
	-$(BIN)/python benchmarks/fleet_staleness.py
	-$(BIN)/python benchmarks/fleet_sleeping.py
	-$(BIN)/python benchmarks/fleet_burning.py
	-$(BIN)/python benchmarks/fleet_minatar.py
	-$(BIN)/python benchmarks/fleet_against_serial.py
	-$(BIN)/python benchmarks/fleet_memory.py
	-$(BIN)/python benchmarks/fleet_orphans.py
	-$(BIN)/python benchmarks/cart_pole_seeds.py
	-$(BIN)/python benchmarks/cart_pole_seeds.py --backends processes ray --seeds 0 1 2

bench-minatar: test-install
	$(BIN)/python benchmarks/minatar.py

bench-sb3: install .venv-sb3/installed  ## The same DQN here and in Stable-Baselines3; fails below three times as fast.
	$(BIN)/python benchmarks/against_sb3.py .venv-sb3/bin/python 3

.venv-sb3/installed: benchmarks/requirements-sb3.lock
	$(PYTHON) -m venv .venv-sb3
	.venv-sb3/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements-sb3.lock
	touch $@

.venv-bench/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check --requirement requirements.lock cpprb==11.0.0
	.venv-bench/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

lock: ## Writes the lock files anew from the newest releases that pyproject.toml allows.
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet torch==2.13.0 && .venv-lock/bin/pip install --quiet .
	.venv-lock/bin/pip freeze --exclude qfleet | sed 's/+cpu$$//' > requirements.lock
	.venv-lock/bin/pip install --quiet ".[all]" --group dev
	.venv-lock/bin/pip freeze --exclude qfleet | sed 's/+cpu$$//' > requirements-test.lock
	rm -rf .venv-lock

format: test-install
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* build dist
