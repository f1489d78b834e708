# One command per habit. A target makes .venv when it is needed and is quick when it exists.
#   VENV=none PYTHON=python3 make bench   uses the interpreter at hand and installs nothing (clusters, containers).
PYTHON ?= python3
VENV ?= .venv
RESULTS ?= results

ifeq ($(VENV),none)
run := PYTHONPATH=$(CURDIR) $(PYTHON)
installed-run:
installed-test:
installed-lint:
else
run := $(VENV)/bin/python
installed-run: $(VENV)/.installed-run
installed-test: $(VENV)/.installed-test
installed-lint: $(VENV)/.installed-lint
endif

.PHONY: bench bench-harness bench-load bench-frameworks test test-gpu test-all check lint docs clean installed-run installed-test installed-lint

bench: installed-run  ## measure what is not yet measured of the reference matrix and write the report; all of it: FLAGS=--no-resume
	# Exit code 3 says that some cell did not end ok (DeepSpeed may be missing): the others are reported all the same.
	$(run) -m scalebench run --config bench.toml --results $(RESULTS) $(FLAGS) || [ $$? -eq 3 ]
	$(run) -m scalebench report --results $(RESULTS)

bench-harness: installed-test  ## what the harness costs beside a hand-written torchrun script; on a quiet machine
	$(run) -m tests.benchmarks.harness_cost --in-process
	$(run) -m tests.benchmarks.harness_cost
	$(run) -m tests.benchmarks.startup
	$(run) -m tests.benchmarks.sweep_overhead
	$(run) -m tests.benchmarks.meters

bench-load: installed-test  ## whether runs beside a busy program are flagged, and quiet ones not; on a quiet machine
	$(run) -m tests.benchmarks.competing_load

bench-frameworks: installed-test  ## what Lightning's and Accelerate's wrappers cost over DDP itself; on a quiet machine
	$(run) -m tests.benchmarks.framework_cost

test: installed-test  ## everything that two cores finish in a quarter of an hour
	$(run) -m pytest -m "not slow"

test-gpu: installed-test  ## the tests that need a GPU, which no other target sees; docs/gpu.md has the rest for GPUs
	$(run) -m pytest -m gpu

test-all: installed-test  ## the long studies too
	$(run) -m pytest

check: lint test  ## what CI would say

lint: installed-lint
	$(run) -m ruff check .
	$(run) -m ruff format --check .
	$(run) -m mypy

docs: installed-run  ## write docs/strategies.md from the code that it describes
	$(run) -m scalebench list --markdown > docs/strategies.md

clean:
	rm -rf .venv build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed-run

$(VENV)/.installed-lint: $(VENV)/bin/python pyproject.toml constraints.txt
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[test,lint]'
	@touch $@ $(VENV)/.installed-run $(VENV)/.installed-test
