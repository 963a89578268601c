# SPDX-License-Identifier: Apache-2.0
PYTHON ?= python3
BIN := .venv/bin
# One BLAS thread a process: the project's own threads go over universes.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.PHONY: demo test check bench clean

demo: .venv/serve ## start the real Triton and estimate 2,000 universes; RETURNS=my.parquet takes your own panel
	$(BIN)/python benchmarks/demo.py $(if $(RETURNS),--returns $(RETURNS))

test: check .venv-numpy2/done ## checkers, then every test; then the array code once more on NumPy 2
	$(BIN)/python -m pytest
	.venv-numpy2/bin/python -m pytest tests/kernels tests/client

bench: .venv/dev ## ratios to LAPACK and scikit-learn on this machine, into benchmarks/results/cpu.json
	$(BIN)/python -m benchmarks.speed.cpu

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v in ((3, 11), (3, 12)) else f"sigmahat needs Python 3.11 or 3.12, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/serve: .venv/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[serve]'
	touch $@

.venv/dev: .venv/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv-numpy2/done: pyproject.toml constraints-numpy2.txt
	$(PYTHON) -m venv .venv-numpy2
	.venv-numpy2/bin/pip install --quiet --constraint constraints-numpy2.txt --editable '.[cli]' numpy onnxruntime hypothesis pytest pytest-timeout scikit-learn
	touch $@

clean:
	rm -rf .venv .venv-numpy2 out
