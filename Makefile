# SPDX-License-Identifier: Apache-2.0
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CORES := $(shell nproc)
# One BLAS thread a process: the project's own threads go over universes.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.PHONY: help demo test test-deploy matrix bench docs check clean

help: ## this list
	@sed -n 's/^\([a-z][a-z0-9.% -]*\):.*## /\1:/p' $(MAKEFILE_LIST) | awk -F: '{ printf "  make %-10s %s\n", $$1, $$2 }'

demo: $(VENV)/serve ## start the real Triton and estimate 2,000 universes; RETURNS=my.parquet takes your own panel
	$(BIN)/python benchmarks/demo.py $(if $(RETURNS),--returns $(RETURNS))

test: check $(VENV)-deploy/done $(VENV)-deploy/browser $(VENV)-numpy2/done ## checkers, then every test; then the array code once more on NumPy 2
	$(BIN)/python -m sigmahat_kernels.lanes
	$(BIN)/python -m pytest -n $(CORES) --dist worksteal -m "not live and not server"
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile -m "server and not live"
	$(VENV)-numpy2/bin/python -m pytest -n $(CORES) --dist worksteal tests/kernels tests/client

test-deploy: $(VENV)/dev $(VENV)-deploy/done ## the chart and its kin alone, and live: an image, Envoy and Prometheus
	$(BIN)/python -m pytest tests/cluster

# One virtual environment a version, so that none overwrites another's: a CI job is one of these, `make test-3.12`.
matrix: test-3.11 test-3.12 ## the same on every Python that is supported, each with NumPy 1.26 and 2

test-3.%: ## the same on one Python, as in make test-3.12
	$(MAKE) test PYTHON=python3.$* VENV=.venv-3.$*

bench: $(VENV)/dev ## ratios to LAPACK and scikit-learn on this machine, into benchmarks/results/cpu.json
	$(BIN)/python -m benchmarks.speed.cpu

docs: $(VENV)/dev ## the documentation as a site, into out/docs
	$(BIN)/python -m sphinx -W --keep-going -q docs out/docs
	@echo "out/docs/index.html"

check: $(VENV)/dev ## ruff and mypy alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v in ((3, 11), (3, 12)) else f"sigmahat needs Python 3.11 or 3.12, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/serve: $(VENV)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[serve]'
	touch $@

$(VENV)/dev: $(VENV)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)-numpy2/done: pyproject.toml constraints-numpy2.txt
	$(PYTHON) -m venv $(VENV)-numpy2
	$(VENV)-numpy2/bin/pip install --quiet --constraint constraints-numpy2.txt --editable '.[local]' numpy hypothesis pytest pytest-timeout pytest-xdist scikit-learn
	touch $@

$(VENV)-deploy/done: constraints-deploy.txt tests/cluster/install_tools.py
	$(PYTHON) -m venv $(VENV)-deploy
	$(VENV)-deploy/bin/pip install --quiet --no-deps --requirement constraints-deploy.txt
	$(VENV)-deploy/bin/python tests/cluster/install_tools.py
	touch $@

$(VENV)-deploy/browser: $(VENV)-deploy/done tests/deploy/report/install_chromium.py
	$(VENV)-deploy/bin/python tests/deploy/report/install_chromium.py
	touch $@

clean: ## remove all virtual environments and results of the demo
	rm -rf .venv .venv-* out
